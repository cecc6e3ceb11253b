import { type Clock, sleep } from "../../common/clock.ts";
import { Intervals, type Range } from "../../common/intervals.ts";
import type { Log } from "../../common/log.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import type { Tasks } from "../../common/tasks.ts";
import type { Connection } from "../../protocol/connection.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import { lockOffsetMax, locksPerPageMax } from "../../protocol/limits.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import { cancelLock, getLock, reclaimLocks, setLock } from "../../protocol/methods/lock.ts";
import { type Status, StatusError, statusOf } from "../../protocol/status.ts";
import type { LockOwner, OpenFile } from "../fuse/filesystem.ts";
import { interruptible } from "./interruptible.ts";
import type { MasterClient } from "./master-client.ts";

type LockType = "read" | "write";

const wholeFile: Range = { start: 0n, end: lockOffsetMax };

/** With these the master has refused, and has changed nothing. After any other it may have. */
const refusals: ReadonlySet<Status> = new Set(["would-block", "deadlock", "no-locks", "invalid"]);

/**
 * Who is interrupted waits this long for the master to know of it, so that a lock which was granted
 * in the same moment is in nobody's way when the call returns. Much longer than a round trip, and
 * nothing to who ends a process while the master is away.
 */
const withdrawMsMax = 500;

/** Whose lock, on which file. */
export interface LockTarget {
  readonly ino: Ino;
  /** As of a snapshot. */
  readonly at: Epoch | undefined;
  readonly flock: boolean;
  readonly owner: LockOwner;
}

interface LockWanted extends Range {
  readonly type: LockType | "unlock";
  readonly pid: number;
  readonly wait: boolean;
}

/** What one owner has of one file. */
interface Held {
  readonly key: string;
  readonly target: LockTarget;
  readonly intervals: Intervals<LockType>;
  /** Gone with the session, and the application does not know. */
  readonly lost: Intervals<LockType>;
  /** The open files that it locked through. */
  readonly through: Set<OpenFile>;
  pid: number;
  /** Requests under way. */
  busy: number;
  /** Requests that the master may have carried out or not. */
  inDoubt: number;
}

interface Turn {
  readonly come: Promise<void>;
  ready(): void;
}

/**
 * The locks of this mount. The master decides; what it has granted is known here too, to tell it
 * again after its restart, and to save the question when nothing is locked.
 *
 * - What is known here is at any moment at most what the master has granted: a lock is added when
 *   its answer is here, and taken away before the request to end it is sent. So whatever is told
 *   again after a restart was never given to anybody else.
 * - Requests of one owner for one file go to the master one at a time, so that their answers are
 *   applied in the order of their effects. One that waits for a lock is not under way meanwhile: it
 *   stands in line at the master, and is asked again when its turn has come, or when a connection
 *   is new.
 * - After a failure that leaves open what the master has done, the master is brought back to what
 *   is known here.
 * - When the session is lost, so are its locks. Whoever locked through an open file gets `io-error`
 *   from it until he has unlocked what he lost, or closed it, as an NFS client does.
 */
export class LockClient {
  readonly #held = new Map<string, Held>();
  readonly #byFile = new Map<OpenFile, Set<Held>>();
  readonly #mutex = new KeyedMutex<string>();
  /** How many owners have locks of a file. */
  readonly #owners = new Map<Ino, number>();
  readonly #turns = new Map<number, Turn>();
  readonly #losers = new Set<Held>();
  readonly #master: Pick<MasterClient, "read">;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #tasks: Tasks;
  readonly #onLost: (ino: Ino) => void;
  #nextTicket = 1;
  /** Counts lost sessions. */
  #generation = 0;

  constructor(options: {
    master: Pick<MasterClient, "read">;
    clock: Clock;
    log: Log;
    tasks: Tasks;
    /** Locks of this file are lost. */
    onLost: (ino: Ino) => void;
  }) {
    this.#master = options.master;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#tasks = options.tasks;
    this.#onLost = options.onLost;
  }

  /** False: it has no lock, and there is nothing to be ended. */
  mayHold(target: LockTarget): boolean {
    return this.#held.has(keyOf(target));
  }

  /** True if somebody here has, or has lost, a lock of the file. */
  guards(ino: Ino): boolean {
    return this.#owners.has(ino);
  }

  /** True if it has something of `range` locked for writing. */
  mayWrite(target: LockTarget, range: Range): boolean {
    const held = this.#held.get(keyOf(target));
    for (const { value } of held?.intervals.overlapping(range) ?? []) {
      if (value === "write") return true;
    }
    return false;
  }

  /** Whose locks were taken through an open file, by fcntl's F_OFD_SETLK too. */
  through(file: OpenFile): LockTarget[] {
    return [...(this.#byFile.get(file) ?? [])].map(({ target }) => target);
  }

  /** Throws `io-error` if a lock that was taken through this open file is lost. */
  check(file: OpenFile): void {
    if (this.#losers.size === 0) return;
    for (const held of this.#losers) {
      if (held.through.has(file)) throw lockLost();
    }
  }

  /**
   * F_SETLK, F_SETLKW, flock(2). Rejects with `would-block`, `deadlock`, `no-locks`, `interrupted`;
   * `io-error` when an earlier lock is lost.
   */
  async set(
    target: LockTarget,
    file: OpenFile,
    wanted: LockWanted,
    signal?: AbortSignal,
  ): Promise<void> {
    const lost = this.#held.get(keyOf(target))?.lost.size ?? 0;
    if (wanted.type !== "unlock" && lost > 0) throw lockLost();
    const held = this.#use(target);
    const ticket = this.#nextTicket;
    this.#nextTicket += 1;
    try {
      for (;;) {
        const turn = this.#newTurn(ticket);
        const asked = this.#ask(held, { ...wanted, ticket, file }, signal);
        if ((await interruptible(asked, signal)) === "done") return;
        await interruptible(turn.come, signal);
      }
    } catch (error) {
      if (!refusals.has(statusOf(error))) await this.#withdraw(held, wanted, ticket);
      throw error;
    } finally {
      this.#turns.delete(ticket);
      this.#leave(held);
    }
  }

  /** One request to the master, after those before it of the same owner for the same file. */
  #ask(
    held: Held,
    wanted: LockWanted & { ticket: number; file: OpenFile },
    signal: AbortSignal | undefined,
  ): Promise<"done" | "waiting"> {
    const { type, file, ...rest } = wanted;
    return this.#mutex.run(held.key, async () => {
      if (signal?.aborted) throw new StatusError("interrupted", "interrupted before it began");
      if (type === "unlock") this.#forgive(held, wanted);
      const nothing = !held.intervals.overlaps(wanted) && held.inDoubt === 0;
      if (type === "unlock" && nothing) return "done";
      const undo = this.#lower(held, wanted);
      try {
        const { outcome } = await this.#send(held.target, { type, ...rest }, signal);
        if (outcome === "waiting") undo();
        else if (type !== "unlock") {
          held.intervals.set(wanted, type);
          held.pid = wanted.pid;
          held.through.add(file);
          this.#byFile.set(file, (this.#byFile.get(file) ?? new Set()).add(held));
        }
        return outcome;
      } catch (error) {
        if (refusals.has(statusOf(error))) undo();
        throw error;
      }
    });
  }

  #send(
    target: LockTarget,
    request: LockWanted & { ticket: number },
    signal?: AbortSignal,
  ): Promise<ReplyOf<typeof setLock>> {
    const { type, start, end, pid, wait, ticket } = request;
    const params = { ...shape(target), type, start, end, pid, wait, ticket };
    return this.#master.read(setLock, params, signal);
  }

  /**
   * Takes away what the owner will not have any more once the master hears of the request. What is
   * returned puts it back when the master has refused, but for a flock(2), which is given up first
   * when it is to be changed and cannot be at once.
   */
  #lower({ target, intervals }: Held, wanted: LockWanted): () => void {
    const before = intervals.clone();
    const generation = this.#generation;
    const changes = target.flock && !before.covers(wanted, (type) => type === wanted.type);
    if (wanted.type === "unlock" || changes) intervals.set(wanted, undefined);
    else if (wanted.type === "read") {
      for (const { start, end } of clipped(before, wanted)) intervals.set({ start, end }, "read");
    }
    return () => {
      if (changes || generation !== this.#generation) return;
      for (const { start, end, value } of before) intervals.set({ start, end }, value);
    };
  }

  /** Whoever unlocks what he has lost, knows. */
  #forgive(held: Held, range: Range): void {
    held.lost.set(range, undefined);
    if (held.lost.size === 0) this.#losers.delete(held);
  }

  /**
   * Ends a request of which nobody knows how far it came. The work goes on when this resolves, if
   * the master is away.
   */
  async #withdraw(held: Held, wanted: LockWanted, ticket: number): Promise<void> {
    held.inDoubt += 1;
    held.busy += 1;
    const done = new AbortController();
    const work = this.#mutex.run(held.key, () => this.#restore(held, wanted, ticket));
    this.#tasks.run("lock.withdraw", async () => {
      try {
        await work;
        held.inDoubt -= 1;
      } finally {
        done.abort();
        this.#leave(held);
      }
    });
    await sleep(this.#clock, withdrawMsMax, done.signal);
  }

  /** Brings the master back to what is known here of the range. */
  async #restore(held: Held, wanted: LockWanted, ticket: number): Promise<void> {
    const { waited } = await this.#master.read(cancelLock, { ticket });
    if (waited) return;
    const known = [...clipped(held.intervals, wanted)];
    let next = wanted.start;
    for (const { start, end, value } of known) {
      if (start > next) await this.#put(held, { start: next, end: start - 1n }, "unlock");
      if (value === "read" && wanted.type === "write") await this.#put(held, { start, end }, value);
      next = end + 1n;
    }
    if (next <= wanted.end) await this.#put(held, { start: next, end: wanted.end }, "unlock");
  }

  async #put(held: Held, { start, end }: Range, type: "read" | "unlock"): Promise<void> {
    const request = { start, end, type, pid: held.pid, wait: false, ticket: 0 };
    await this.#send(held.target, request);
  }

  /** The owner has closed the file: all it has of it is free when this resolves. */
  async end(target: LockTarget): Promise<void> {
    const held = this.#held.get(keyOf(target));
    if (!held) return;
    held.busy += 1;
    try {
      await this.#mutex.run(held.key, async () => {
        this.#forgive(held, wholeFile);
        this.#detach(held);
        if (held.intervals.size === 0 && held.inDoubt === 0) return;
        held.intervals.clear();
        await this.#put(held, wholeFile, "unlock");
      });
    } finally {
      this.#leave(held);
    }
  }

  /** F_GETLK. */
  async get(
    target: LockTarget,
    wanted: Range & { type: LockType },
    signal?: AbortSignal,
  ): Promise<ReplyOf<typeof getLock>["lock"]> {
    const { start, end, type } = wanted;
    const params = { ...shape(target), start, end, type };
    return (await this.#master.read(getLock, params, signal)).lock;
  }

  /** The master says that these should ask again. */
  ready(tickets: readonly number[]): void {
    for (const ticket of tickets) this.#turns.get(ticket)?.ready();
  }

  /**
   * Before anything else is asked over a new connection. `resumed`: the session goes on, and a
   * master that has restarted is told what this mount holds. Otherwise all of it is lost.
   */
  async connected(connection: Pick<Connection, "call">, resumed: boolean): Promise<void> {
    if (resumed) await this.#reclaim(connection);
    else this.#loseAll();
    for (const turn of this.#turns.values()) turn.ready();
  }

  async #reclaim(connection: Pick<Connection, "call">): Promise<void> {
    const all = [...this.#held.values()].flatMap((held) =>
      [...held.intervals].map(({ start, end, value: type }) => ({ held, start, end, type })),
    );
    for (let first = 0; first === 0 || first < all.length; first += locksPerPageMax) {
      const page = all.slice(first, first + locksPerPageMax);
      const locks = page.map(({ held, start, end, type }) => {
        const lock: RequestOf<typeof reclaimLocks>["locks"][number] = {
          ...{ ...shape(held.target), start, end, type, pid: held.pid },
        };
        return lock;
      });
      const last = first + locksPerPageMax >= all.length;
      const { wanted, refused } = await connection.call(reclaimLocks, { locks, last });
      if (!wanted) return;
      for (const index of refused) {
        const lock = page[index];
        if (lock) this.#lose(lock.held, lock);
      }
    }
  }

  #loseAll(): void {
    this.#generation += 1;
    for (const held of this.#held.values()) {
      for (const { start, end, value: type } of held.intervals.clone()) {
        this.#lose(held, { start, end, type });
      }
    }
  }

  #lose(held: Held, { start, end, type }: Range & { type: LockType }): void {
    held.intervals.set({ start, end }, undefined);
    held.lost.set({ start, end }, type);
    this.#losers.add(held);
    const { ino, flock } = held.target;
    this.#log.error("lock.lost", { ino, flock, pid: held.pid, start, end, type });
    this.#onLost(ino);
  }

  #use(target: LockTarget): Held {
    const key = keyOf(target);
    let held = this.#held.get(key);
    if (!held) {
      const nothing = { through: new Set<OpenFile>(), pid: 0, busy: 0, inDoubt: 0 };
      held = { key, target, intervals: new Intervals(), lost: new Intervals(), ...nothing };
      this.#held.set(key, held);
      this.#owners.set(target.ino, (this.#owners.get(target.ino) ?? 0) + 1);
    }
    held.busy += 1;
    return held;
  }

  /** What holds nothing is forgotten. */
  #leave(held: Held): void {
    held.busy -= 1;
    if (held.busy > 0 || held.inDoubt > 0 || held.intervals.size + held.lost.size > 0) return;
    this.#detach(held);
    this.#held.delete(held.key);
    const { ino } = held.target;
    const others = (this.#owners.get(ino) ?? 1) - 1;
    if (others > 0) this.#owners.set(ino, others);
    else this.#owners.delete(ino);
  }

  #detach(held: Held): void {
    for (const file of held.through) {
      const its = this.#byFile.get(file);
      its?.delete(held);
      if (its?.size === 0) this.#byFile.delete(file);
    }
    held.through.clear();
  }

  #newTurn(ticket: number): Turn {
    let ready = (): void => undefined;
    const come = new Promise<void>((resolve) => {
      ready = resolve;
    });
    const turn = { come, ready };
    this.#turns.set(ticket, turn);
    return turn;
  }
}

/** The parts of the intervals that lie in the range. */
function* clipped<T>(
  intervals: Intervals<T>,
  range: Range,
): Generator<{ start: bigint; end: bigint; value: T }> {
  for (const { start, end, value } of intervals.overlapping(range)) {
    yield {
      start: start < range.start ? range.start : start,
      end: end > range.end ? range.end : end,
      value,
    };
  }
}

function keyOf({ ino, at, flock, owner }: LockTarget): string {
  return `${flock ? "f" : "p"}${owner}/${ino}@${at ?? ""}`;
}

function shape({ ino, at, flock, owner }: LockTarget): {
  ino: Ino;
  at?: Epoch;
  flock: boolean;
  owner: LockOwner;
} {
  return { ino, flock, owner, ...(at === undefined ? {} : { at }) };
}

function lockLost(): StatusError {
  return new StatusError("io-error", "a lock was lost with the session: unlock or close the file");
}
