import type { Clock, Timer } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { decodeCbor, encodeCbor } from "./codec.ts";
import { deadlineMsDefault, inFlightMax, messageBytesMax, queuedBytesMax } from "./limits.ts";
import type { Method } from "./method.ts";
import { methodsByCode } from "./methods.ts";
import { type Status, StatusError, statusCode, statusFromCode, statusOf } from "./status.ts";

/**
 * Requests and replies over one transport, in both directions. A message is one CBOR array, the
 * envelope, and optionally a payload of raw bytes after it:
 *
 *   [0, id, method, deadline in ms, params]   request
 *   [1, id, result]                           reply
 *   [2, id, status, message, servers]         reply: it failed
 *   [3, id]                                   cancel: nobody waits for the reply any more
 *
 * Whatever a peer sends that is not of this form ends the connection (P9).
 */
const kind = { request: 0, result: 1, failure: 2, cancel: 3 } as const;

/** Carries whole messages, in order, to one peer. */
export interface Transport {
  /**
   * `parts` make one message: the envelope and, if there is one, the payload (not copied). `onSent`
   * is called once, when the system has taken the message or the transport has ended.
   */
  send(parts: readonly Buffer[], onSent?: () => void): void;
  /** Bytes accepted by `send` that the peer has not taken yet. */
  queuedBytes(): number;
  /** Idempotent. `reason` reaches the peer if it still listens. */
  close(reason: string): void;
  onMessage(listener: (parts: readonly Buffer[]) => void): void;
  /** Called once; nothing is delivered after it. */
  onClose(listener: (reason: string) => void): void;
}

export interface RequestContext {
  /** Empty if there was none. Aliases the message: copy what outlives the request. */
  readonly payload: Buffer;
  readonly connection: Connection;
  /** Aborts when the peer cancels or goes away, or the deadline passes. */
  readonly signal: AbortSignal;
}

/** A reply that has a payload. `onSent` is called once, when its memory is not needed any more. */
export class WithPayload<Reply> {
  readonly reply: Reply;
  readonly payload: Buffer;
  readonly onSent: (() => void) | undefined;

  constructor(reply: Reply, payload: Buffer, onSent?: () => void) {
    this.reply = reply;
    this.payload = payload;
    this.onSent = onSent;
  }
}

type Handler<Request, Reply> = (
  params: Request,
  context: RequestContext,
) => Promise<Reply | WithPayload<Reply>> | Reply | WithPayload<Reply>;

/** Which methods a program answers, and how. */
export class Handlers {
  readonly #byCode = new Map<number, Handler<unknown, unknown>>();

  serve<Request, Reply>(method: Method<Request, Reply>, handler: Handler<Request, Reply>): this {
    this.#byCode.set(method.code, handler as Handler<unknown, unknown>);
    return this;
  }

  find(code: number): Handler<unknown, unknown> | undefined {
    return this.#byCode.get(code);
  }
}

export interface CallOptions {
  payload?: Buffer;
  deadlineMs?: number;
  signal?: AbortSignal;
}

interface Waiting {
  method: Method;
  timer: Timer;
  settle(outcome: { reply: unknown; payload: Buffer } | Error): void;
}

const none = Buffer.alloc(0);

export class Connection {
  /** For logs: who is at the other end. */
  peerName: string;
  /** Requests that the peer may have unanswered. */
  inFlightMax = inFlightMax;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #log: Log;
  #handlers: Handlers;
  #nextId = 1;
  #closedFor: string | undefined;
  readonly #waiting = new Map<number, Waiting>();
  readonly #serving = new Map<number, AbortController>();
  readonly #closeListeners: ((reason: string) => void)[] = [];

  constructor(
    transport: Transport,
    options: { handlers: Handlers; clock: Clock; log: Log; peerName: string },
  ) {
    this.#transport = transport;
    this.#handlers = options.handlers;
    this.#clock = options.clock;
    this.#log = options.log;
    this.peerName = options.peerName;
    transport.onMessage((parts) => this.#receive(parts));
    transport.onClose((reason) => this.#ended(reason));
  }

  get closed(): boolean {
    return this.#closedFor !== undefined;
  }

  /** Requests of the peer that are being worked on. */
  get serving(): number {
    return this.#serving.size;
  }

  /** What this side answers from now on. */
  setHandlers(handlers: Handlers): void {
    this.#handlers = handlers;
  }

  onClose(listener: (reason: string) => void): void {
    if (this.#closedFor !== undefined) listener(this.#closedFor);
    else this.#closeListeners.push(listener);
  }

  close(reason: string): void {
    this.#transport.close(reason);
    this.#ended(reason);
  }

  async call<Request, Reply>(
    method: Method<Request, Reply>,
    params: Request,
    options: CallOptions = {},
  ): Promise<Reply> {
    return (await this.callForPayload(method, params, options)).reply;
  }

  /**
   * Sends a request and waits for its answer. Rejects with the `StatusError` of the other side, or
   * with `deadline`, `interrupted` (`signal`), `disconnected`, `overloaded` (the peer does not
   * read).
   */
  callForPayload<Request, Reply>(
    method: Method<Request, Reply>,
    params: Request,
    options: CallOptions = {},
  ): Promise<{ reply: Reply; payload: Buffer }> {
    if (this.#closedFor !== undefined) return Promise.reject(this.#disconnected());
    if (options.signal?.aborted) return Promise.reject(interrupted(method));
    // What the peer would close the connection for is not sent: trying again could not mend it.
    const wrong = method.checkRequest(params);
    if (wrong) return Promise.reject(new StatusError("invalid", `${method.name}: ${wrong}`));
    if (this.#transport.queuedBytes() > queuedBytesMax) {
      const message = `${this.peerName} is not reading: ${method.name} was not sent`;
      return Promise.reject(new StatusError("overloaded", message));
    }
    const id = this.#nextId;
    this.#nextId += 1;
    const deadlineMs = Math.ceil(options.deadlineMs ?? deadlineMsDefault);
    const envelope = encodeCbor([kind.request, id, method.code, deadlineMs, params]);
    return new Promise((resolve, reject) => {
      const giveUp = (error: StatusError): void => {
        if (!this.#waiting.has(id)) return;
        this.#send([encodeCbor([kind.cancel, id])]);
        settle(error);
      };
      const onAbort = (): void => giveUp(interrupted(method));
      const settle = (outcome: { reply: unknown; payload: Buffer } | Error): void => {
        this.#waiting.delete(id);
        timer.cancel();
        options.signal?.removeEventListener("abort", onAbort);
        if (outcome instanceof Error) reject(outcome);
        else resolve(outcome as { reply: Reply; payload: Buffer });
      };
      const timer = this.#clock.timer(deadlineMs, () =>
        giveUp(
          new StatusError(
            "deadline",
            `${this.peerName}: no answer to ${method.name} in ${deadlineMs} ms`,
          ),
        ),
      );
      options.signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiting.set(id, { method, timer, settle });
      this.#send(options.payload?.length ? [envelope, options.payload] : [envelope]);
    });
  }

  #send(parts: readonly Buffer[]): void {
    if (this.#closedFor === undefined) this.#transport.send(parts);
  }

  #disconnected(): StatusError {
    return new StatusError("disconnected", `${this.peerName}: ${this.#closedFor ?? "closed"}`);
  }

  #ended(reason: string): void {
    if (this.#closedFor !== undefined) return;
    this.#closedFor = reason;
    for (const waiting of [...this.#waiting.values()]) waiting.settle(this.#disconnected());
    for (const serving of this.#serving.values()) serving.abort();
    for (const listener of this.#closeListeners) listener(reason);
  }

  #receive(parts: readonly Buffer[]): void {
    try {
      this.#dispatch(parts);
    } catch (error) {
      const why = error instanceof StatusError ? error.message : "internal error";
      this.#log.warn("connection.refused", { peer: this.peerName, why, error });
      this.close(`protocol error: ${why}`);
    }
  }

  #dispatch(parts: readonly Buffer[]): void {
    const { value, rest } = decodeCbor(parts[0] ?? none);
    const payload = parts.length === 1 ? rest : joined([rest, ...parts.slice(1)]);
    if (!Array.isArray(value)) throw new StatusError("protocol", "the envelope is not an array");
    const [form, id, ...fields] = value as unknown[];
    if (typeof id !== "number") throw new StatusError("protocol", "the message has no id");
    switch (form) {
      case kind.request:
        return this.#request(id, fields, payload);
      case kind.result:
        return this.#result(id, fields, payload);
      case kind.failure:
        return this.#failure(id, fields);
      case kind.cancel:
        return this.#serving.get(id)?.abort();
      default:
        throw new StatusError("protocol", "unknown kind of message");
    }
  }

  #request(id: number, fields: unknown[], payload: Buffer): void {
    const [code, deadlineMs, params] = fields;
    const method = typeof code === "number" ? methodsByCode.get(code) : undefined;
    if (!method || typeof deadlineMs !== "number" || !(deadlineMs >= 0)) {
      throw new StatusError("protocol", `no such request: method ${String(code)}`);
    }
    const wrong = method.checkRequest(params);
    if (wrong) throw new StatusError("protocol", `${method.name}: ${wrong}`);
    if (this.#serving.has(id)) throw new StatusError("protocol", `request id ${id} is in use`);
    const handler = this.#handlers.find(method.code);
    if (!handler) {
      return this.#replyFailure(id, "protocol", `${method.name} is not served here, or not to you`);
    }
    if (this.#serving.size >= this.inFlightMax) {
      const message = `${this.inFlightMax} requests are under way already`;
      return this.#replyFailure(id, "overloaded", message);
    }
    void this.#serve({ id, method, handler, params, payload, deadlineMs });
  }

  async #serve(request: {
    id: number;
    method: Method;
    handler: Handler<unknown, unknown>;
    params: unknown;
    payload: Buffer;
    deadlineMs: number;
  }): Promise<void> {
    const { id, method } = request;
    const abort = new AbortController();
    this.#serving.set(id, abort);
    const timer = this.#clock.timer(Math.min(request.deadlineMs, 2 ** 31 - 1), () => abort.abort());
    abort.signal.addEventListener("abort", () => timer.cancel(), { once: true });
    try {
      const answer = await request.handler(request.params, {
        payload: request.payload,
        connection: this,
        signal: abort.signal,
      });
      const { reply, payload, onSent } =
        answer instanceof WithPayload ? answer : { reply: answer, payload: none };
      const envelope = encodeCbor([kind.result, id, reply]);
      this.#reply(payload.length > 0 ? [envelope, payload] : [envelope], onSent);
    } catch (error) {
      const status = statusOf(error);
      if (status === "internal") this.#log.error("request.failed", { method: method.name, error });
      const message = error instanceof StatusError ? error.message : "internal error";
      const servers = error instanceof StatusError ? error.servers : [];
      this.#replyFailure(id, status, message, servers);
    } finally {
      timer.cancel();
      this.#serving.delete(id);
    }
  }

  #replyFailure(
    id: number,
    status: Status,
    message: string,
    servers: readonly number[] = [],
  ): void {
    this.#reply([encodeCbor([kind.failure, id, statusCode(status), message, servers])]);
  }

  #reply(parts: readonly Buffer[], onSent?: () => void): void {
    const bytes = parts.reduce((sum, part) => sum + part.length, 0);
    if (bytes > messageBytesMax) {
      this.#log.error("reply.too-large", { peer: this.peerName, bytes });
      this.close("a reply was larger than a message can be");
    } else if (this.#transport.queuedBytes() > queuedBytesMax) {
      this.close("you do not read what you asked for");
    }
    if (this.#closedFor !== undefined) onSent?.();
    else this.#transport.send(parts, onSent);
  }

  #result(id: number, fields: unknown[], payload: Buffer): void {
    const waiting = this.#waiting.get(id);
    if (!waiting) return; // Cancelled, or its deadline has passed.
    const [reply] = fields;
    const wrong = waiting.method.checkReply(reply);
    if (wrong) throw new StatusError("protocol", `reply to ${waiting.method.name}: ${wrong}`);
    waiting.settle({ reply, payload });
  }

  #failure(id: number, fields: unknown[]): void {
    const [code, message, servers] = fields;
    if (typeof code !== "number" || typeof message !== "string" || !isNumbers(servers)) {
      throw new StatusError("protocol", "malformed failure");
    }
    this.#waiting.get(id)?.settle(new StatusError(statusFromCode(code), message, { servers }));
  }
}

function joined(parts: readonly Buffer[]): Buffer {
  const filled = parts.filter((part) => part.length > 0);
  return filled.length === 1 ? (filled[0] ?? none) : Buffer.concat(filled);
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => typeof item === "number");
}

function interrupted(method: { name: string }): StatusError {
  return new StatusError("interrupted", `${method.name} was interrupted`);
}
