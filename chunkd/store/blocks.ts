import { assert, must } from "../../common/assert.ts";
import { blockBytes, crc32c } from "../../common/crc32c.ts";

/**
 * The arithmetic of block CRCs when a range of a chunk is replaced. Nothing here touches a disk.
 */

const zeros = Buffer.alloc(blockBytes);
const zeroBlockCrc = crc32c(zeros);

export interface Splice {
  /** The first block whose CRC changes. */
  first: number;
  /** The CRCs from there to the last block that changes. */
  crcs: number[];
  /** The chunk's length afterwards. */
  length: number;
}

/**
 * The CRCs of a chunk (`length`, `crcs`) after `bytes` are written at `offset`. A gap between the
 * old end and `offset` counts as zeros. `bytesCrcs` are those of `crcsByBlock(bytes, offset)`.
 * `readBlock` gives the verified old bytes of a block of which a part stays; it is asked for two at
 * most.
 */
export async function splice(options: {
  length: number;
  crcs: readonly number[];
  offset: number;
  bytes: Buffer;
  bytesCrcs: readonly number[];
  readBlock: (block: number) => Promise<Buffer>;
}): Promise<Splice> {
  const { offset, bytes, bytesCrcs } = options;
  assert(bytes.length > 0, "something is written");
  const first = Math.floor(Math.min(options.length, offset) / blockBytes);
  const changed = zeroFill({ ...options, first });
  const length = Math.max(options.length, offset);
  let at = 0;
  for (const bytesCrc of bytesCrcs) {
    const start = offset + at;
    const block = Math.floor(start / blockBytes);
    const take = Math.min((block + 1) * blockBytes - start, bytes.length - at);
    const piece = bytes.subarray(at, at + take);
    changed[block - first] = await pieceCrc({
      block,
      start,
      piece,
      bytesCrc,
      oldEnd: Math.min((block + 1) * blockBytes, length),
      oldCrc: changed[block - first] ?? options.crcs[block],
      readBlock: options.readBlock,
    });
    at += take;
  }
  assert(at === bytes.length, "there is one CRC for each piece");
  return { first, crcs: changed, length: Math.max(length, offset + bytes.length) };
}

/** CRCs from block `first` on, of a chunk that was filled with zeros up to `offset`. */
function zeroFill(options: {
  length: number;
  crcs: readonly number[];
  offset: number;
  first: number;
}): number[] {
  const changed: number[] = [];
  for (let at = options.length; at < options.offset;) {
    const block = Math.floor(at / blockBytes);
    const end = Math.min((block + 1) * blockBytes, options.offset);
    const gap = end - at;
    if (at % blockBytes !== 0) {
      changed.push(crc32c(zeros.subarray(0, gap), must(options.crcs[block], "the last CRC")));
    } else {
      changed.push(gap === blockBytes ? zeroBlockCrc : crc32c(zeros.subarray(0, gap)));
    }
    at = end;
  }
  return changed;
}

/** The CRC of one block after `piece` is written into it at `start` of the chunk. */
async function pieceCrc(options: {
  block: number;
  start: number;
  piece: Buffer;
  bytesCrc: number;
  /** Where the block's old bytes end; before `start` if it had none there. */
  oldEnd: number;
  oldCrc: number | undefined;
  readBlock: (block: number) => Promise<Buffer>;
}): Promise<number> {
  const { block, start, piece, bytesCrc, oldEnd } = options;
  const blockStart = block * blockBytes;
  const end = start + piece.length;
  const keepsHead = start > blockStart;
  const keepsTail = end < oldEnd;
  if (!keepsHead && !keepsTail) return bytesCrc;
  if (!keepsTail && start === oldEnd) return crc32c(piece, must(options.oldCrc, "the head's CRC"));
  const old = await options.readBlock(block);
  const head = keepsHead ? crc32c(piece, crc32c(old.subarray(0, start - blockStart))) : bytesCrc;
  return keepsTail ? crc32c(old.subarray(end - blockStart), head) : head;
}
