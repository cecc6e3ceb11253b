import { assert } from "../../common/assert.ts";
import { blockBytes, crc32c } from "../../common/crc32c.ts";
import {
  type ChunkHandle,
  chunkHandle,
  type ChunkVersion,
  chunkVersion,
} from "../../protocol/id.ts";

/**
 * A chunk's record in the index. All numbers are little-endian.
 *
 *   offset  bytes  field
 *        0      1  format, 1
 *        1      1  flags: 1 dirty, 2 small (the bytes are in the index), 4 has an origin
 *        2      2  zero
 *        4      4  number of CRCs, n
 *        8      8  version
 *       16      8  length in bytes
 *       24      8  origin: handle        what this chunk was cloned from, so that the same
 *       32      8  origin: version       request can be told from another one; zeros if the
 *       40      8  origin: length        chunk is no clone
 *       48     4n  CRC32C of each 64 KiB block, the last may be short
 *  48 + 4n      4  CRC32C of the key and all bytes before
 *
 * A dirty file chunk's record is a mark only: its length is of no use and n is 0, because both are
 * made anew from the file after a crash. In every other record n is the number of blocks.
 */
const recordFormat = 1;

const headBytes = 48;
const flag = { dirty: 1, small: 2, origin: 4 } as const;
const flagsKnown = flag.dirty | flag.small | flag.origin;

export interface Origin {
  readonly handle: ChunkHandle;
  readonly version: ChunkVersion;
  /** The clone's length: what the source had, or less. */
  readonly length: number;
}

export interface ChunkRecord {
  version: ChunkVersion;
  length: number;
  dirty: boolean;
  small: boolean;
  origin: Origin | undefined;
  crcs: number[];
}

/** Index keys sort by handle: 8 bytes, big-endian. */
export function encodeKey(handle: ChunkHandle): Buffer {
  const key = Buffer.allocUnsafe(8);
  key.writeBigUInt64BE(BigInt(handle));
  return key;
}

export function decodeKey(key: Uint8Array): ChunkHandle {
  const view = Buffer.from(key.buffer, key.byteOffset, key.byteLength);
  return chunkHandle(Number(view.readBigUInt64BE()));
}

export const blocksIn = (length: number): number => Math.ceil(length / blockBytes);

/** Bytes of block `block` of a chunk that is `length` long. */
export function bytesInBlock(block: number, length: number): number {
  return Math.max(0, Math.min(blockBytes, length - block * blockBytes));
}

export function encodeRecord(handle: ChunkHandle, record: ChunkRecord): Buffer {
  const mark = record.dirty && !record.small;
  const crcs = mark ? [] : record.crcs;
  assert(mark || crcs.length === blocksIn(record.length), "a record has one CRC for each block");
  const bytes = Buffer.alloc(headBytes + 4 * crcs.length + 4);
  bytes.writeUInt8(recordFormat, 0);
  bytes.writeUInt8(flagsOf(record), 1);
  bytes.writeUInt32LE(crcs.length, 4);
  bytes.writeBigUInt64LE(BigInt(record.version), 8);
  bytes.writeBigUInt64LE(BigInt(record.length), 16);
  if (record.origin) {
    bytes.writeBigUInt64LE(BigInt(record.origin.handle), 24);
    bytes.writeBigUInt64LE(BigInt(record.origin.version), 32);
    bytes.writeBigUInt64LE(BigInt(record.origin.length), 40);
  }
  crcs.forEach((crc, i) => bytes.writeUInt32LE(crc, headBytes + 4 * i));
  const end = bytes.length - 4;
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, end), crc32c(encodeKey(handle))), end);
  return bytes;
}

/** Decodes the record of `handle`, or returns the reason why it cannot be used. */
export function decodeRecord(handle: ChunkHandle, bytes: Buffer): ChunkRecord | string {
  if (bytes.length < headBytes + 4) return `is only ${bytes.length} bytes long`;
  const end = bytes.length - 4;
  if (crc32c(bytes.subarray(0, end), crc32c(encodeKey(handle))) !== bytes.readUInt32LE(end)) {
    return "does not match its CRC";
  }
  const format = bytes.readUInt8(0);
  if (format !== recordFormat) return `has format ${format}, not ${recordFormat}`;
  const flags = bytes.readUInt8(1);
  if ((flags & ~flagsKnown) !== 0) return `has unknown flags ${flags}`;
  const count = bytes.readUInt32LE(4);
  if (bytes.length !== headBytes + 4 * count + 4) return "has the wrong length";
  const record: ChunkRecord = {
    version: chunkVersion(Number(bytes.readBigUInt64LE(8))),
    length: Number(bytes.readBigUInt64LE(16)),
    dirty: (flags & flag.dirty) !== 0,
    small: (flags & flag.small) !== 0,
    origin: (flags & flag.origin) === 0 ? undefined : originOf(bytes),
    crcs: Array.from({ length: count }, (_, i) => bytes.readUInt32LE(headBytes + 4 * i)),
  };
  const mark = record.dirty && !record.small;
  if (count !== (mark ? 0 : blocksIn(record.length))) return "has the wrong number of CRCs";
  return record;
}

function flagsOf(record: ChunkRecord): number {
  let flags = 0;
  if (record.dirty) flags |= flag.dirty;
  if (record.small) flags |= flag.small;
  if (record.origin) flags |= flag.origin;
  return flags;
}

function originOf(bytes: Buffer): Origin {
  return {
    handle: chunkHandle(Number(bytes.readBigUInt64LE(24))),
    version: chunkVersion(Number(bytes.readBigUInt64LE(32))),
    length: Number(bytes.readBigUInt64LE(40)),
  };
}
