import { Semaphore } from "../../common/mutex.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { isSettled, type Taking } from "./boots.ts";

/** Pieces of one file under way: enough to keep a chain of servers busy. */
const flightsPerFileMax = 6;
/** What one commit can name. */
const commitChunksMax = 4096;

interface Extent {
  /** In the file. */
  readonly offset: number;
  readonly end: number;
  /**
   * From here on the piece makes the file longer; before, there were bytes or a hole when it was
   * begun. Until it has arrived, the master is told of no size beyond.
   */
  readonly extendsFrom: number;
}

/** Bytes that are being collected. */
export interface Piece {
  readonly offset: number;
  readonly extendsFrom: number;
  length: number;
  buffer: Buffer;
}

/** A piece on its way. `done` never rejects. */
export interface Flight extends Extent {
  /** What is not at the servers yet may not get there any more. */
  abandoned: boolean;
  failed: boolean;
  done: Promise<void>;
}

/** The chunk that took a piece. */
interface Arrival {
  readonly index: number;
  readonly handle: ChunkHandle;
  readonly listed: boolean;
  readonly taking: Taking;
}

interface Pending {
  end: number;
  mtime: bigint;
}

export interface Batch {
  readonly size: number;
  readonly mtime: bigint;
  readonly written: ReadonlyMap<number, ChunkHandle>;
  /** There is more than one commit can name. */
  readonly more: boolean;
}

/** Different sets of servers that took writes to one chunk since its last fsync. */
const takingsMax = 8;

/** The writes to a chunk since its last fsync. */
export interface Writes {
  /** The number of the last one. */
  readonly last: number;
  /** By whom they were taken; none twice. */
  readonly takings: readonly Taking[];
}

/** Chunks written since the last fsync. */
export class Unsynced {
  readonly #writes = new Map<number, Writes>();
  #count = 0;

  get size(): number {
    return this.#writes.size;
  }

  add(index: number, taking: Taking): void {
    this.#count += 1;
    const before = this.#writes.get(index)?.takings ?? [];
    const others = before.filter((one) => one.takers !== taking.takers && !isSettled(one));
    const [first, second, ...rest] = others;
    const isMany = first && second && others.length >= takingsMax;
    const takings = isMany ? [both(first, second), ...rest] : others;
    this.#writes.set(index, { last: this.#count, takings: [...takings, taking] });
  }

  /** What an fsync that begins now has to sync; `synced` takes it back when that is done. */
  take(): ReadonlyMap<number, Writes> {
    return new Map(this.#writes);
  }

  /** Chunks written meanwhile stay; so does what another fsync has not finished. */
  synced(taken: ReadonlyMap<number, Writes>): void {
    for (const [index, { last, takings }] of taken) {
      const now = this.#writes.get(index);
      if (now?.last === last) this.#writes.delete(index);
      else if (now) {
        const later = now.takings.filter((taking) => !takings.includes(taking));
        this.#writes.set(index, { last: now.last, takings: later });
      }
    }
  }

  dropFrom(first: number): void {
    for (const index of this.#writes.keys()) if (index >= first) this.#writes.delete(index);
  }
}

/** Who took the writes of both. */
function both(one: Taking, other: Taking): Taking {
  const takers = one.takers.filter((taker) => other.takers.includes(taker));
  return { takers, atMs: Math.max(one.atMs, other.atMs) };
}

/**
 * What one file has that is not yet safe. Knows no servers: only which bytes are where.
 *
 *   collected ──launched──> in flight ──arrived──> at the chunk servers ──committed──> safe
 *                                     └──failed──> lost: neither it nor what follows it extends
 *                                                  the file, until the application has been told
 */
export class DirtyFile {
  piece: Piece | undefined;
  readonly flights = new Set<Flight>();
  readonly slots = new Semaphore(flightsPerFileMax);
  /** Chunks written since the last commit, and the handle that took the latest write. */
  readonly written = new Map<number, ChunkHandle>();
  /** Those of them that the master takes for holes until it is told. */
  readonly unlisted = new Set<number>();
  readonly unsynced: Unsynced;
  mtime = 0n;
  lastWriteMs = 0;
  /** A background commit is under way or stuck. */
  settling = false;
  /** The end of what has arrived and is not committed. */
  #sentEnd = 0;
  #failedFrom = Infinity;
  /** The master is being told: until the answer has come, `#sentEnd` stays. */
  #committing = false;

  constructor(unsynced: Unsynced) {
    this.unsynced = unsynced;
  }

  /** The file is at least this long, counting what is not committed. */
  get end(): number {
    let end = this.#sentEnd;
    if (this.piece) end = Math.max(end, this.piece.offset + this.piece.length);
    for (const flight of this.flights) end = Math.max(end, flight.end);
    return end;
  }

  get isClean(): boolean {
    const underWay = this.piece !== undefined || this.flights.size > 0 || this.#committing;
    return !underWay && this.written.size === 0 && this.#sentEnd === 0;
  }

  /** Something failed, and no flush or fsync has ended since. */
  get hasLosses(): boolean {
    return this.#failedFrom !== Infinity;
  }

  /**
   * What the master does not know yet; that includes what it is being told, until the answer has
   * come: seen from here, the file must not shrink in between.
   */
  get pending(): Pending | undefined {
    return this.isClean ? undefined : { end: this.end, mtime: this.mtime };
  }

  begin(offset: number, buffer: Buffer): Piece {
    this.piece = { offset, extendsFrom: Math.max(offset, this.end), length: 0, buffer };
    return this.piece;
  }

  overlaps(offset: number, end: number): boolean {
    const { piece } = this;
    if (piece && piece.offset < end && offset < piece.offset + piece.length) return true;
    return this.flightsOver(offset, end).length > 0;
  }

  flightsOver(offset: number, end: number): Flight[] {
    return [...this.flights].filter((flight) => flight.offset < end && offset < flight.end);
  }

  /** True if part of the range is in chunks that the master does not tell readers of yet. */
  isUnlisted(first: number, last: number): boolean {
    for (const index of this.unlisted) if (index >= first && index <= last) return true;
    return false;
  }

  /** `listed`: the master has been told of the chunk before. */
  arrived(flight: Flight, { index, handle, listed, taking }: Arrival): void {
    if (!listed) this.unlisted.add(index);
    this.#sentEnd = Math.max(this.#sentEnd, flight.end);
    // Handles count upwards: the larger is the one that came later, whoever answered first.
    const known = this.written.get(index);
    if (known === undefined || known < handle) this.written.set(index, handle);
    this.unsynced.add(index, taking);
  }

  failed(flight: Flight): void {
    if (flight.end > flight.extendsFrom) {
      this.#failedFrom = Math.min(this.#failedFrom, flight.extendsFrom);
    }
  }

  /** The largest size at which no byte is missing that write(2) took. */
  #claim(): number {
    let claim = Math.min(this.#sentEnd, this.#failedFrom);
    if (this.piece) claim = Math.min(claim, this.piece.extendsFrom);
    for (const flight of this.flights) claim = Math.min(claim, flight.extendsFrom);
    return claim;
  }

  /** What to tell the master now, if there is anything. */
  beginCommit(): Batch | undefined {
    if (this.written.size === 0 && this.#sentEnd === 0) return undefined;
    const written = new Map([...this.written].slice(0, commitChunksMax));
    const more = written.size < this.written.size;
    this.#committing = true;
    for (const index of written.keys()) this.written.delete(index);
    // The size comes with the last of them: a chunk that is not named reads as zeros.
    return { size: more ? 0 : this.#claim(), mtime: this.mtime, written, more };
  }

  /** True if readers are now told of chunks that they took for holes. */
  committed(batch: Batch): boolean {
    this.#committing = false;
    const before = this.unlisted.size;
    for (const index of batch.written.keys()) {
      if (!this.written.has(index)) this.unlisted.delete(index);
    }
    // A claim that a lost piece has cut is all that there will be.
    if (this.#sentEnd <= batch.size || this.#failedFrom <= batch.size) this.#sentEnd = 0;
    return this.unlisted.size < before;
  }

  /** `lost`: the master will never take it. */
  commitFailed(batch: Batch, lost: boolean): void {
    this.#committing = false;
    if (lost) {
      this.#sentEnd = 0;
      for (const index of batch.written.keys()) this.unlisted.delete(index);
      return;
    }
    for (const [index, handle] of batch.written) {
      if (!this.written.has(index)) this.written.set(index, handle);
    }
  }

  /** The application has been told of what was lost, and goes on from there. */
  acceptLosses(): void {
    this.#failedFrom = Infinity;
  }

  /** The file was cut to `size`: what lay beyond needs neither commit nor fsync. */
  truncated(size: number, chunkBytes: number): void {
    const keep = Math.ceil(size / chunkBytes);
    for (const index of this.written.keys()) if (index >= keep) this.written.delete(index);
    for (const index of this.unlisted) if (index >= keep) this.unlisted.delete(index);
    this.unsynced.dropFrom(keep);
    this.#sentEnd = this.written.size === 0 ? 0 : Math.min(this.#sentEnd, size);
    if (this.#failedFrom >= size) this.#failedFrom = Infinity;
  }
}
