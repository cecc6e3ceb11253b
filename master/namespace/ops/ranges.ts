import type { Epoch, Ino } from "../../../protocol/id.ts";
import { isDirectory, isRegular } from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import { numberFromKey, numberKey } from "../../store/bytes.ts";
import { rowsAt } from "../../store/history.ts";
import type { StoreReader } from "../../store/store.ts";
import { decodeChunk, decodeChunkRef, decodeInode, type Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import { dropCapability } from "./acl.ts";

/** Ranges of regular files: chunks dropped, and shared with other files. */

/**
 * Rows of the chunk map that one transaction changes: some 20 ms of work, so that others need not
 * wait long. With chunks of 64 MiB it is 64 GiB of a file.
 */
export const rowsPerStepMax = 1024;

/** Throws `is-directory`, or `invalid` for what has no contents. */
export function regular(txn: Txn, ino: Ino): Inode {
  const inode = txn.inode(ino);
  if (isDirectory(inode)) throw new StatusError("is-directory", "it is a directory");
  if (!isRegular(inode)) throw new StatusError("invalid", "it is not a regular file");
  return inode;
}

/** The chunk after `rowsPerStepMax` others that the file has from `first` on, if it has so many. */
export function stepEnd(store: StoreReader, ino: Ino, first: number): number | undefined {
  let rows = 0;
  const range = { prefix: numberKey(ino), from: numberKey(ino, first), at: undefined };
  for (const { key } of rowsAt(store, "chunkmap", range)) {
    if (rows === rowsPerStepMax) return numberFromKey(key, 8);
    rows += 1;
  }
  return undefined;
}

/**
/** What changes with contents: times, and capabilities. */
export function contentsChanged(txn: Txn, ino: Ino, inode: Inode): Inode {
  return { ...dropCapability(txn, ino, inode), mtime: txn.nowNs, ctime: txn.nowNs };
}

/**
 * Makes holes of the chunks that lie wholly in the range; the one that the file ends in counts as
 * whole when the range reaches the end. At most `rowsPerStepMax` at a time; `more` if there are
 * others. What snapshots show stays theirs.
 */
export function dropChunks(
  txn: Txn,
  wanted: { ino: Ino; offset: number; length: number; chunkBytes: number },
): { inode: Inode; more: boolean } {
  const { ino, offset, length, chunkBytes } = wanted;
  const inode = regular(txn, ino);
  const first = Math.ceil(offset / chunkBytes);
  const end = endOfWhole(inode.size, offset + length, chunkBytes);
  let dropped = 0;
  let more = false;
  for (const { key } of txn.rows("chunkmap", ino, numberKey(ino, first))) {
    const index = numberFromKey(key, 8);
    if (index >= end) break;
    more = dropped === rowsPerStepMax;
    if (more) break;
    txn.setChunkRef(ino, index, undefined);
    dropped += 1;
  }
  const changed = { ...inode, chunks: inode.chunks - dropped };
  if (dropped > 0) txn.putInode(ino, changed);
  return { inode: changed, more };
}

/**
 * The chunks below this one end before `end`, or hold nothing after it. Chunks beyond the file's
 * size are not counted: they belong to a mount that is about to make it longer.
 */
function endOfWhole(size: number, end: number, chunkBytes: number): number {
  return end >= size ? Math.ceil(size / chunkBytes) : Math.floor(end / chunkBytes);
}

/** A range of one file that another one is to have as well, by bytes. */
interface SharedRange {
  source: Ino;
  /** The source as it was in that epoch, a snapshot's; as it is, without. */
  at: Epoch | undefined;
  offset: number;
  ino: Ino;
  targetOffset: number;
  length: number;
}

/**
 * How much of a range can be shared, in bytes: whole chunks, at most `rowsPerStepMax`; and the last
 * one of the source, which is not full, if the target ends there too. 0 if it has to be copied.
 */
function shareable(
  range: Pick<SharedRange, "offset" | "targetOffset" | "length">,
  sizes: { source: number; target: number },
  chunkBytes: number,
): number {
  const { offset, targetOffset } = range;
  if (offset % chunkBytes !== 0 || targetOffset % chunkBytes !== 0) return 0;
  const length = Math.min(range.length, sizes.source - offset, rowsPerStepMax * chunkBytes);
  if (length <= 0) return 0;
  const endsBoth = offset + length === sizes.source && targetOffset + length >= sizes.target;
  return endsBoth ? length : length - (length % chunkBytes);
}

/**
 * copy_file_range(2) without copying: the target gets the source's chunks, and its holes. Returns
 * how many bytes, as `shareable` says. Nobody may be writing to the source's chunks in place: the
 * caller has fenced that. Throws `invalid` if the ranges overlap in one file.
 */
export function shareChunks(
  txn: Txn,
  range: SharedRange & { chunkBytes: number },
): { inode: Inode; copied: number } {
  const { ino, chunkBytes } = range;
  const target = regular(txn, ino);
  const source = sourceOf(txn, range);
  checkNoOverlap(range);
  const copied = shareable(range, { source: source.size, target: target.size }, chunkBytes);
  if (copied === 0) return { inode: target, copied };
  const from = range.offset / chunkBytes;
  const to = range.targetOffset / chunkBytes;
  const count = Math.ceil(copied / chunkBytes);
  txn.touched.contents.add(ino);
  const change = shareRows(txn, range, { from, to, count });
  const inode = {
    ...contentsChanged(txn, ino, target),
    size: Math.max(target.size, range.targetOffset + copied),
    chunks: target.chunks + change,
  };
  txn.putInode(ino, inode);
  return { inode, copied };
}

function sourceOf(txn: Txn, { source, at }: SharedRange): Inode {
  if (at === undefined) return regular(txn, source);
  const record = txn.recordAt("inode", numberKey(source), at);
  if (!record) throw new StatusError("stale", `inode ${source} is not in the snapshot`);
  const inode = decodeInode(record);
  if (!isRegular(inode)) throw new StatusError("invalid", "the source is not a regular file");
  return inode;
}

function checkNoOverlap({ source, at, ino, offset, targetOffset, length }: SharedRange): void {
  if (source !== ino || at !== undefined) return;
  if (Math.abs(offset - targetOffset) < length) {
    throw new StatusError("invalid", "the ranges overlap");
  }
}

/** Returns by how many chunks the target has more. */
function shareRows(
  txn: Txn,
  { source, at, ino }: SharedRange,
  { from, to, count }: { from: number; to: number; count: number },
): number {
  const prefix = numberKey(source);
  const handles = new Map<number, ReturnType<typeof decodeChunkRef>["handle"]>();
  const first = numberKey(source, from);
  for (const row of rowsAt(txn.before, "chunkmap", { prefix, from: first, at })) {
    const index = numberFromKey(row.key, 8);
    if (index >= from + count) break;
    const { handle } = decodeChunkRef(row.value);
    if (txn.chunk(handle).written) handles.set(to + index - from, handle);
  }
  let change = 0;
  for (const { key } of txn.rows("chunkmap", ino, numberKey(ino, to))) {
    const index = numberFromKey(key, 8);
    if (index >= to + count) break;
    change -= 1;
    if (!handles.has(index)) txn.setChunkRef(ino, index, undefined);
  }
  const { replicas } = txn.inode(ino);
  for (const [index, handle] of handles) {
    change += 1;
    txn.addReference(handle);
    const chunk = txn.chunk(handle);
    // What several files show has the largest of their goals.
    if (chunk.goal < replicas) txn.putChunk(handle, { ...chunk, goal: replicas });
    txn.setChunkRef(ino, index, handle);
  }
  return change;
}

/** Rows that one question for a run looks at: some 20 ms. */
const runRowsMax = 4096;

/** The first run of chunks with data at or after `index`, as `chunkRun` in the protocol says. */
export function findRun(
  store: StoreReader,
  { ino, at, index }: { ino: Ino; at: Epoch | undefined; index: number },
): { run?: { first: number; last: number }; more: boolean } {
  let run: { first: number; last: number } | undefined;
  let looked = 0;
  const prefix = numberKey(ino);
  for (const row of rowsAt(store, "chunkmap", { prefix, from: numberKey(ino, index), at })) {
    const found = numberFromKey(row.key, 8);
    const { handle } = decodeChunkRef(row.value);
    const chunk = store.get("chunk", numberKey(handle));
    const hasData = chunk !== undefined && decodeChunk(chunk).written;
    if (run && (!hasData || found !== run.last + 1)) return { run, more: false };
    if (hasData) run = { first: run?.first ?? found, last: found };
    looked += 1;
    if (run && looked >= runRowsMax) return { run, more: true };
  }
  return run ? { run, more: false } : { more: false };
}
