/**
 * What fuse-native's C code takes as answers: arrays of 32-bit words, and negative errno numbers.
 */

import { constants } from "node:os";
import { must } from "../../common/assert.ts";
import { statusErrno, statusOf } from "../../protocol/status.ts";
import type { NodeAttr, Statfs } from "./filesystem.ts";

const word = 2 ** 32;

/** Preferred size of reads and writes (st_blksize): the checksum unit of chunks. */
const preferredBytes = 64 * 1024;

const errnoNumbers = new Map<string, number>(Object.entries(constants.errno));

/** The negative errno of a failed operation. Whatever is not a `StatusError` is EIO. */
export function errnoOf(error: unknown): number {
  return -must(errnoNumbers.get(statusErrno(statusOf(error))), "errno of every status");
}

/**
 * st_ino in the 32 bits that `populate_stat` takes: the low ones. Never 0, which readdir(3) users
 * take for a deleted entry.
 */
function ino32(ino: number): number {
  return ino % word || word - 1;
}

/** The 18 words that `populate_stat` in fuse-native.c reads. */
export function statWords(attr: NodeAttr): Uint32Array {
  const words = new Uint32Array(18);
  words[0] = attr.mode;
  words[1] = attr.uid;
  words[2] = attr.gid;
  setDouble(words, 3, attr.size);
  words[6] = attr.nlink;
  words[7] = ino32(attr.ino);
  words[8] = attr.rdev;
  words[9] = preferredBytes;
  setDouble(words, 10, attr.blocks);
  setDouble(words, 12, milliseconds(attr.atime));
  setDouble(words, 14, milliseconds(attr.mtime));
  setDouble(words, 16, milliseconds(attr.ctime));
  return words;
}

/**
 * The 11 words that `populate_statvfs` reads. The counts have 32 bits, so the block size is doubled
 * until they fit: `df` then shows the true size, rounded to one such block.
 */
export function statfsWords(statfs: Statfs): Uint32Array {
  let { blockBytes, blocks, blocksFree } = statfs;
  while (Math.max(blocks, blocksFree) >= word && blockBytes < word / 4) {
    blockBytes *= 2;
    blocks = Math.floor(blocks / 2);
    blocksFree = Math.floor(blocksFree / 2);
  }
  const fit = (count: number): number => Math.min(count, word - 1);
  const words = new Uint32Array(11);
  words[0] = blockBytes;
  words[1] = blockBytes;
  words[2] = fit(blocks);
  words[3] = fit(blocksFree);
  words[4] = fit(blocksFree);
  words[5] = fit(statfs.files);
  words[6] = fit(statfs.filesFree);
  words[7] = fit(statfs.filesFree);
  words[10] = statfs.nameBytesMax;
  return words;
}

function setDouble(words: Uint32Array, at: number, value: number): void {
  words[at] = value % word;
  words[at + 1] = Math.floor(value / word);
}

/** Times are unsigned milliseconds in `uint32s_to_timespec`: before 1970 becomes 1970. */
function milliseconds(ns: bigint): number {
  return ns < 0n ? 0 : Number(ns / 1_000_000n);
}
