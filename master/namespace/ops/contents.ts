import type { ChunkHandle, ChunkVersion, Ino, ServerId } from "../../../protocol/id.ts";
import { chunkVersion } from "../../../protocol/id.ts";
import { fileBytesMax } from "../../../protocol/limits.ts";
import { StatusError } from "../../../protocol/status.ts";
import { numberFromKey, numberKey } from "../../store/bytes.ts";
import type { Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import { dropCapability } from "./acl.ts";
import { regular } from "./ranges.ts";

/** The contents of regular files as the master knows them: sizes and chunks. */

/** Written data has reached its replicas: the file has grown, times move on. */
export function commitWrite(
  txn: Txn,
  wanted: {
    ino: Ino;
    size: number;
    mtime: bigint;
    written: readonly { index: number; handle: ChunkHandle }[];
  },
): Inode {
  const inode = regular(txn, wanted.ino);
  for (const { index, handle } of wanted.written) {
    const ref = txn.findChunkRef(wanted.ino, index);
    // A truncation by another mount has freed what was written: the file must not grow over it. If
    // it does not grow, what was written was overwritten by a hole, and that is all.
    if (!ref && !txn.findChunk(handle) && wanted.size > inode.size) {
      throw new StatusError("stale", "the data was truncated");
    }
    // Another chunk is there by now: a copy of this one, or the next one after a truncation.
    if (ref?.handle !== handle) continue;
    const chunk = txn.chunk(handle);
    if (!chunk.written) txn.putChunk(ref.handle, { ...chunk, written: true });
  }
  const committed: Inode = {
    ...dropCapability(txn, wanted.ino, inode),
    size: Math.max(inode.size, wanted.size),
    mtime: wanted.mtime,
    ctime: timeOfWrite(txn, inode, wanted.mtime),
  };
  txn.touched.contents.add(wanted.ino);
  txn.putInode(wanted.ino, committed);
  return committed;
}

/**
 * ctime is that of the write, which was shown already, and not of the commit; as long as the
 * mount's clock and this one agree that it moves on.
 */
function timeOfWrite(txn: Txn, { ctime }: Inode, mtime: bigint): bigint {
  return mtime > ctime && mtime <= txn.nowNs ? mtime : txn.nowNs;
}

/** A copy, made on its servers, of the chunk at a file's new end. */
export interface CutCopy {
  source: ChunkHandle;
  handle: ChunkHandle;
  /** Those that have made it. */
  servers: readonly ServerId[];
}

/** What was prepared for a shared chunk that is to be cut: its copy, or none as it has no data. */
export interface CutPlan {
  source: ChunkHandle;
  made: CutCopy | undefined;
}

/**
 * truncate(2). Whole chunks beyond the new end go at once. A chunk that the new end cuts is marked:
 * it has to be cut on its servers before anybody uses it again. A shared one is replaced by the
 * copy that the caller has had made. Growing cuts too, at the old end: beyond it there may be bytes
 * that were written and never committed.
 */
export function truncate(
  txn: Txn,
  wanted: { ino: Ino; size: number; chunkBytes: number; copy?: CutPlan | undefined },
): Inode {
  const { ino, size, chunkBytes } = wanted;
  if (size > fileBytesMax) throw new StatusError("too-large", "the file would be too large");
  const inode = regular(txn, ino);
  const kept = dropCapability(txn, ino, inode);
  const changed = { ...kept, size, mtime: txn.nowNs, ctime: txn.nowNs };
  const end = Math.min(size, inode.size);
  const keep = Math.ceil(end / chunkBytes);
  for (const { key } of txn.rows("chunkmap", ino, numberKey(ino, keep))) {
    txn.setChunkRef(ino, numberFromKey(key, 8), undefined);
    changed.chunks -= 1;
  }
  if (end % chunkBytes !== 0 && size !== inode.size) changed.chunks -= cutLast(txn, wanted, end);
  txn.touched.contents.add(ino);
  txn.putInode(ino, changed);
  return changed;
}

/**
 * Cuts off what lies beyond a file's end: bytes in its last chunk, and chunks after it, which
 * somebody has written who did not live to commit them. As `truncate` to the size that it has.
 */
export function cutTail(
  txn: Txn,
  wanted: { ino: Ino; size: number; chunkBytes: number; copy?: CutPlan | undefined },
): void {
  const { ino, size, chunkBytes } = wanted;
  const inode = regular(txn, ino);
  if (inode.size !== size) throw changedMeanwhile();
  txn.touched.contents.add(ino);
  let fewer = 0;
  const keep = Math.ceil(size / chunkBytes);
  for (const { key } of txn.rows("chunkmap", ino, numberKey(ino, keep))) {
    txn.setChunkRef(ino, numberFromKey(key, 8), undefined);
    fewer += 1;
  }
  if (size % chunkBytes !== 0) fewer += cutLast(txn, wanted, size);
  txn.putInode(ino, { ...inode, chunks: inode.chunks - fewer });
}

/**
 * The shared chunk, if there is one, that truncating to `size` has to cut; or that has to be cut at
 * the file's end, if that is what `size` is.
 */
export function needsCutCopy(
  txn: Pick<Txn, "findInode" | "findChunkRef" | "isExclusive">,
  wanted: { ino: Ino; size: number; chunkBytes: number },
): ChunkHandle | undefined {
  const inode = txn.findInode(wanted.ino);
  if (!inode || wanted.size > inode.size || wanted.size % wanted.chunkBytes === 0) {
    return undefined;
  }
  const ref = txn.findChunkRef(wanted.ino, Math.floor(wanted.size / wanted.chunkBytes));
  return ref && !txn.isExclusive(wanted.ino, ref) ? ref.handle : undefined;
}

/** Cuts the chunk in which the file's new end is. Returns how many chunks the file has fewer. */
function cutLast(
  txn: Txn,
  wanted: { ino: Ino; size: number; chunkBytes: number; copy?: CutPlan | undefined },
  end: number,
): number {
  const { ino, size, chunkBytes, copy } = wanted;
  const index = Math.floor(end / chunkBytes);
  const ref = txn.findChunkRef(ino, index);
  if (!ref) return 0;
  if (txn.isExclusive(ino, ref)) {
    const chunk = txn.chunk(ref.handle);
    const length = end % chunkBytes;
    txn.putChunk(ref.handle, { ...chunk, cutTo: Math.min(chunk.cutTo ?? length, length) });
    return 0;
  }
  // What a snapshot shows was whole when it was taken; growing leaves it to the next write's copy.
  if (size > end) return 0;
  if (copy?.source !== ref.handle) throw changedMeanwhile();
  if (copy.made) putCopy(txn, ino, index, copy.made);
  else txn.setChunkRef(ino, index, undefined);
  return copy.made ? 0 : 1;
}

/**
 * The chunk at `index` becomes the copy, which has one reference, version 1 and the file's goal.
 */
export function putCopy(txn: Txn, ino: Ino, index: number, copy: CutCopy): void {
  const { written } = txn.chunk(copy.source);
  const goal = txn.inode(ino).replicas;
  const { servers } = copy;
  const version = chunkVersion(1);
  txn.putChunk(copy.handle, { version, refs: 1, goal, written, servers, cutTo: undefined });
  txn.setChunkRef(ino, index, copy.handle);
}

/** What was found before a step on chunk servers is not so any more: the request is tried again. */
export function changedMeanwhile(): StatusError {
  return new StatusError("unavailable", "the file was changed meanwhile");
}

/** A new chunk for a hole: its record, its row, and the servers that are told to hold it. */
export function addChunk(
  txn: Txn,
  wanted: { ino: Ino; index: number; handle: ChunkHandle; servers: readonly ServerId[] },
): ChunkVersion {
  const inode = regular(txn, wanted.ino);
  const version = chunkVersion(1);
  txn.putChunk(wanted.handle, {
    version,
    refs: 1,
    goal: inode.replicas,
    written: false,
    servers: wanted.servers,
    cutTo: undefined,
  });
  txn.setChunkRef(wanted.ino, wanted.index, wanted.handle);
  txn.putInode(wanted.ino, { ...inode, chunks: inode.chunks + 1 });
  return version;
}
