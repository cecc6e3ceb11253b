import type { ChunkHandle } from "../../protocol/id.ts";
import type { Store } from "./store.ts";
import type { Chunk } from "./table.ts";

/**
 * Deletes a chunk, if it is there, and what an earlier try left of its file. A crash on the way
 * leaves a file, at the end of power also one that was deleted already, and a note that it is to
 * go: recover.ts.
 */
export function removeChunk(store: Store, handle: ChunkHandle): Promise<void> {
  return store.table.with(handle, (chunk) =>
    chunk.gate.run("exclusive", () =>
      chunk.applying.run("exclusive", () => removeLocked(store, chunk)),
    ),
  );
}

/**
 * For one who holds the chunk's gate and `applying`: record first, then the file. Whoever makes the
 * chunk anew has a note of his own, so this one's ends before they can.
 */
export async function removeLocked(store: Store, chunk: Chunk): Promise<void> {
  const { handle, record } = chunk;
  const isHere = record !== undefined || chunk.unusable !== undefined;
  const isLeft = store.files.strays.has(handle) || store.index.isBeingRemoved(handle);
  const file = isLeft || (isHere && !record?.bytes);
  if (!isHere) store.faults.forget(handle); // Its first write may have failed.
  if (!isHere && !file) return;
  chunk.begun += 1;
  try {
    if (isHere) await removeRecord(store, chunk, file);
    if (file) await removeFile(store, handle);
  } finally {
    chunk.ended += 1;
    chunk.synced = chunk.ended;
  }
}

async function removeRecord(store: Store, chunk: Chunk, file: boolean): Promise<void> {
  const { handle } = chunk;
  await store.index.remove(handle, { file }).committed;
  store.table.replace(chunk, undefined);
  chunk.unusable = undefined;
  chunk.unsafe = undefined;
  chunk.nameUnsynced = false;
  store.faults.forget(handle);
  store.files.forget(handle);
}

async function removeFile(store: Store, handle: ChunkHandle): Promise<void> {
  await store.disk.remove("remove.file", store.files.path(handle));
  store.files.strays.delete(handle);
  await store.disk.syncDirectory("remove.sync-dir", store.files.directory(handle));
  store.index.removalEnded(handle);
}
