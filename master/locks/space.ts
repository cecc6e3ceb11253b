import type { Range } from "../../common/intervals.ts";
import type { SessionId } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { type Blocker, type FileKey, LockTable, type Owner, type Wanted } from "./table.ts";
import { type Waiter, WaitingLines } from "./waiting.ts";

/**
 * Locks of one session and kind. Each takes about 200 bytes here and as much in its mount, so this
 * is 12 MiB of a master's memory for a mount that goes mad; databases hold a few per process.
 */
const locksPerSessionMax = 65_536;
/** Waiters of one session and kind; each is a thread of that machine that sleeps. */
const waitersPerSessionMax = 8_192;

/** Somebody's turn has come, or waiting has become useless: he should ask again. */
export interface Ready {
  readonly session: SessionId;
  readonly ticket: number;
}

interface Request {
  readonly session: SessionId;
  readonly owner: bigint;
  readonly file: FileKey;
  readonly wanted: Wanted;
  readonly pid: number;
  readonly wait: boolean;
  readonly ticket: number;
}

export interface Limits {
  readonly locks: number;
  readonly waiters: number;
}

/**
 * The locks of one kind: fcntl(2)'s (`posix`) or flock(2)'s, which differ in two ways: waiting for
 * flock(2) is not searched for deadlocks, and changing a flock(2) lock that others share gives it
 * up first, as both are on Linux.
 *
 *               granted                         unlock, close, session's end
 *   request ──┬─────────────────────────> held ─────────────────────────────> free
 *             └─ waiting ──turn comes──────┘
 *                   └── cancelled, session's end, deadlock: gone
 *
 * A request waits only for locks that are held, never for others in line, so a lock that shares
 * with what is held is had at once: a process and its child that nest shared locks must not hang
 * because a third wants an exclusive one in between (nor do they on Linux). Those who wait are
 * served in the order in which they came, and at the moment of an unlock: nobody who comes later
 * can be quicker.
 *
 * Each change collects in `ready` who is to be told of it.
 */
export class LockSpace {
  readonly #kind: "posix" | "flock";
  readonly #limits: Limits;
  readonly #table = new LockTable();
  readonly #waiting = new WaitingLines();
  /** Nothing new is granted, while the locks of others are still being told. */
  #closed = false;
  #ready: Ready[] = [];

  constructor(
    kind: "posix" | "flock",
    limits: Limits = { locks: locksPerSessionMax, waiters: waitersPerSessionMax },
  ) {
    this.#kind = kind;
    this.#limits = limits;
  }

  /** Who is to be told since the last call. */
  takeReady(): Ready[] {
    const ready = this.#ready;
    this.#ready = [];
    return ready;
  }

  /**
   * Grants the lock, or lets the request wait under its ticket. Asking again, for a lock that is
   * held or under a ticket that waits, changes nothing. Throws `would-block`, `deadlock`,
   * `no-locks`, and `unavailable` while closed.
   */
  lock(request: Request): "done" | "waiting" {
    const { session, file, wanted, ticket } = request;
    if (request.wait && this.#waiting.find(session, ticket)) return "waiting";
    const owner = this.#table.owner(session, request.owner);
    try {
      if (this.#closed && !this.#table.has(owner, file, wanted)) return this.#later(owner, request);
      if (!this.#table.blocked(owner, file, wanted)) {
        this.#admit(owner, request);
        this.#grant({ ...request, owner });
        return "done";
      }
      if (this.#kind === "flock") this.#giveUp(owner, file);
      if (!request.wait) throw new StatusError("would-block", "somebody else has the lock");
      const hopeless =
        this.#kind === "posix" && this.#waiting.wouldDeadlock(this.#table, { owner, file, wanted });
      if (hopeless) throw new StatusError("deadlock", "its holder waits for this owner");
      return this.#wait(owner, request);
    } finally {
      this.#forget(owner);
    }
  }

  #later(owner: Owner, request: Request): "waiting" {
    if (!request.wait) throw stillToldOf();
    if (this.#kind === "flock") this.#giveUp(owner, request.file);
    return this.#wait(owner, request);
  }

  #wait(owner: Owner, { session, file, wanted, pid, ticket }: Request): "waiting" {
    if (this.#waiting.count(session) >= this.#limits.waiters) {
      throw new StatusError("no-locks", `${this.#limits.waiters} requests wait for locks`);
    }
    this.#waiting.add({ owner, file, wanted, pid, ticket });
    return "waiting";
  }

  /** POSIX lets unlocking fail as well, where it would make two locks of one. */
  #admit(owner: Owner, request: { file: FileKey; wanted: Range & Partial<Wanted> }): void {
    const { file, wanted } = request;
    const count = this.#table.count(owner.session);
    // One request adds two at most: one that is cut in the middle, and itself.
    if (count + 2 <= this.#limits.locks) return;
    if (count + this.#table.growth(owner, file, wanted, wanted.type) <= this.#limits.locks) return;
    throw new StatusError("no-locks", `a mount can have ${this.#limits.locks} locks`);
  }

  #grant({ owner, file, wanted, pid }: Pick<Waiter, "owner" | "file" | "wanted" | "pid">): void {
    const lowered = this.#table.set(owner, file, { ...wanted, pid }, wanted.type);
    if (lowered) this.#wake(file);
    // What it has now, others may wait for, while it waits for them elsewhere.
    if (this.#kind === "posix" && this.#waiting.isWaiting(owner)) this.#dismissHopeless(file);
  }

  /** flock(2): changing a lock that cannot be changed at once gives it up first. */
  #giveUp(owner: Owner, file: FileKey): void {
    for (const held of [...this.#table.held(owner, file)]) {
      this.#table.set(owner, file, { ...held, pid: 0 });
      this.#wake(file);
    }
  }

  unlock(session: SessionId, number: bigint, file: FileKey, range: Range): void {
    const owner = this.#table.owner(session, number);
    try {
      this.#admit(owner, { file, wanted: range });
      if (this.#table.set(owner, file, { ...range, pid: 0 })) this.#wake(file);
    } finally {
      this.#forget(owner);
    }
  }

  /** True if the request was still waiting. */
  cancel(session: SessionId, ticket: number): boolean {
    const waiter = this.#waiting.find(session, ticket);
    if (waiter) this.#dismiss(waiter);
    return waiter !== undefined;
  }

  /** F_GETLK. `unavailable` while closed, unless the answer is known. */
  get(session: SessionId, number: bigint, file: FileKey, wanted: Wanted): Blocker | undefined {
    const owner = this.#table.owner(session, number);
    const blocker = this.#table.firstBlocker(owner, file, wanted);
    this.#forget(owner);
    if (!blocker && this.#closed && !this.#table.has(owner, file, wanted)) {
      throw stillToldOf();
    }
    return blocker;
  }

  /** A lock from before the master's restart. False if somebody else has it. */
  reclaim(request: Omit<Request, "wait" | "ticket">): boolean {
    const { session, file, wanted, pid } = request;
    const owner = this.#table.owner(session, request.owner);
    try {
      if (this.#table.blocked(owner, file, wanted)) return false;
      this.#admit(owner, request);
      this.#table.set(owner, file, { ...wanted, pid }, wanted.type);
      return true;
    } finally {
      this.#forget(owner);
    }
  }

  /** The session is over: it waits for nothing, and all that it held is free. */
  end(session: SessionId): void {
    for (const waiter of this.#waiting.of(session)) this.#waiting.remove(waiter);
    for (const owner of this.#table.ownersOf(session)) {
      for (const file of [...owner.files.keys()]) {
        for (const held of [...this.#table.held(owner, file)]) {
          this.#table.set(owner, file, { ...held, pid: 0 });
        }
        this.#wake(file);
      }
      this.#forget(owner);
    }
  }

  close(): void {
    this.#closed = true;
  }

  /** Everybody's locks are known: those who wait are served. */
  open(): void {
    this.#closed = false;
    for (const file of this.#waiting.files()) {
      this.#wake(file);
      this.#dismissHopeless(file);
    }
  }

  /** Something of the file has become free. */
  #wake(file: FileKey): void {
    if (this.#closed) return;
    for (const waiter of this.#waiting.line(file)) {
      // A grant that lowers a lock has served others in passing.
      if (this.#waiting.find(waiter.owner.session, waiter.ticket) !== waiter) continue;
      if (this.#table.blocked(waiter.owner, file, waiter.wanted)) continue;
      this.#waiting.remove(waiter);
      this.#ready.push({ session: waiter.owner.session, ticket: waiter.ticket });
      // One that has too many locks by now hears of it when it asks again.
      if (this.#table.count(waiter.owner.session) + 2 > this.#limits.locks)
        this.#forget(waiter.owner);
      else this.#grant(waiter);
    }
  }

  /** Those who would wait for ever are sent to ask again, and are told so. */
  #dismissHopeless(file: FileKey): void {
    if (this.#kind === "flock") return;
    for (const waiter of this.#waiting.line(file)) {
      if (!this.#waiting.wouldDeadlock(this.#table, waiter)) continue;
      this.#ready.push({ session: waiter.owner.session, ticket: waiter.ticket });
      this.#dismiss(waiter);
    }
  }

  #dismiss(waiter: Waiter): void {
    this.#waiting.remove(waiter);
    this.#forget(waiter.owner);
  }

  #forget(owner: Owner): void {
    if (!this.#waiting.isWaiting(owner)) this.#table.forget(owner);
  }

  /** For tests: nothing is kept of anybody. */
  get isEmpty(): boolean {
    return this.#table.isEmpty && this.#waiting.isEmpty;
  }
}

function stillToldOf(): StatusError {
  return new StatusError("unavailable", "the master is still being told who has which locks");
}
