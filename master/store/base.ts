import type { Change } from "./batch.ts";
import type { StoreReader, Table } from "./store.ts";

/**
 * What lies under the overlay and is complete up to a checkpoint: LMDB (`lmdb.ts`). Its rows change
 * through `apply` alone, in the background, while they are hidden by the overlay.
 */
export interface BaseStore extends StoreReader {
  has(table: Table, key: Buffer): boolean;
  /** What was last given to `mark`; undefined in a new store, or in one of an older release. */
  readonly marked: Buffer | undefined;
  /** Resolves when the rows are on the disk; nobody knows which are if it rejects. */
  apply(site: string, changes: readonly Change[]): Promise<void>;
  /** Resolves when the bytes are on the disk, after everything that was applied before. */
  mark(site: string, bytes: Buffer): Promise<void>;
  close(): Promise<void>;
}
