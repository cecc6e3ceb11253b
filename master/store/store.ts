/**
 * Where the master keeps its state: ordered tables of bytes, changed in atomic commits. Two
 * implementations: a journal over LMDB for life (`journaled.ts`), memory for tests (`memory.ts`).
 */

/** One name per table; `tables.ts` says what is in each. */
export const tableNames = [
  "meta",
  "inode",
  "entry",
  "link",
  "chunkmap",
  "xattr",
  "chunk",
  "history",
  "snapshot",
  "session",
  "orphan",
  "trash",
] as const;
export type Table = (typeof tableNames)[number];

export interface Row {
  key: Buffer;
  value: Buffer;
}

export interface StoreReader {
  /** The value, which the caller may keep but not change. */
  get(table: Table, key: Buffer): Buffer | undefined;
  /** Rows with from ≤ key < to, in byte order of keys; `to` absent: to the end of the table. */
  range(
    table: Table,
    bounds: { from: Buffer; to?: Buffer | undefined; limit?: number },
  ): Iterable<Row>;
  /** Rows in a table. */
  count(table: Table): number;
}

export interface StoreWriter extends StoreReader {
  put(table: Table, key: Buffer, value: Buffer): void;
  remove(table: Table, key: Buffer): void;
}

export interface Store extends StoreReader {
  /**
   * Runs `work` on a writer that sees its own changes. When it returns, all of them are committed:
   * they survive the end of this process; when it throws, none is. Runs one at a time.
   */
  write<T>(work: (writer: StoreWriter) => T): T;
  /**
   * Resolves when everything committed before the call is on the disk: it survives the end of
   * power. Rejects with `io-error` when the disk failed to say so, and from then on.
   */
  synced(): Promise<void>;
  /** As `synced`, without hurrying the disk: within a second or so. */
  syncedSoon(): Promise<void>;
  /** As `synced`, while everything waits: for what is rare. */
  syncNow(): void;
  /** Undefined, or resolves when there is room for further commits: the disk is behind. */
  ready(): Promise<void> | undefined;
  /** Everything is on the disk when it resolves. */
  close(): Promise<void>;
}

/** The first key after all keys that start with `prefix`; undefined if there is none. */
export function prefixEnd(prefix: Buffer): Buffer | undefined {
  const end = Buffer.from(prefix);
  for (let i = end.length - 1; i >= 0; i -= 1) {
    const byte = end.readUInt8(i);
    if (byte < 0xff) {
      end.writeUInt8(byte + 1, i);
      return end.subarray(0, i + 1);
    }
  }
  return undefined;
}

/** The first key after `key`. */
export function keyAfter(key: Buffer): Buffer {
  return Buffer.concat([key, Buffer.from([0])]);
}
