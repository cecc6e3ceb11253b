import type { ChunkHandle } from "../../protocol/id.ts";

/**
 * What a chunk server knows of its chunks, apart from the bytes in their files. Three tables:
 * `chunk` (handle → record), `small` (handle → the bytes of a small chunk, apart so that a walk
 * over all records does not read them), `meta` (numbers by name, and which chunks' files are being
 * deleted). `lmdb-index.ts` has it on disk; a simulator, one that forgets as a disk would.
 *
 * Reads are synchronous, take microseconds, and see what is committed. Writes of one turn of the
 * event loop make one transaction; a loss of power takes transactions from the end, never from the
 * middle. A buffer that was given to a write must not be changed.
 */
export interface ChunkIndex {
  get(handle: ChunkHandle): Buffer | undefined;
  getSmall(handle: ChunkHandle): Buffer | undefined;
  has(handle: ChunkHandle): boolean;
  /** `small`: the chunk's bytes, or "none" to delete them, or "as is". */
  put(handle: ChunkHandle, record: Buffer, small: Buffer | "none" | "as is"): Written;
  /** `file`: the chunk has one, which is deleted afterwards; `removalEnded` then says so. */
  remove(handle: ChunkHandle, options?: { file: boolean }): Written;
  /** True between `remove` and `removalEnded`, across restarts. */
  isBeingRemoved(handle: ChunkHandle): boolean;
  removalEnded(handle: ChunkHandle): void;
  /** The chunks for which `isBeingRemoved`. */
  removals(): ChunkHandle[];
  /** Up to `count` records of handles above `after` (0: from the start), in order of handles. */
  scan(after: number, count: number): { handle: ChunkHandle; record: Buffer }[];
  /** A number that belongs to the whole directory, 0 if it was never put. */
  getNumber(name: string): number;
  putNumber(name: string, number: number): Written;
  /**
   * Resolves when everything that was committed so far is on the disk. What failed to be committed
   * was told to those who wrote it.
   */
  flushed(): Promise<void>;
  /** Waits for what was written. Idempotent. */
  close(): Promise<void>;
}

/** Opens the index at `path`. Throws a `UserError` if what is there is no index, or not whole. */
export type OpenIndex = (path: string) => ChunkIndex;

/**
 * A write's two promises. Neither needs to be waited for; a failure of both is the same failure.
 */
export interface Written {
  /** Survives the end of this process. Rejects with `no-space` or `io-error`. */
  readonly committed: Promise<void>;
  /** Survives the end of power. */
  flushed(): Promise<void>;
}
