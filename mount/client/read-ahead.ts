import { Semaphore } from "../../common/mutex.ts";
import { payloadBytesMax } from "../../protocol/limits.ts";
import { statusOf } from "../../protocol/status.ts";
import type { ChunkReader, Source } from "./chunk-reader.ts";
import { interruptible } from "./interruptible.ts";

/** Pieces are aligned, so none crosses a chunk's border. */
const pieceBytes = payloadBytesMax;
/** Pieces ahead of a sequential reader: doubled with every piece it finishes, up to the most. */
const aheadFirst = 1;
const aheadMost = 6;
/** Pieces kept of one open file: those ahead, the current, and one behind for late requests. */
const keptMax = aheadMost + 2;
/**
 * Bytes of all files that are fetched ahead: when they are used up, readers fetch as they go (P8).
 */
const aheadBytesMax = 64 * 1024 * 1024;

interface Piece {
  bytes: Promise<Buffer>;
  /** What it counts for in the budget, until it is neither kept nor on its way. */
  held: number;
  settled: boolean;
}

/** Shared by all open files of a mount. */
export class ReadAheadBudget {
  readonly bytes: Semaphore;

  constructor(bytesMax = aheadBytesMax) {
    this.bytes = new Semaphore(bytesMax);
  }
}

/**
 * Reading one open file. Sequential reads are served from pieces fetched ahead, several at a time;
 * others fetch just what they want.
 */
export class ReadAhead {
  readonly #reader: Pick<ChunkReader, "read">;
  readonly #budget: ReadAheadBudget;
  readonly #source: Source;
  readonly #pieces = new Map<number, Piece>();
  /** Where the last read ended. */
  #position = 0;
  #ahead = aheadFirst;
  #sequential = true;

  constructor(reader: Pick<ChunkReader, "read">, budget: ReadAheadBudget, source: Source) {
    this.#reader = reader;
    this.#budget = budget;
    this.#source = source;
  }

  /** `length` bytes at `offset`, which the caller has cut at the file's end, `size`. */
  async read(
    range: { offset: number; length: number; size: number },
    signal?: AbortSignal,
  ): Promise<Buffer[]> {
    const { offset, length, size } = range;
    // The kernel may send parts of one sequential read out of order: near is near enough.
    const near = Math.abs(offset - this.#position) <= pieceBytes;
    this.#sequential = near;
    if (!near) this.#ahead = aheadFirst;
    this.#position = offset + length;
    const parts: Buffer[] = [];
    for (let at = offset; at < offset + length;) {
      const index = Math.floor(at / pieceBytes);
      const start = index * pieceBytes;
      const take = Math.min(start + pieceBytes, offset + length) - at;
      const piece = this.#kept(index, at - start + take) ?? this.#fetch(index, size);
      parts.push(
        piece
          ? await this.#partOf(piece, { start, offset: at, length: take }, signal)
          : await this.#reader.read(this.#source, { offset: at, length: take }, signal),
      );
      at += take;
    }
    if (this.#sequential) this.#fetchAhead(Math.floor((offset + length - 1) / pieceBytes), size);
    return parts;
  }

  /** What is wanted of a piece; where some of it is bad on all servers, that alone is asked for. */
  async #partOf(
    piece: Piece,
    { start, offset, length }: { start: number; offset: number; length: number },
    signal: AbortSignal | undefined,
  ): Promise<Buffer> {
    try {
      const bytes = await interruptible(piece.bytes, signal);
      return bytes.subarray(offset - start, offset - start + length);
    } catch (error) {
      if (statusOf(error) !== "corrupt" && statusOf(error) !== "io-error") throw error;
      return this.#reader.read(this.#source, { offset, length }, signal);
    }
  }

  /**
   * A piece that is there or on its way, if it reaches far enough: the file may have grown since.
   */
  #kept(index: number, length: number): Piece | undefined {
    const piece = this.#pieces.get(index);
    if (!piece || piece.held >= length) return piece;
    this.#drop(index, piece);
    return undefined;
  }

  /** Starts fetching a whole piece, if reading is sequential and there is memory for it. */
  #fetch(index: number, size: number): Piece | undefined {
    if (!this.#sequential) return undefined;
    const offset = index * pieceBytes;
    const length = Math.min(pieceBytes, size - offset);
    if (length <= 0 || !this.#budget.bytes.tryAcquire(length)) return undefined;
    const bytes = this.#reader.read(this.#source, { offset, length });
    const piece: Piece = { bytes, held: length, settled: false };
    this.#pieces.set(index, piece);
    const settled = (): void => {
      piece.settled = true;
      if (this.#pieces.get(index) !== piece) this.#budget.bytes.release(length);
    };
    // One that failed is not kept: the next read of it tries again.
    bytes.then(settled, () => {
      settled();
      this.#drop(index, piece);
    });
    for (const [oldest, its] of this.#pieces) {
      if (this.#pieces.size <= keptMax) break;
      this.#drop(oldest, its);
    }
    return piece;
  }

  #fetchAhead(current: number, size: number): void {
    for (const [index, piece] of this.#pieces) if (index < current - 1) this.#drop(index, piece);
    let started = false;
    for (let index = current + 1; index <= current + this.#ahead; index += 1) {
      if (index * pieceBytes >= size || this.#pieces.has(index)) continue;
      if (!this.#fetch(index, size)) break;
      started = true;
    }
    if (started) this.#ahead = Math.min(this.#ahead * 2, aheadMost);
  }

  #drop(index: number, piece: Piece): void {
    if (this.#pieces.get(index) !== piece) return;
    this.#pieces.delete(index);
    // A fetch goes on when nobody wants it any more, and so does the memory that it takes.
    if (piece.settled) this.#budget.bytes.release(piece.held);
  }

  /** The file has changed, or is closed: what is on its way is not kept either. */
  clear(): void {
    for (const [index, piece] of this.#pieces) this.#drop(index, piece);
  }
}
