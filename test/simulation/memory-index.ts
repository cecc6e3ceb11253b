import type { ChunkIndex, Written } from "../../chunkd/store/chunk-index.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Random } from "./random.ts";
import type { Life } from "./world.ts";

/**
 * A chunk server's index in memory. Writes of one turn are one transaction: committed a moment
 * later (that survives the end of the process), flushed another moment later (that survives the end
 * of power). A loss of power leaves the flushed transactions, and perhaps the first few after them.
 */

type Change = (tables: Tables) => void;

class Tables {
  chunks = new Map<ChunkHandle, Buffer>();
  small = new Map<ChunkHandle, Buffer>();
  removals = new Set<ChunkHandle>();
  numbers = new Map<string, number>();

  clone(): Tables {
    const copy = new Tables();
    copy.chunks = new Map(this.chunks);
    copy.small = new Map(this.small);
    copy.removals = new Set(this.removals);
    copy.numbers = new Map(this.numbers);
    return copy;
  }
}

/** What lies on one server's disk, across its lives. */
export class IndexDisk {
  committed = new Tables();
  #flushed = new Tables();
  /** Committed, not flushed. */
  #unflushed: Change[][] = [];
  /** Transactions ever flushed. */
  #flushes = 0;
  /** What the next commits fail with. */
  failWith: "no-space" | "io-error" | undefined;
  /** The transaction that is being written. */
  pending: Change[] | undefined;

  open(life: Life): ChunkIndex {
    return new MemoryIndex(this, life);
  }

  commit(transaction: Change[]): void {
    for (const change of transaction) change(this.committed);
    this.#unflushed.push(transaction);
  }

  /** Transactions ever committed. */
  get commits(): number {
    return this.#flushes + this.#unflushed.length;
  }

  /** The first `upTo` transactions are on the disk. */
  flush(upTo: number): void {
    const transactions = this.#unflushed.splice(0, Math.max(0, upTo - this.#flushes));
    this.#flushes += transactions.length;
    for (const change of transactions.flat()) change(this.#flushed);
  }

  /** The process has ended, or the machine. */
  end(how: "kill" | "power", random: Random): void {
    if (this.pending && random.chance(0.5)) this.commit(this.pending);
    this.pending = undefined;
    if (how === "kill") return;
    this.flush(random.between(this.#flushes, this.commits));
    this.#unflushed = [];
    this.committed = this.#flushed.clone();
  }

  /** Turns a bit of a small chunk, wherever it lies. False if there is none such. */
  flip(handle: ChunkHandle, random: Random, range?: { first: number; end: number }): boolean {
    const bytes = this.committed.small.get(handle);
    const { first = 0, end = Infinity } = range ?? {};
    const length = Math.min(end, bytes?.length ?? 0) - first;
    if (!bytes || length <= 0) return false;
    const flipped = Buffer.from(bytes);
    const at = first + random.below(length);
    flipped[at] = (flipped[at] ?? 0) ^ (1 << random.below(8));
    for (const tables of [this.committed, this.#flushed]) {
      if (tables.small.get(handle) === bytes) tables.small.set(handle, flipped);
    }
    return true;
  }
}

class MemoryIndex implements ChunkIndex {
  readonly #disk: IndexDisk;
  readonly #life: Life;
  #batch: { changes: Change[]; committed: Promise<void>; flushed: Promise<void> } | undefined;
  /** Commits are made one after the other, and so are flushes. */
  #lastCommit: Promise<void> = Promise.resolve();
  #lastFlush: Promise<void> = Promise.resolve();

  constructor(disk: IndexDisk, life: Life) {
    this.#disk = disk;
    this.#life = life;
  }

  get #tables(): Tables {
    return this.#disk.committed;
  }

  get(handle: ChunkHandle): Buffer | undefined {
    return copied(this.#tables.chunks.get(handle));
  }

  getSmall(handle: ChunkHandle): Buffer | undefined {
    return copied(this.#tables.small.get(handle));
  }

  has(handle: ChunkHandle): boolean {
    return this.#tables.chunks.has(handle);
  }

  put(handle: ChunkHandle, record: Buffer, small: Buffer | "none" | "as is"): Written {
    return this.#write((tables) => {
      if (small === "none") tables.small.delete(handle);
      else if (small !== "as is") tables.small.set(handle, small);
      tables.chunks.set(handle, record);
    });
  }

  remove(handle: ChunkHandle, { file } = { file: false }): Written {
    return this.#write((tables) => {
      if (file) tables.removals.add(handle);
      tables.small.delete(handle);
      tables.chunks.delete(handle);
    });
  }

  isBeingRemoved(handle: ChunkHandle): boolean {
    return this.#tables.removals.has(handle);
  }

  removalEnded(handle: ChunkHandle): void {
    this.#write((tables) => tables.removals.delete(handle));
  }

  removals(): ChunkHandle[] {
    return [...this.#tables.removals].toSorted((a, b) => a - b);
  }

  scan(after: number, count: number): { handle: ChunkHandle; record: Buffer }[] {
    return [...this.#tables.chunks]
      .filter(([handle]) => handle > after)
      .toSorted(([a], [b]) => a - b)
      .slice(0, count)
      .map(([handle, record]) => ({ handle, record: Buffer.from(record) }));
  }

  getNumber(name: string): number {
    return this.#tables.numbers.get(name) ?? 0;
  }

  putNumber(name: string, number: number): Written {
    return this.#write((tables) => tables.numbers.set(name, number));
  }

  async flushed(): Promise<void> {
    await this.#lastFlush;
  }

  async close(): Promise<void> {
    await this.#lastFlush;
  }

  #write(change: Change): Written {
    const batch = (this.#batch ??= this.#begin());
    batch.changes.push(change);
    return { committed: batch.committed, flushed: () => batch.flushed };
  }

  #begin(): { changes: Change[]; committed: Promise<void>; flushed: Promise<void> } {
    const changes: Change[] = [];
    const committed = this.#lastCommit.then(() => this.#commit(changes));
    const flushed = committed.then(() => this.#flush());
    this.#lastCommit = committed.catch(() => undefined);
    this.#lastFlush = flushed.catch(() => undefined);
    committed.catch(() => undefined); // Whoever cares waits for it.
    flushed.catch(() => undefined);
    return { changes, committed, flushed };
  }

  async #commit(changes: Change[]): Promise<void> {
    await this.#wait(0);
    if (this.#batch?.changes === changes) this.#batch = undefined;
    this.#disk.pending = changes;
    await this.#wait(this.#life.random.about(0.3));
    this.#disk.pending = undefined;
    const failure = this.#disk.failWith;
    if (failure) throw new StatusError(failure, "the chunk index could not be written");
    this.#disk.commit(changes);
  }

  async #flush(): Promise<void> {
    const upTo = this.#disk.commits;
    await this.#wait(this.#life.random.about(2));
    this.#disk.flush(upTo);
  }

  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => this.#life.after(ms, resolve));
  }
}

function copied(bytes: Buffer | undefined): Buffer | undefined {
  return bytes && Buffer.from(bytes);
}
