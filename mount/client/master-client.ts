import type { Address } from "../../common/address.ts";
import { assert } from "../../common/assert.ts";
import { Backoff } from "../../common/backoff.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { Tasks } from "../../common/tasks.ts";
import { type Connection, Handlers } from "../../protocol/connection.ts";
import { type Connect, dial } from "../../protocol/dial.ts";
import type { Ino, SessionId } from "../../protocol/id.ts";
import { cacheLeaseMs, sessionLeaseMs } from "../../protocol/limits.ts";
import type { Method, RequestOf, Sequence } from "../../protocol/method.ts";
import { lockReady } from "../../protocol/methods/lock.ts";
import { invalidate, recallTail } from "../../protocol/methods/namespace.ts";
import {
  closeSession,
  flushSession,
  openSession,
  renewSession,
} from "../../protocol/methods/session.ts";
import { StatusError, statusOf, statusRetry } from "../../protocol/status.ts";

/** Between attempts of a request that can succeed later. */
const retryFirstMs = 20;
const retryMostMs = 2_000;
/**
 * A request is sent again when its answer takes longer: the reply cache answers it if it was done.
 */
const attemptMs = 30_000;
/** The master is asked this often if nothing else is asked. */
const renewMs = 3_000;
/** How often it is looked at whether the master still answers. */
const watchMs = 500;
/** After an answer, the session lives at least this long: the lease began after the question. */
const aliveMs = sessionLeaseMs - 5_000;
assert(renewMs * 3 < cacheLeaseMs, "a renewal may be late by another before caches are lost");
assert(cacheLeaseMs < aliveMs, "what is cached is dropped before the session can end");

/** What the rest of the mount does about the master's messages. */
export interface MasterHooks {
  /** Others have changed these. Resolves when nothing is answered from what was cached of them. */
  onInvalidate: (changes: RequestOf<typeof invalidate>) => Promise<void>;
  /**
   * The connection is lost: what others change is not heard of any more. Until it resolves, no
   * request is sent over the next one.
   */
  onDisconnect: () => Promise<void>;
  /**
   * A session is open over this connection, and no request has been sent over it yet. `resumed`
   * false: it is a new one, and the one before, if there was one, is lost.
   */
  onSession: (connection: Connection, resumed: boolean) => Promise<void>;
  /** Those who wait for a lock under these tickets should ask again. */
  onLockReady: (tickets: readonly number[]) => void;
  /** Send what is unwritten, and commit it. */
  onFlush: () => Promise<void>;
  /** Another mount wants the tail of a file: as `recallTail` in the protocol says. */
  onRecall: (ino: Ino, number: number) => Promise<void>;
  /** What is open, to be told when the session goes on. */
  opens: () => Ino[];
}

interface MasterClientOptions extends MasterHooks {
  address: Address;
  connect: Connect;
  /** For the master's status: where this mount is. */
  mountpoint: string;
  name: string;
  /** Made at random by this mount: with it, and only with it, its session can be resumed. */
  secret: string;
  /** Give up on a request after this long; undefined: wait for the master for ever (hard). */
  timeoutMs: number | undefined;
  clock: Clock;
  log: Log;
  tasks: Tasks;
  random: () => number;
}

interface Session {
  id: SessionId;
  connection: Connection;
}

/**
 * The mount's session with the master. Requests wait while the master is away, are sent again when
 * it is back, and happen once (P6, P7): a mutation keeps its number for as long as the session
 * lives.
 */
export class MasterClient {
  cluster = "";
  chunkBytes = 0;
  readonly #options: MasterClientOptions;
  #session: Session | undefined;
  #resume: SessionId | undefined;
  #ready = newSignal();
  #numbers = new Numbers();
  /** When the latest question was asked that this session has had an answer to. */
  #heardMs = -Infinity;
  /** Resolves when what was cached under the last connection has been dropped. */
  #dropped: Promise<void> = Promise.resolve();

  constructor(options: MasterClientOptions) {
    this.#options = options;
  }

  /**
   * Connects, or rejects with the reason; afterwards the connection is kept up in the background.
   */
  async start(): Promise<void> {
    await this.#open();
    this.#options.tasks.run("master-connection", () => this.#keepConnected());
    this.#options.tasks.every("renew", renewMs, async () => {
      if (!this.#session || this.believesForMs > cacheLeaseMs - renewMs / 3) return;
      await this.#send(this.#session, renewSession, {}, undefined).catch(() => undefined);
    });
    this.#options.tasks.every("watch", watchMs, () => {
      if (this.believesForMs === 0) {
        this.#session?.connection.close(`no answer in ${cacheLeaseMs / 1000} s`);
      }
      return Promise.resolve();
    });
  }

  async #keepConnected(): Promise<void> {
    const { clock, log, tasks, random } = this.#options;
    const backoff = new Backoff({ firstMs: 50, mostMs: 2_000, random });
    while (!tasks.signal.aborted) {
      if (this.#session && !this.#session.connection.closed) {
        await closedOrAborted(this.#session.connection, tasks.signal);
        backoff.reset();
        continue;
      }
      try {
        await this.#open();
        log.event("master.connected");
      } catch (error) {
        log.warn("master.unreachable", { why: error instanceof Error ? error.message : "" });
        await sleep(clock, backoff.next(), tasks.signal);
      }
    }
  }

  /**
   * True if the session cannot have ended: what the master keeps for it, it has given to nobody
   * else. By this machine's clock, which also runs while this program is stopped.
   */
  get isAlive(): boolean {
    return this.#options.clock.nowMs() - this.#heardMs < aliveMs;
  }

  /** Resolves when the session is known to be alive, or another has been opened. */
  async renewed(): Promise<void> {
    await this.read(renewSession, {});
  }

  /**
   * How much longer what was told by the master can be believed if it says nothing more: it waits
   * that long for a mount that it cannot tell of a change. 0: no more.
   */
  get believesForMs(): number {
    if (!this.#session || this.#session.connection.closed) return 0;
    return Math.max(0, this.#heardMs + cacheLeaseMs - this.#options.clock.nowMs());
  }

  async #open(): Promise<void> {
    await this.#dropped;
    const { address, connect, clock, log, mountpoint, name, opens, secret, onSession } =
      this.#options;
    const { connection, cluster } = await dial({
      address,
      connect,
      role: "mount",
      name,
      cluster: this.cluster,
      handlers: this.#handlers(),
      clock,
      log,
    });
    const askedMs = clock.nowMs();
    const reply = await connection
      .call(openSession, {
        mountpoint,
        secret,
        opens: opens(),
        ...(this.#resume === undefined ? {} : { resume: this.#resume }),
      })
      .catch((error: unknown) => {
        connection.close("no session");
        throw error;
      });
    if (!reply.resumed) this.#numbers = new Numbers();
    if (!reply.resumed && this.#resume !== undefined) log.warn("session.lost");
    this.cluster = cluster;
    this.chunkBytes = reply.chunkBytes;
    this.#resume = reply.session;
    await onSession(connection, reply.resumed).catch((error: unknown) => {
      connection.close("the session could not go on");
      throw error;
    });
    this.#session = { id: reply.session, connection };
    this.#heardMs = Math.max(this.#heardMs, askedMs);
    connection.onClose(() => this.#lost(connection));
    this.#ready.fire();
  }

  #lost(connection: Connection): void {
    if (this.#session?.connection !== connection) return;
    this.#session = undefined;
    this.#ready = newSignal();
    this.#dropped = this.#options.onDisconnect();
  }

  #handlers(): Handlers {
    const { onInvalidate, onFlush, onRecall, onLockReady } = this.#options;
    return new Handlers()
      .serve(invalidate, async (changes) => {
        await onInvalidate(changes);
        return {};
      })
      .serve(lockReady, ({ tickets }) => {
        onLockReady(tickets);
        return {};
      })
      .serve(recallTail, async ({ ino, number }) => {
        await onRecall(ino, number);
        return {};
      })
      .serve(flushSession, async () => {
        await onFlush();
        return {};
      });
  }

  /**
   * A request that changes nothing. Waits and tries again as `Retry` in protocol/status.ts says.
   * Parameters that are a function are made anew for each attempt, right before it is sent.
   */
  read<Request, Reply>(
    method: Method<Request, Reply>,
    params: Request | (() => Request),
    signal?: AbortSignal,
  ): Promise<Reply> {
    const make = typeof params === "function" ? (params as () => Request) : () => params;
    return this.#persistently((session) => this.#send(session, method, make(), signal), signal);
  }

  /** A request that changes something, and does so once. */
  async mutate<Request extends Sequence, Reply>(
    method: Method<Request, Reply>,
    params: Omit<Request, "seq" | "acked">,
    signal?: AbortSignal,
  ): Promise<Reply> {
    let numbers = this.#numbers;
    let seq = numbers.take();
    try {
      return await this.#persistently((session) => {
        // A new session knows nothing of the old one's requests: this one gets a number of its own.
        if (numbers !== this.#numbers) {
          numbers = this.#numbers;
          seq = numbers.take();
        }
        const request = { ...params, seq, acked: numbers.acked() };
        return this.#send(session, method, request as unknown as Request, signal);
      }, signal);
    } finally {
      numbers.done(seq);
    }
  }

  async #send<Request, Reply>(
    session: Session,
    method: Method<Request, Reply>,
    params: Request,
    signal: AbortSignal | undefined,
  ): Promise<Reply> {
    const options = { deadlineMs: this.#options.timeoutMs ?? attemptMs };
    const askedMs = this.#options.clock.nowMs();
    try {
      const reply = await session.connection.call(
        method,
        params,
        signal ? { ...options, signal } : options,
      );
      if (session === this.#session) this.#heardMs = Math.max(this.#heardMs, askedMs);
      return reply;
    } catch (error) {
      if (statusOf(error) === "session-lost") session.connection.close("the session is lost");
      throw error;
    }
  }

  async #persistently<Reply>(
    attempt: (session: Session) => Promise<Reply>,
    signal: AbortSignal | undefined,
  ): Promise<Reply> {
    const { clock, random, timeoutMs } = this.#options;
    const startedMs = clock.nowMs();
    const backoff = new Backoff({ firstMs: retryFirstMs, mostMs: retryMostMs, random });
    for (;;) {
      try {
        return await attempt(await this.#connected(startedMs, signal));
      } catch (error) {
        if (statusRetry(statusOf(error)) !== "later") throw error;
        if (this.#options.tasks.signal.aborted) throw error;
        if (timeoutMs !== undefined && clock.nowMs() - startedMs > timeoutMs) throw error;
        await sleep(clock, backoff.next(), signal);
        if (signal?.aborted) throw interrupted();
      }
    }
  }

  /** The session, as soon as there is one. Soft mounts give up after their time-out. */
  async #connected(startedMs: number, signal: AbortSignal | undefined): Promise<Session> {
    const { clock, timeoutMs, tasks } = this.#options;
    while (!this.#session) {
      if (tasks.signal.aborted) throw new StatusError("io-error", "the mount is closing");
      const leftMs = timeoutMs === undefined ? 60_000 : timeoutMs - (clock.nowMs() - startedMs);
      if (leftMs <= 0) throw new StatusError("deadline", "the master is not reachable");
      const abort = new AbortController();
      const onAbort = (): void => abort.abort();
      signal?.addEventListener("abort", onAbort, { once: true });
      await Promise.race([this.#ready.fired, sleep(clock, leftMs, abort.signal)]);
      abort.abort();
      signal?.removeEventListener("abort", onAbort);
      if (signal?.aborted) throw interrupted();
    }
    return this.#session;
  }

  /** Ends the session for good. */
  async close(): Promise<void> {
    const session = this.#session;
    if (!session) return;
    await session.connection.call(closeSession, {}, { deadlineMs: 2_000 }).catch(() => undefined);
    session.connection.close("unmounted");
  }
}

/** The numbers of one session's mutations. */
class Numbers {
  #next = 1;
  readonly #outstanding = new Set<number>();

  take(): number {
    const seq = this.#next;
    this.#next += 1;
    this.#outstanding.add(seq);
    return seq;
  }

  done(seq: number): void {
    this.#outstanding.delete(seq);
  }

  /**
   * All up to this number have been answered. Numbers are taken in order: the first is the lowest.
   */
  acked(): number {
    for (const lowest of this.#outstanding) return lowest - 1;
    return this.#next - 1;
  }
}

function interrupted(): StatusError {
  return new StatusError("interrupted", "interrupted while waiting for the master");
}

interface Signal {
  fired: Promise<void>;
  fire(): void;
}

function newSignal(): Signal {
  let fire = (): void => undefined;
  const fired = new Promise<void>((resolve) => {
    fire = resolve;
  });
  return { fired, fire: () => fire() };
}

function closedOrAborted(connection: Connection, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      signal.removeEventListener("abort", done);
      resolve();
    };
    connection.onClose(done);
    signal.addEventListener("abort", done, { once: true });
    if (signal.aborted) done();
  });
}
