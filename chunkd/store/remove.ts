import type { ChunkHandle } from "../../protocol/id.ts";
import type { Store } from "./store.ts";
import type { Chunk } from "./table.ts";

/**
 * Deletes a chunk, if it is there. A crash on the way leaves a file, at the end of power also one
 * that was deleted already, and a note that it is to go: recover.ts.
 */
export function removeChunk(store: Store, handle: ChunkHandle): Promise<void> {
  return store.table.with(handle, async (chunk) => {
    const hadFile = await chunk.gate.run("exclusive", () =>
      chunk.applying.run("exclusive", () => removeLocked(store, chunk)),
    );
    if (!hadFile) return;
    await store.disk.syncDirectory("remove.sync-dir", store.files.directory(handle));
    store.index.removalEnded(handle);
  });
}

/**
 * For one who holds the chunk's gate and `applying`: record first, then the file. Resolves with
 * true if there was a file: the note that it is to go stays until `removalEnded`.
 */
export async function removeLocked(store: Store, chunk: Chunk): Promise<boolean> {
  const { handle, record } = chunk;
  if (!record && chunk.unusable === undefined) {
    store.faults.forget(handle); // Its first write may have failed.
    return false;
  }
  chunk.begun += 1;
  try {
    const file = !record?.bytes;
    await store.index.remove(handle, { file }).committed;
    store.table.replace(chunk, undefined);
    chunk.unusable = undefined;
    chunk.unsafe = undefined;
    chunk.nameUnsynced = false;
    store.faults.forget(handle);
    store.files.forget(handle);
    if (file) await store.disk.remove("remove.file", store.files.path(handle));
    return file;
  } finally {
    chunk.ended += 1;
    chunk.synced = chunk.ended;
  }
}
