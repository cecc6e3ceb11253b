import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { sharedAbort } from "../../common/shared-abort.ts";
import type { Connection } from "../../protocol/connection.ts";
import { type Ino, ino as toIno, type SessionId, sessionId } from "../../protocol/id.ts";
import { cacheLeaseMs, cacheMarginMs, sessionLeaseMs } from "../../protocol/limits.ts";
import type { RequestOf } from "../../protocol/method.ts";
import { invalidate } from "../../protocol/methods/namespace.ts";
import { flushSession, type openSession } from "../../protocol/methods/session.ts";
import { StatusError } from "../../protocol/status.ts";
import { type Committer, decodeReply, encodeReply, type Touched } from "../namespace/committer.ts";
import { discard, orphanKey } from "../namespace/ops/common.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey, numberKey } from "../store/bytes.ts";
import { Dropping } from "./dropping.ts";
import { Leases, type Told } from "./leases.ts";

/**
 * How long a change waits for another mount to drop what it has cached, before that one is cut off.
 */
const invalidateMs = 2_000;
/** How often a mount is looked at that is waited out. */
const waitOutStepMs = 200;
/** How long a snapshot waits for a mount to send what it holds unwritten. */
const flushMs = 15_000;
/** Replies forgotten in one transaction: the rest follows with the next. */
const forgetMax = 256;

export interface Session {
  readonly id: SessionId;
  readonly secret: string;
  /** Empty: not a mount, but a command of an operator. */
  readonly mountpoint: string;
  /** host and pid of the mount, for people. */
  name: string;
  connection: Connection | undefined;
  /** On the monotonic clock: when its connection was last there. */
  lastSeenMs: number;
  readonly opens: Set<Ino>;
  readonly leases: Leases;
  /** What it has been told of, and may not have dropped yet. */
  readonly dropping: Dropping;
  /** Without a connection: until when it may believe what it has cached. */
  believesUntilMs: number;
  /** From before a restart of the master: nobody knows what it has cached. */
  believesAnything: boolean;
  /** Aborts when it has a connection again, and so has dropped everything. */
  back: AbortController;
  /** Those of `opens` that it may have grants to write for. */
  readonly writes: Set<Ino>;
  /** Replies up to this number are forgotten. */
  forgotten: number;
  /** As `forgotten`, in the commit that is being made. */
  forgetting: { group: number; upTo: number };
}

/** The mounts: what each has open, and how to reach it. */
export class Sessions {
  readonly #sessions = new Map<SessionId, Session>();
  readonly #byConnection = new Map<Connection, Session>();
  /** Sessions from before a restart of the master that have not come back yet. */
  readonly #awaited = new Set<SessionId>();
  /** How many sessions have an inode open. */
  readonly #openCounts = new Map<Ino, number>();
  readonly #committer: Committer;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #uuid: () => string;
  /** Called when the end of a session is on disk. */
  onEnd: (session: SessionId) => void = () => undefined;
  /** A session that had files open for writing has run out: its grants may still be used. */
  lostWriters = false;
  /** A session has closed an inode for good; not `orderly` if it has ended. */
  onClosed: (session: Session, ino: Ino, orderly: boolean) => void = () => undefined;

  constructor(options: { committer: Committer; clock: Clock; log: Log; uuid: () => string }) {
    this.#committer = options.committer;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#uuid = options.uuid;
  }

  /** Sessions from before a restart: each has its lease's time to come back. */
  load(): void {
    for (const { key, value } of this.#committer.store.range("session", {
      from: Buffer.alloc(0),
    })) {
      const id = sessionId(numberFromKey(key, 0));
      const seq = numberFromKey(key, 8);
      const session = this.#sessions.get(id);
      if (seq > 0) {
        if (session && session.forgotten === 0) session.forgotten = seq - 1;
        continue;
      }
      const stored = decodeReply(value) as Pick<Session, "secret" | "mountpoint" | "name">;
      const awaited = this.#blank(id, stored);
      awaited.believesUntilMs = this.#clock.nowMs() + cacheLeaseMs + cacheMarginMs;
      awaited.believesAnything = true;
      this.#sessions.set(id, awaited);
      this.#awaited.add(id);
    }
  }

  all(): Session[] {
    return [...this.#sessions.values()];
  }

  byId(id: SessionId): Session | undefined {
    return this.#sessions.get(id);
  }

  mounts(): Session[] {
    return this.all().filter((session) => session.mountpoint !== "");
  }

  of(connection: Connection): Session {
    const session = this.#byConnection.get(connection);
    if (!session) throw new StatusError("session-lost", "this connection has no session");
    session.lastSeenMs = this.#clock.nowMs();
    return session;
  }

  /** The session of a connection, if it has opened one. */
  find(connection: Connection): Session | undefined {
    return this.#byConnection.get(connection);
  }

  /**
   * True if a session has the inode open; also while a session from before a restart has not said
   * what it has open: what is unlinked meanwhile becomes an orphan.
   */
  isOpen(ino: Ino): boolean {
    return (this.#openCounts.get(ino) ?? 0) > 0 || this.#awaited.size > 0;
  }

  /** True for an unlinked inode that is kept because it is, or may be, open. */
  isOrphan(ino: Ino): boolean {
    return this.#committer.store.get("orphan", orphanKey(ino)) !== undefined;
  }

  /** True while a session from before a restart has not come back. */
  areAwaited(): boolean {
    return this.#awaited.size > 0;
  }

  /** Sessions that may have grants to write the inode's chunks. */
  writers(ino: Ino): Session[] {
    return this.all().filter(({ writes }) => writes.has(ino));
  }

  /** True if a mount, other than `except`, may be writing to the inode's chunks under a grant. */
  mayWrite(ino: Ino, except?: Session): boolean {
    return this.areAwaited() || this.writers(ino).some((session) => session !== except);
  }

  opened(session: Session, ino: Ino, write: boolean): void {
    if (write) session.writes.add(ino);
    if (session.opens.has(ino)) return;
    session.opens.add(ino);
    this.#openCounts.set(ino, (this.#openCounts.get(ino) ?? 0) + 1);
  }

  /** `inos` are closed for good by this session; orphans among them become trash. */
  async released(session: Session, inos: readonly Ino[]): Promise<void> {
    const closed = inos.filter((ino) => this.closed(session, ino));
    await this.discardOrphans(closed.filter((ino) => this.isOrphan(ino)));
  }

  /** As `released`, for an inode that is not an orphan. True if nobody has it open any more. */
  closed(session: Session, ino: Ino): boolean {
    this.onClosed(session, ino, this.#sessions.has(session.id));
    session.writes.delete(ino);
    if (!session.opens.delete(ino)) return false;
    const left = (this.#openCounts.get(ino) ?? 1) - 1;
    if (left > 0) this.#openCounts.set(ino, left);
    else this.#openCounts.delete(ino);
    return left <= 0;
  }

  /** Orphans that nobody has open become trash. */
  async discardOrphans(inos: readonly Ino[]): Promise<void> {
    if (inos.length === 0) return;
    await this.#committer.run((txn) => {
      for (const ino of inos) {
        if (this.isOpen(ino) || !txn.get("orphan", orphanKey(ino))) continue;
        txn.put("orphan", orphanKey(ino), undefined);
        discard(txn, ino, false);
      }
    });
  }

  /** Orphans whose opener did not come back after a restart of the master. */
  async discardForgottenOrphans(): Promise<void> {
    let from: Buffer | undefined = Buffer.alloc(0);
    while (from) {
      const inos: Ino[] = [];
      for (const { key } of this.#committer.store.range("orphan", { from, limit: forgetMax })) {
        inos.push(toIno(numberFromKey(key, 0)));
      }
      await this.discardOrphans(inos);
      const last = inos.at(-1);
      from = last === undefined ? undefined : numberKey(last + 1);
    }
  }

  async open(
    params: RequestOf<typeof openSession>,
    connection: Connection,
  ): Promise<{ session: Session; resumed: boolean }> {
    if (this.#byConnection.has(connection)) {
      throw new StatusError("protocol", "this connection has a session already");
    }
    const known = params.resume === undefined ? undefined : this.#sessions.get(params.resume);
    const resumed = known !== undefined && known.secret === params.secret;
    const session = resumed ? known : await this.#create(params, connection.peerName);
    session.connection?.close("the session goes on over another connection");
    if (session.connection) this.#byConnection.delete(session.connection);
    session.connection = connection;
    // It has dropped its caches when it lost its connection.
    forgetCaches(session);
    session.name = connection.peerName;
    session.lastSeenMs = this.#clock.nowMs();
    this.#byConnection.set(connection, session);
    const opens = new Set(params.opens);
    const closed = [...session.opens].filter((ino) => !opens.has(ino));
    // Which of them for writing is not told: any may be.
    for (const ino of opens) this.opened(session, ino, true);
    this.#awaited.delete(session.id);
    await this.released(session, closed);
    connection.onClose(() => this.#disconnected(connection));
    this.#log.event("session.open", { session: session.id, name: session.name, resumed });
    return { session, resumed };
  }

  async #create(params: RequestOf<typeof openSession>, name: string): Promise<Session> {
    const id = sessionId(this.#committer.ids.next("session"));
    const mountpoint = params.mountpoint ?? "";
    const secret = params.secret || this.#uuid();
    await this.#committer.run((txn) =>
      txn.put("session", numberKey(id, 0), encodeReply({ secret, mountpoint, name })),
    );
    // Without its session a mount could not go on after a restart of the master.
    await this.#committer.synced();
    const session = this.#blank(id, { secret, mountpoint, name });
    this.#sessions.set(id, session);
    return session;
  }

  #blank(id: SessionId, stored: Pick<Session, "secret" | "mountpoint" | "name">): Session {
    return {
      id,
      ...stored,
      connection: undefined,
      lastSeenMs: this.#clock.nowMs(),
      opens: new Set(),
      leases: new Leases(),
      dropping: new Dropping(),
      believesUntilMs: Number.NEGATIVE_INFINITY,
      believesAnything: false,
      back: sharedAbort(),
      writes: new Set(),
      forgotten: 0,
      forgetting: { group: 0, upTo: 0 },
    };
  }

  #disconnected(connection: Connection): void {
    const session = this.#byConnection.get(connection);
    this.#byConnection.delete(connection);
    if (session?.connection !== connection) return;
    session.connection = undefined;
    session.lastSeenMs = this.#clock.nowMs();
    session.believesUntilMs = connection.heardMs + cacheLeaseMs + cacheMarginMs;
    session.back = sharedAbort();
  }

  /** Ends a session: its files are closed, its replies forgotten. */
  async end(session: Session): Promise<void> {
    this.#sessions.delete(session.id);
    this.#awaited.delete(session.id);
    if (session.connection) this.#byConnection.delete(session.connection);
    await this.released(session, [...session.opens]);
    await this.#committer.run((txn) => {
      const from = numberKey(session.id);
      for (const { key } of txn.before.range("session", { from, to: numberKey(session.id + 1) })) {
        txn.put("session", Buffer.from(key), undefined);
      }
    });
    await this.#committer.synced();
    this.onEnd(session.id);
    this.#log.event("session.end", { session: session.id, name: session.name });
  }

  /** Ends the sessions whose lease has run out. */
  async expire(): Promise<void> {
    const now = this.#clock.nowMs();
    for (const session of this.all()) {
      if (session.connection || now - session.lastSeenMs < sessionLeaseMs) continue;
      if (session.writes.size > 0) this.lostWriters = true;
      await this.end(session);
    }
  }

  /**
   * Forgets replies that the mount says it has got; the last part of its next transaction. What
   * another one of the same commit forgets is not forgotten again.
   */
  forgetReplies(txn: Txn, session: Session, acked: number): void {
    const { forgetting, forgotten } = session;
    const from = forgetting.group === txn.group ? forgetting.upTo : forgotten;
    const until = Math.min(acked, from + forgetMax);
    if (until <= from) return;
    for (let seq = from + 1; seq <= until; seq += 1) {
      txn.put("session", numberKey(session.id, seq), undefined);
    }
    session.forgetting = { group: txn.group, upTo: until };
    txn.afterCommit(() => {
      session.forgotten = Math.max(session.forgotten, until);
    });
  }

  /**
   * Tells the other mounts that may have cached it what has changed, and waits until they have
   * dropped it. One that does not answer, or is not connected, is waited out: it believes what it
   * has cached only for as long as the master answers it.
   */
  invalidateOthers(touched: Touched, origin: SessionId | undefined): Promise<void> | undefined {
    const waiting: Promise<void>[] = [];
    for (const session of this.#sessions.values()) {
      if (session.id === origin || session.mountpoint === "") continue;
      if (!session.connection && !this.#mayBelieve(session)) continue;
      // What it was told a moment ago, and has not answered yet.
      waiting.push(...session.dropping.of(touched));
      const told = toldOf(session, touched);
      if (!told) continue;
      const dropped = this.#invalidate(session, { everything: false, ...told });
      session.dropping.add(told, dropped);
      waiting.push(dropped);
    }
    return waiting.length > 0 ? Promise.all(waiting).then(() => undefined) : undefined;
  }

  /** True if a mount that is not connected may answer from its caches. */
  #mayBelieve(session: Session): boolean {
    if (this.#clock.nowMs() < session.believesUntilMs) return true;
    if (session.leases.size > 0 || session.believesAnything) forgetCaches(session);
    return false;
  }

  /** Records what the session is told, so that it hears of changes. */
  lease(session: Session | undefined, ino: Ino, bits: number): void {
    if (!session || session.mountpoint === "") return;
    session.leases.grant(ino, bits);
    if (!session.leases.overflowed) return;
    session.leases.overflowed = false;
    const everything = { everything: true, inos: [], contents: [], entries: [] };
    session.dropping.addEverything(this.#invalidate(session, everything));
  }

  async #invalidate(session: Session, told: RequestOf<typeof invalidate>): Promise<void> {
    const { connection, id } = session;
    try {
      await connection?.call(invalidate, told, { deadlineMs: invalidateMs });
      if (connection) return;
    } catch (error) {
      this.#log.warn("session.no-invalidate", { session: id, error });
      connection?.close("did not drop its caches in time");
    }
    await this.#waitOut(session);
  }

  /** Until the mount has dropped everything, as it is back, or believes nothing any more. */
  async #waitOut(session: Session): Promise<void> {
    while (!session.connection && this.#mayBelieve(session)) {
      const leftMs = session.believesUntilMs - this.#clock.nowMs();
      await sleep(this.#clock, Math.min(leftMs, waitOutStepMs), session.back.signal);
    }
  }

  /** Asks every mount to send what it holds unwritten. Returns the names of those that did not. */
  async flushAll(): Promise<string[]> {
    const outcomes = await Promise.all(
      this.mounts().map(async (session) => {
        const name = `${session.name} on ${session.mountpoint}`;
        if (!session.connection) return name;
        try {
          await session.connection.call(flushSession, {}, { deadlineMs: flushMs });
          return undefined;
        } catch {
          return name;
        }
      }),
    );
    return outcomes.filter((name) => name !== undefined);
  }
}

/** The mount has dropped everything. */
function forgetCaches(session: Session): void {
  session.leases.clear();
  session.believesAnything = false;
  session.back.abort();
}

/**
 * What the session has to be told. Of a file that it has open it hears everything: it may have
 * leave to write chunks that are gone.
 */
function toldOf(session: Session, touched: Touched): Told | undefined {
  if (session.believesAnything) return { inos: [], contents: [], entries: [] };
  const told = session.leases.take(touched);
  for (const ino of touched.inos) {
    if (!session.opens.has(ino)) continue;
    if (!told.inos.includes(ino)) told.inos.push(ino);
    if (touched.contents.has(ino) && !told.contents.includes(ino)) told.contents.push(ino);
  }
  return told.inos.length > 0 || told.entries.length > 0 ? told : undefined;
}
