import { constants } from "node:os";
import type { Clock } from "../../../common/clock.ts";
import type { Log } from "../../../common/log.ts";
import { UserError } from "../../../common/program.ts";
import { StatusError, statusOf } from "../../../protocol/status.ts";
import type { FileSystem } from "../filesystem.ts";
import { KernelCacheControl } from "./caches.ts";
import type { Channel } from "./channel.ts";
import { type Agreement, negotiate } from "./init.ts";
import { opcodes } from "./opcodes.ts";
import type { SessionOptions } from "./options.ts";
import { OpenTable } from "./open-table.ts";
import { type Handler, handlersFor } from "./operations/all.ts";
import { Busy, References } from "./references.ts";
import { errnoOf, Replies, type Unique } from "./reply.ts";
import { Request, uniqueKey } from "./request.ts";
import { checkNode, type Session } from "./session.ts";
import { batchForgetIn, forgetIn, forgetOne, inHeader, interruptIn } from "./structures.ts";

const { EAGAIN, ENODEV, ENOENT, ENOSYS, EPROTO } = constants.errno;

const headerBytes = inHeader.byteLength;

interface DispatcherOptions {
  fileSystem: FileSystem;
  channel: Channel;
  clock: Clock;
  log: Log;
  /** What the user has asked for, as mount options. */
  session: SessionOptions;
}

/**
 * Serves a mount: requests from the channel become calls of the filesystem, and their outcomes
 * answers. Every request is answered exactly once, whatever it consists of; a message without a
 * readable header ends the connection, as nothing after it could be trusted.
 */
export class Dispatcher {
  readonly #options: DispatcherOptions;
  readonly #replies: Replies;
  readonly #references: References;
  readonly #open: OpenTable;
  readonly #names = new Busy();
  readonly #pages = new Busy();
  /** Those that an interrupt may be for. */
  readonly #underWay = new Map<number | bigint, Request>();
  #session: Session | undefined;
  /** By the number of the opcode. */
  #handlers: readonly (Handler | undefined)[] = [];
  #ended = false;
  #becomeReady: (agreement: Agreement) => void = () => undefined;
  #becomeImpossible: (error: Error) => void = () => undefined;
  #becomeGone: () => void = () => undefined;
  /** Resolves when FUSE_INIT has been answered; rejects if that is impossible. */
  readonly ready: Promise<Agreement>;
  /** Resolves when the mount is gone and all that it held has been given back. */
  readonly ended: Promise<void>;

  constructor(options: DispatcherOptions) {
    this.#options = options;
    const { channel, session } = options;
    // What is answered after the end was not delivered: it is given back at once.
    const reply: Channel["reply"] = (parts) => (this.#ended ? -ENODEV : channel.reply(parts));
    this.#replies = new Replies({ reply }, session);
    this.#references = new References(options.fileSystem);
    this.#open = new OpenTable(options.fileSystem);
    this.ready = new Promise((resolve, reject) => {
      this.#becomeReady = resolve;
      this.#becomeImpossible = reject;
    });
    this.ready.catch(() => undefined); // Nobody may have asked.
    this.ended = new Promise((resolve) => (this.#becomeGone = resolve));
  }

  /** For tests: what the kernel holds. */
  get held(): { nodes: number; open: number; underWay: number; busy: number } {
    const busy = this.#names.size + this.#pages.size;
    const nodes = this.#references.size;
    return { nodes, open: this.#open.size, underWay: this.#underWay.size, busy };
  }

  start(): void {
    this.#options.channel.start({
      onRequest: (message) => this.#receive(message),
      onEnd: (error) => this.#end(error),
    });
  }

  #receive(message: Buffer): void {
    if (this.#ended) return;
    if (message.length < headerBytes) {
      this.#end(new Error(`a message of ${message.length} bytes has no header`));
      return;
    }
    const code = inHeader.opcode.get(message, 0);
    if (inHeader.len.get(message, 0) !== message.length) {
      this.#refuse(message, code, "its length is not what its header says");
      return;
    }
    switch (code) {
      case opcodes.FORGET.code:
        return this.#forget(message);
      case opcodes.BATCH_FORGET.code:
        return this.#forgetBatch(message);
      case opcodes.INTERRUPT.code:
        return this.#interrupt(message);
      case opcodes.INIT.code:
        return this.#initialize(message);
    }
    const session = this.#session;
    if (session === undefined) {
      this.#refuse(message, code, "it came before FUSE_INIT");
      return;
    }
    const handler = this.#handlers[code];
    if (handler === undefined) {
      this.#replies.error(uniqueOf(message), ENOSYS);
      return;
    }
    if (message.length < headerBytes + handler.row.request.byteLength) {
      this.#refuse(message, code, "it is too short");
      return;
    }
    this.#run(session, handler, new Request(handler.name, handler.row, message));
  }

  #run(session: Session, handler: Handler, request: Request): void {
    const { operation, row } = handler;
    if (this.#underWay.has(request.key)) {
      this.#refuse(request.message, row.code, "its number is that of another one under way");
      return;
    }
    let outcome: unknown;
    try {
      if (row.anyNode !== true) checkNode(session, request.node);
      outcome = operation.start(request);
    } catch (error) {
      this.#fail(handler, request, error);
      return;
    } finally {
      request.detach();
    }
    if (!(outcome instanceof Promise)) {
      this.#finish(handler, request, outcome);
      return;
    }
    this.#begin(session, request);
    void this.#answer(handler, request, outcome);
  }

  async #answer(handler: Handler, request: Request, outcome: Promise<unknown>): Promise<void> {
    let result: unknown;
    try {
      result = await outcome;
    } catch (error) {
      this.#settle(request);
      this.#fail(handler, request, error);
      this.#tellIdle(request);
      return;
    }
    this.#settle(request);
    this.#finish(handler, request, result);
    this.#tellIdle(request);
  }

  #begin({ caches }: Session, request: Request): void {
    this.#underWay.set(request.key, request);
    const { holds } = request.row;
    if (holds === "pages") this.#pages.begin(request.node);
    if (holds !== "names") return;
    this.#names.begin(request.node);
    caches.becameBusy(request.node);
    if (request.alsoHolds === 0) return;
    this.#names.begin(request.alsoHolds);
    caches.becameBusy(request.alsoHolds);
  }

  #settle(request: Request): void {
    this.#underWay.delete(request.key);
    const { holds } = request.row;
    if (holds === "pages") this.#pages.end(request.node);
    if (holds !== "names") return;
    this.#names.end(request.node);
    if (request.alsoHolds !== 0) this.#names.end(request.alsoHolds);
  }

  /** Called when the answer has been given: only then does the kernel let go of the pages. */
  #tellIdle({ node, row }: Request): void {
    if (row.holds === "pages" && !this.#pages.has(node)) this.#session?.caches.becameIdle(node);
  }

  #finish({ operation, row }: Handler, request: Request, result: unknown): void {
    if (row.changes === true) {
      this.#open.changed(request.node);
      if (request.alsoHolds !== 0) this.#open.changed(request.alsoHolds);
    }
    let sent: number;
    try {
      sent = operation.finish(request, result);
    } catch (error) {
      // What cannot be put into an answer: the kernel must not wait for ever.
      this.#logBug(request, error);
      sent = this.#replies.error(request, errnoOf("io-error"));
      operation.undo?.(request, result);
      return;
    }
    if (sent >= 0) return;
    this.#undelivered(request, sent);
    operation.undo?.(request, result);
  }

  #fail({ operation }: Handler, request: Request, error: unknown): void {
    const own = operation.fail?.(request, error);
    if (own !== undefined) return this.#undelivered(request, own);
    if (!(error instanceof StatusError)) this.#logBug(request, error);
    const status = statusOf(error);
    if (status === "protocol")
      this.#options.log.warn("fuse.malformed", { operation: request.name, error });
    this.#undelivered(request, this.#replies.error(request, errnoOf(status)));
  }

  /** Interrupted requests are no news; anything else the kernel should have taken. */
  #undelivered(request: Request, result: number): void {
    if (result >= 0 || result === -ENOENT || this.#ended) return;
    this.#options.log.warn("fuse.undelivered", { operation: request.name, errno: -result });
  }

  #logBug(request: Request, error: unknown): void {
    this.#options.log.error("fuse.bug", { operation: request.name, error });
  }

  /** Answers what has a header and nothing else that makes sense. */
  #refuse(message: Buffer, opcode: number, reason: string): void {
    this.#options.log.warn("fuse.malformed", { opcode, bytes: message.length, reason });
    this.#replies.error(uniqueOf(message), EPROTO);
  }

  #initialize(message: Buffer): void {
    const { code, request } = opcodes.INIT;
    if (message.length < headerBytes + request.byteLength)
      return this.#refuse(message, code, "it is too short");
    if (this.#session !== undefined) return this.#refuse(message, code, "it comes twice");
    const { fileSystem, channel, clock, log, session } = this.#options;
    const negotiation = negotiate(message, session);
    if (negotiation.outcome === "refused") {
      this.#replies.error(uniqueOf(message), EPROTO);
      this.#end(negotiation.error);
      return;
    }
    if (negotiation.outcome === "agreed") {
      const { agreement } = negotiation;
      const [open, references] = [this.#open, this.#references];
      const busy = { names: this.#names, pages: this.#pages };
      const environment = { channel, references, open, ...busy, clock, log };
      const caches = new KernelCacheControl(environment, agreement);
      const replies = this.#replies;
      this.#session = { fileSystem, replies, references, open, caches, agreement, log };
      this.#handlers = handlersFor(this.#session);
      fileSystem.mounted(caches);
    }
    this.#replies.data(uniqueOf(message), [negotiation.reply]);
    if (negotiation.outcome === "agreed") this.#becomeReady(negotiation.agreement);
  }

  #forget(message: Buffer): void {
    if (message.length < headerBytes + forgetIn.byteLength)
      return this.#ignore("FORGET", "it is too short");
    const node = inHeader.nodeid.get(message, 0);
    this.#takeBack(node, forgetIn.nlookup.get(message, headerBytes));
  }

  #forgetBatch(message: Buffer): void {
    const first = headerBytes + batchForgetIn.byteLength;
    const room = Math.floor((message.length - first) / forgetOne.byteLength);
    const count = room < 0 ? 0 : batchForgetIn.count.get(message, headerBytes);
    if (room < 0 || count > room) return this.#ignore("BATCH_FORGET", "it is too short");
    for (let i = 0; i < count; i += 1) {
      const at = first + i * forgetOne.byteLength;
      this.#takeBack(forgetOne.nodeid.get(message, at), forgetOne.nlookup.get(message, at));
    }
  }

  #takeBack(node: number, count: number): void {
    if (!this.#references.remove(node, count))
      this.#ignore("FORGET", `node ${node} has fewer references than ${count}`);
    this.#open.forgotten(node);
  }

  /** There is no answer to these, not even an error. */
  #ignore(operation: string, reason: string): void {
    this.#options.log.warn("fuse.malformed", { operation, reason });
  }

  /**
   * The request may have been answered by now, which is the end of it; or not have been read yet:
   * then EAGAIN lets the kernel send the interrupt again (Documentation/filesystems/fuse.rst).
   */
  #interrupt(message: Buffer): void {
    if (message.length < headerBytes + interruptIn.byteLength)
      return this.#refuse(message, opcodes.INTERRUPT.code, "it is too short");
    const low = interruptIn.uniqueLow.get(message, headerBytes);
    const high = interruptIn.uniqueHigh.get(message, headerBytes);
    const request = this.#underWay.get(uniqueKey(low, high));
    if (request === undefined) this.#replies.error(uniqueOf(message), EAGAIN);
    else request.interrupt();
  }

  /** The mount is gone, or cannot be served: gives back everything that the kernel held. */
  #end(error?: Error): void {
    if (this.#ended) return;
    this.#ended = true;
    const { log } = this.#options;
    if (error !== undefined) log.error("fuse.ended", { error });
    this.#becomeImpossible(
      error instanceof UserError ? error : new UserError("unmounted before it was served"),
    );
    this.#session?.caches.end();
    for (const request of this.#underWay.values()) request.interrupt();
    void this.#giveBack();
  }

  async #giveBack(): Promise<void> {
    const { fileSystem, channel, log } = this.#options;
    const { files, directories } = this.#open.removeAll();
    const released = [
      ...files.map((file) => fileSystem.release(file)),
      ...directories.map((file) => fileSystem.releasedir(file)),
    ];
    for (const outcome of await Promise.allSettled(released)) {
      if (outcome.status === "rejected") log.warn("fuse.release-failed", { error: outcome.reason });
    }
    this.#references.removeAll();
    await channel.close();
    this.#becomeGone();
  }
}

function uniqueOf(message: Buffer): Unique {
  return {
    uniqueLow: inHeader.uniqueLow.get(message, 0),
    uniqueHigh: inHeader.uniqueHigh.get(message, 0),
  };
}
