import { crc32c } from "../../common/crc32c.ts";
import type { Table } from "./store.ts";

/**
 * One commit as bytes: the redo record, which the journal keeps now and which other masters will be
 * sent later. It says what the rows are afterwards, so carrying it out again changes nothing.
 *
 *   0   u32  bytes after this field
 *   4   u32  CRC32C of everything after it, seeded with the journal's salt
 *   8   u53  sequence number: 1 more than that of the commit before
 *   16  u32  rows
 *   20  …    rows: u8 table, u16 bytes of key, u32 bytes of value (or `removal`), key, value
 *
 * Numbers are big-endian. The salt keeps bytes of another journal, or of a row's value, from
 * passing for a record.
 */
const headBytes = 20;
const rowHeadBytes = 7;
/** Instead of the bytes of a value: the row is removed. No value is that long. */
const removal = 0xffff_ffff;

/** Forever: they are on disk. */
const tableNumber: Record<Table, number> = {
  meta: 1,
  inode: 2,
  entry: 3,
  link: 4,
  chunkmap: 5,
  xattr: 6,
  chunk: 7,
  history: 8,
  snapshot: 9,
  session: 10,
  orphan: 11,
  trash: 12,
};
const tableByNumber = new Map(
  (Object.keys(tableNumber) as Table[]).map((table) => [tableNumber[table], table]),
);

/** A row as it is after a commit; without a value it is not there. */
export interface Change {
  table: Table;
  key: Buffer;
  value: Buffer | undefined;
}

interface Batch {
  sequence: number;
  changes: Change[];
}

export function encodeBatch(sequence: number, changes: readonly Change[], salt: number): Buffer {
  let bytes = headBytes;
  for (const { key, value } of changes) bytes += rowHeadBytes + key.length + (value?.length ?? 0);
  const record = Buffer.allocUnsafe(bytes);
  record.writeUInt32BE(bytes - 4, 0);
  record.writeUInt32BE(Math.floor(sequence / 2 ** 32), 8);
  record.writeUInt32BE(sequence % 2 ** 32, 12);
  record.writeUInt32BE(changes.length, 16);
  let at = headBytes;
  for (const { table, key, value } of changes) {
    record[at] = tableNumber[table];
    record.writeUInt16BE(key.length, at + 1);
    record.writeUInt32BE(value ? value.length : removal, at + 3);
    at += rowHeadBytes;
    record.set(key, at);
    at += key.length;
    if (value) record.set(value, at);
    at += value?.length ?? 0;
  }
  record.writeUInt32BE(crc32c(record.subarray(8), salt), 4);
  return record;
}

/**
 * The record at `at`, and where the next one is; undefined if it is not whole. Keys and values
 * alias `bytes`.
 */
export function decodeBatch(
  bytes: Buffer,
  at: number,
  salt: number,
): { batch: Batch; end: number } | undefined {
  if (at + headBytes > bytes.length) return undefined;
  const end = at + 4 + bytes.readUInt32BE(at);
  if (end > bytes.length || end < at + headBytes) return undefined;
  const record = bytes.subarray(at, end);
  if (crc32c(record.subarray(8), salt) !== record.readUInt32BE(4)) return undefined;
  const sequence = record.readUInt32BE(8) * 2 ** 32 + record.readUInt32BE(12);
  const changes = decodeRows(record);
  return changes && { batch: { sequence, changes }, end };
}

/** Undefined if the rows do not fill the record exactly: it is of a release that writes others. */
function decodeRows(record: Buffer): Change[] | undefined {
  const changes: Change[] = [];
  let at = headBytes;
  for (let left = record.readUInt32BE(16); left > 0; left -= 1) {
    if (at + rowHeadBytes > record.length) return undefined;
    const table = tableByNumber.get(record.readUInt8(at));
    const keyBytes = record.readUInt16BE(at + 1);
    const valueBytes = record.readUInt32BE(at + 3);
    const valueAt = at + rowHeadBytes + keyBytes;
    const end = valueBytes === removal ? valueAt : valueAt + valueBytes;
    if (!table || end > record.length) return undefined;
    const value = valueBytes === removal ? undefined : record.subarray(valueAt, end);
    changes.push({ table, key: record.subarray(at + rowHeadBytes, valueAt), value });
    at = end;
  }
  return at === record.length ? changes : undefined;
}
