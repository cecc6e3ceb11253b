import { type ChunkHandle, type Ino } from "../../../protocol/id.ts";
import { isDirectory, isRegular } from "../../../protocol/mode.ts";
import { numberFromKey, numberKey } from "../../store/bytes.ts";
import { rowsAt } from "../../store/history.ts";
import type { StoreReader } from "../../store/store.ts";
import { type Chunk, decodeChunk, decodeChunkRef, decodeInode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import { rowsPerStepMax } from "./ranges.ts";

/**
 * The number of replicas that is wanted of a file's chunks, its goal (GFS §2.3: users can designate
 * levels for parts of the namespace). Inodes have it for what is written to them, directories for
 * what is made in them, and every chunk has its own.
 *
 * A chunk that several files or a snapshot show has the largest goal that anybody who shows it was
 * given: it is only raised here, and keeps that until it is shown by one file and the goal is set
 * again.
 */

/** A file or directory, and the first of its chunks that is meant. */
export interface Item {
  ino: Ino;
  from: number;
}

/** How far a step came: `done` items as a whole, and the next one up to its chunk `from`. */
interface Step {
  done: number;
  from: number;
}

/**
 * Sets the goal of some files and directories, as many as one transaction may: at most
 * `rowsPerStepMax` inodes and chunks. What has it already is passed over: to go on after an
 * interruption is to begin anew. Items that do not exist any more count as done. Times do not move.
 */
export function setReplicas(
  txn: Txn,
  { items, replicas }: { items: readonly Item[]; replicas: number },
): Step & { inodes: number; chunks: number } {
  const changed = { inodes: 0, chunks: 0 };
  const visit = (item: Item, index: number, handle: ChunkHandle): void => {
    const chunk = txn.chunk(handle);
    const ref = txn.findChunkRef(item.ino, index);
    const own = ref !== undefined && txn.isExclusive(item.ino, ref);
    const goal = own ? replicas : Math.max(chunk.goal, replicas);
    if (goal === chunk.goal) return;
    txn.putChunk(handle, { ...chunk, goal });
    changed.chunks += 1;
  };
  const step = overChunks(txn.before, items, visit, (ino) => {
    const inode = txn.findInode(ino);
    if (!inode || inode.replicas === replicas) return;
    if (!isRegular(inode) && !isDirectory(inode)) return;
    txn.putInodeUntold(ino, { ...inode, replicas });
    changed.inodes += 1;
  });
  return { ...step, ...changed };
}

/** How many files want so many replicas, and how many of their chunks have them. */
interface GoalCount {
  goal: number;
  /** Files and directories. */
  inodes: number;
}

interface ReplicaCounts {
  goals: GoalCount[];
  chunks: { total: number; atGoal: number; belowGoal: number; aboveGoal: number };
}

/**
 * Counts what `setReplicas` sets, for as many items as one step may look at. `live` tells how many
 * servers that are up have a chunk. A chunk that two files show is counted with each of them.
 */
export function countReplicas(
  store: StoreReader,
  items: readonly Item[],
  live: (handle: ChunkHandle) => number,
): Step & ReplicaCounts {
  const goals = new Map<number, number>();
  const chunks = { total: 0, atGoal: 0, belowGoal: 0, aboveGoal: 0 };
  const step = overChunks(
    store,
    items,
    (_item, _index, handle) => {
      const chunk = chunkOf(store, handle);
      if (!chunk?.written) return; // A hole, as far as anybody can see.
      const count = live(handle);
      chunks.total += 1;
      if (count === chunk.goal) chunks.atGoal += 1;
      else chunks[count < chunk.goal ? "belowGoal" : "aboveGoal"] += 1;
    },
    (ino) => {
      const record = store.get("inode", numberKey(ino));
      const inode = record && decodeInode(record);
      if (!inode || (!isRegular(inode) && !isDirectory(inode))) return;
      goals.set(inode.replicas, (goals.get(inode.replicas) ?? 0) + 1);
    },
  );
  const list = [...goals].map(([goal, inodes]) => ({ goal, inodes }));
  return { ...step, goals: list.toSorted((a, b) => a.goal - b.goal), chunks };
}

function chunkOf(store: StoreReader, handle: ChunkHandle): Chunk | undefined {
  const record = store.get("chunk", numberKey(handle));
  return record && decodeChunk(record);
}

/** Visits items, those that are begun with chunk 0, and their chunks, up to the limit of a step. */
function overChunks(
  store: StoreReader,
  items: readonly Item[],
  chunk: (item: Item, index: number, handle: ChunkHandle) => void,
  begin: (ino: Ino) => void,
): Step {
  let left = rowsPerStepMax;
  let done = 0;
  for (const item of items) {
    const { ino, from } = item;
    if (left <= 0) return { done, from };
    left -= 1;
    if (from === 0) begin(ino);
    const options = { prefix: numberKey(ino), from: numberKey(ino, from), at: undefined };
    for (const { key, value } of rowsAt(store, "chunkmap", options)) {
      const index = numberFromKey(key, 8);
      if (left <= 0) return { done, from: index };
      left -= 1;
      chunk(item, index, decodeChunkRef(value).handle);
    }
    done += 1;
  }
  return { done, from: 0 };
}
