import { crc32c as hardware } from "@node-rs/crc32";

/**
 * CRC32C (Castagnoli, as in iSCSI, RFC 3720 §12.1) of `bytes`. With `seed`, the CRC of earlier
 * bytes, the result is that of both together: `crc32c(b, crc32c(a)) === crc32c(a + b)`.
 */
export function crc32c(bytes: Uint8Array, seed = 0): number {
  return hardware(bytes, seed);
}

/** The checksum unit of chunks: every 64 KiB of a chunk has its own CRC32C (GFS §5.2). */
export const blockBytes = 64 * 1024;

/**
 * CRCs of the pieces that `bytes` falls into when it starts at `offset` of a chunk and is cut at
 * the chunk's block borders. The first and the last piece may be shorter than a block.
 */
export function crcsByBlock(bytes: Uint8Array, offset: number): number[] {
  const crcs: number[] = [];
  for (let at = 0; at < bytes.length;) {
    const take = Math.min(blockBytes - ((offset + at) % blockBytes), bytes.length - at);
    crcs.push(crc32c(bytes.subarray(at, at + take)));
    at += take;
  }
  return crcs;
}

/** True when `crcs` are those that `crcsByBlock` gives for these bytes. */
export function crcsMatch(bytes: Uint8Array, offset: number, crcs: readonly number[]): boolean {
  const actual = crcsByBlock(bytes, offset);
  return actual.length === crcs.length && actual.every((crc, i) => crc === crcs[i]);
}
