import { must } from "../../../common/assert.ts";
import type { ChunkHandle, ChunkVersion, Epoch, Ino, ServerId } from "../../../protocol/id.ts";
import { chunkVersion } from "../../../protocol/id.ts";
import { fileBytesMax } from "../../../protocol/limits.ts";
import { StatusError } from "../../../protocol/status.ts";
import { numberFromKey, numberKey } from "../../store/bytes.ts";
import { rowsAt } from "../../store/history.ts";
import { decodeChunkRef, decodeInode, type Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import { isDirectory, isRegular } from "./common.ts";

/** The contents of regular files as the master knows them: sizes and chunks. */

function regular(txn: Txn, ino: Ino): Inode {
  const inode = txn.inode(ino);
  if (isDirectory(inode)) throw new StatusError("is-directory", "it is a directory");
  if (!isRegular(inode)) throw new StatusError("invalid", "it is not a regular file");
  return inode;
}

/** Written data has reached its replicas: the file has grown, times move on. */
export function commitWrite(
  txn: Txn,
  wanted: { ino: Ino; size: number; mtime: bigint; written: readonly number[] },
): Inode {
  const inode = regular(txn, wanted.ino);
  for (const index of wanted.written) {
    const ref = txn.findChunkRef(wanted.ino, index);
    if (!ref) continue;
    const chunk = txn.chunk(ref.handle);
    if (chunk.planned.length > 0) txn.putChunk(ref.handle, { ...chunk, planned: [] });
  }
  const committed: Inode = {
    ...inode,
    size: Math.max(inode.size, wanted.size),
    mtime: wanted.mtime,
    ctime: txn.nowNs,
  };
  txn.putInode(wanted.ino, committed);
  return committed;
}

/** A copy, made on its servers, of the chunk at a file's new end. */
export interface CutCopy {
  source: ChunkHandle;
  handle: ChunkHandle;
}

/**
 * truncate(2). Whole chunks beyond the new end go at once. A chunk that the new end cuts is either
 * cut on its servers afterwards (`cut` names it; until that is done the record says so), or, if it
 * is shared, replaced by `copy`, which the caller has had made.
 */
export function truncate(
  txn: Txn,
  wanted: { ino: Ino; size: number; chunkBytes: number; copy?: CutCopy | undefined },
): { inode: Inode; cut: ChunkHandle | undefined } {
  const { ino, size, chunkBytes } = wanted;
  if (size > fileBytesMax) throw new StatusError("too-large", "the file would be too large");
  const inode = regular(txn, ino);
  const changed = { ...inode, size, mtime: txn.nowNs, ctime: txn.nowNs };
  let cut: ChunkHandle | undefined;
  if (size < inode.size) {
    const keep = Math.ceil(size / chunkBytes);
    for (const { key } of txn.rows("chunkmap", ino, numberKey(ino, keep))) {
      txn.setChunkRef(ino, numberFromKey(key, 8), undefined);
      changed.chunks -= 1;
    }
    if (size % chunkBytes !== 0) cut = cutLast(txn, wanted, size % chunkBytes);
  }
  txn.putInode(ino, changed);
  return { inode: changed, cut };
}

/** True when truncating to `size` needs a copy of the chunk that the new end cuts. */
export function needsCutCopy(
  txn: Pick<Txn, "findInode" | "findChunkRef" | "isExclusive">,
  wanted: { ino: Ino; size: number; chunkBytes: number },
): ChunkHandle | undefined {
  const inode = txn.findInode(wanted.ino);
  if (!inode || wanted.size >= inode.size || wanted.size % wanted.chunkBytes === 0)
    return undefined;
  const ref = txn.findChunkRef(wanted.ino, Math.floor(wanted.size / wanted.chunkBytes));
  return ref && !txn.isExclusive(wanted.ino, ref) ? ref.handle : undefined;
}

function cutLast(
  txn: Txn,
  wanted: { ino: Ino; size: number; chunkBytes: number; copy?: CutCopy | undefined },
  length: number,
): ChunkHandle | undefined {
  const index = Math.floor(wanted.size / wanted.chunkBytes);
  const ref = txn.findChunkRef(wanted.ino, index);
  if (!ref) return undefined;
  const chunk = txn.chunk(ref.handle);
  if (!txn.isExclusive(wanted.ino, ref)) {
    const copy = wanted.copy;
    if (copy?.source !== ref.handle) throw changedMeanwhile();
    putCopy(txn, wanted.ino, index, copy);
    return undefined;
  }
  txn.putChunk(ref.handle, { ...chunk, cutTo: Math.min(chunk.cutTo ?? length, length) });
  return ref.handle;
}

/** The chunk at `index` becomes the copy, which has one reference and version 1. */
export function putCopy(txn: Txn, ino: Ino, index: number, copy: CutCopy): void {
  const { goal } = txn.chunk(copy.source);
  const version = chunkVersion(1);
  txn.putChunk(copy.handle, { version, refs: 1, goal, planned: [], cutTo: undefined });
  txn.setChunkRef(ino, index, copy.handle);
}

/** What was found before a step on chunk servers is not so any more: the request is tried again. */
export function changedMeanwhile(): StatusError {
  return new StatusError("unavailable", "the file was changed meanwhile");
}

/** A new chunk for a hole: its record, its row, and the servers that are told to hold it. */
export function addChunk(
  txn: Txn,
  wanted: { ino: Ino; index: number; handle: ChunkHandle; planned: readonly ServerId[] },
): ChunkVersion {
  const inode = regular(txn, wanted.ino);
  const version = chunkVersion(1);
  txn.putChunk(wanted.handle, {
    version,
    refs: 1,
    goal: inode.replicas,
    planned: [...wanted.planned],
    cutTo: undefined,
  });
  txn.setChunkRef(wanted.ino, wanted.index, wanted.handle);
  txn.putInode(wanted.ino, { ...inode, chunks: inode.chunks + 1 });
  return version;
}

/** Gives the empty file `ino` the contents that `source` had in epoch `at`, sharing its chunks. */
export function shareContents(txn: Txn, wanted: { source: Ino; at: Epoch; ino: Ino }): Inode {
  const inode = regular(txn, wanted.ino);
  if (inode.size !== 0 || inode.chunks !== 0) {
    throw new StatusError("invalid", "only an empty file can be given shared contents");
  }
  const record = txn.recordAt("inode", numberKey(wanted.source), wanted.at);
  const source = decodeInode(must(record, "the source in the snapshot"));
  if (!isRegular(source)) throw new StatusError("invalid", "the source is not a regular file");
  const prefix = numberKey(wanted.source);
  let chunks = 0;
  for (const row of rowsAt(txn.before, "chunkmap", { prefix, at: wanted.at })) {
    const { handle } = decodeChunkRef(row.value);
    if (txn.chunk(handle).planned.length > 0) continue;
    txn.addReference(handle);
    txn.setChunkRef(wanted.ino, numberFromKey(row.key, 8), handle);
    chunks += 1;
  }
  const shared = { ...inode, size: source.size, chunks, mtime: txn.nowNs, ctime: txn.nowNs };
  txn.putInode(wanted.ino, shared);
  return shared;
}
