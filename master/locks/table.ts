import { assert, must } from "../../common/assert.ts";
import { type Interval, Intervals, type Range } from "../../common/intervals.ts";
import type { SessionId } from "../../protocol/id.ts";

export type LockType = "read" | "write";

/** Which file, as of now or as of a snapshot. */
export type FileKey = number | string;

/** The whole of any file. */
export interface Wanted extends Range {
  readonly type: LockType;
}

/**
 * Who holds locks: a number that a mount's kernel made, in that mount's session. Of fcntl(2) a
 * process, the same for all files; of flock(2) an open file.
 */
export interface Owner {
  readonly session: SessionId;
  readonly number: bigint;
  readonly files: Map<FileKey, Held>;
}

/** What one owner holds of one file. */
interface Held {
  readonly intervals: Intervals<LockType>;
  /** The process that asked last. */
  pid: number;
}

/** A lock that is in somebody's way. */
export interface Blocker extends Wanted {
  readonly owner: Owner;
  readonly pid: number;
}

/**
 * Who holds what, of one kind of lock. Two locks are in each other's way if they are of different
 * owners, have a byte in common, and at least one is for writing. It only keeps the books: whether
 * a lock may be granted is its caller's to decide, who asks `blocker` first.
 */
export class LockTable {
  readonly #owners = new Map<string, Owner>();
  readonly #files = new Map<FileKey, Map<Owner, Held>>();
  readonly #counts = new Map<SessionId, number>();

  /** The owner, known from now on until `forget`. */
  owner(session: SessionId, number: bigint): Owner {
    const key = `${session}:${number}`;
    let owner = this.#owners.get(key);
    if (!owner) {
      owner = { session, number, files: new Map() };
      this.#owners.set(key, owner);
    }
    return owner;
  }

  /** Nobody asks for the owner any more: it goes, unless it holds something. */
  forget(owner: Owner): void {
    if (owner.files.size === 0) this.#owners.delete(`${owner.session}:${owner.number}`);
  }

  ownersOf(session: SessionId): Owner[] {
    return [...this.#owners.values()].filter((owner) => owner.session === session);
  }

  /** Intervals that the session's owners hold. */
  count(session: SessionId): number {
    return this.#counts.get(session) ?? 0;
  }

  /** The owners, other than `owner`, that hold what is in the way of `wanted`. */
  *blockers(owner: Owner, file: FileKey, wanted: Wanted): Generator<Owner> {
    for (const [other, held] of this.#files.get(file) ?? []) {
      if (other !== owner && firstConflict(held, wanted)) yield other;
    }
  }

  blocked(owner: Owner, file: FileKey, wanted: Wanted): boolean {
    for (const _blocker of this.blockers(owner, file, wanted)) return true;
    return false;
  }

  /** F_GETLK: of all that is in the way, the lock with the lowest first byte. */
  firstBlocker(owner: Owner, file: FileKey, wanted: Wanted): Blocker | undefined {
    let first: Blocker | undefined;
    for (const [other, held] of this.#files.get(file) ?? []) {
      const found = other === owner ? undefined : firstConflict(held, wanted);
      if (!found || (first && first.start <= found.start)) continue;
      const { start, end, value: type } = found;
      first = { start, end, type, owner: other, pid: held.pid };
    }
    return first;
  }

  /** True if `owner` has what it wants, or more, already. */
  has(owner: Owner, file: FileKey, wanted: Wanted): boolean {
    const held = owner.files.get(file);
    return held?.intervals.covers(wanted, (type) => suffices(type, wanted.type)) ?? false;
  }

  held(owner: Owner, file: FileKey): Iterable<Interval<LockType>> {
    return owner.files.get(file)?.intervals ?? [];
  }

  /** How many intervals more the session would have after `set`. */
  growth(owner: Owner, file: FileKey, range: Range, type: LockType | undefined): number {
    const held = owner.files.get(file)?.intervals ?? new Intervals<LockType>();
    const changed = held.clone();
    changed.set(range, type);
    return changed.size - held.size;
  }

  /** Sets what `owner` has of the range, `undefined`: nothing. True if others may profit. */
  set(owner: Owner, file: FileKey, range: Range & { pid: number }, type?: LockType): boolean {
    const held = this.#heldOf(owner, file, range.pid);
    const lowered =
      type !== "write" &&
      [...held.intervals.overlapping(range)].some(({ value }) => value !== type);
    const before = held.intervals.size;
    held.intervals.set(range, type);
    if (type) held.pid = range.pid;
    this.#count(owner.session, held.intervals.size - before);
    if (held.intervals.size === 0) this.#drop(owner, file);
    return lowered;
  }

  #heldOf(owner: Owner, file: FileKey, pid: number): Held {
    let held = owner.files.get(file);
    if (held) return held;
    held = { intervals: new Intervals(), pid };
    owner.files.set(file, held);
    const holders = this.#files.get(file) ?? new Map<Owner, Held>();
    this.#files.set(file, holders.set(owner, held));
    return held;
  }

  #drop(owner: Owner, file: FileKey): void {
    owner.files.delete(file);
    const holders = must(this.#files.get(file), "holders of a file");
    holders.delete(owner);
    if (holders.size === 0) this.#files.delete(file);
  }

  #count(session: SessionId, change: number): void {
    const count = this.count(session) + change;
    assert(count >= 0, "locks are counted");
    if (count === 0) this.#counts.delete(session);
    else this.#counts.set(session, count);
  }

  /** Nothing is left of anybody: for tests. */
  get isEmpty(): boolean {
    return this.#owners.size + this.#files.size + this.#counts.size === 0;
  }
}

function firstConflict(held: Held, wanted: Wanted): Interval<LockType> | undefined {
  for (const interval of held.intervals.overlapping(wanted)) {
    if (interval.value === "write" || wanted.type === "write") return interval;
  }
  return undefined;
}

function suffices(held: LockType, wanted: LockType): boolean {
  return held === wanted || held === "write";
}
