import type { ChunkHandle } from "../../protocol/id.ts";
import type { Store } from "./store.ts";
import type { Chunk } from "./table.ts";

/**
 * Deletes a chunk, if it is there. A crash between the two steps leaves a file and a note that it
 * is to go: recover.ts.
 */
export function removeChunk(store: Store, handle: ChunkHandle): Promise<void> {
  return store.table.with(handle, (chunk) =>
    chunk.gate.run("exclusive", () =>
      chunk.applying.run("exclusive", () => removeLocked(store, chunk)),
    ),
  );
}

/** For one who holds the chunk's gate and `applying`: record first, then the file. */
export async function removeLocked(store: Store, chunk: Chunk): Promise<void> {
  const { handle, record } = chunk;
  if (!record && chunk.unusable === undefined) return;
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
    if (!file) return;
    await store.disk.remove("remove.file", store.files.path(handle));
    store.index.removalEnded(handle);
  } finally {
    chunk.ended += 1;
    chunk.synced = chunk.ended;
  }
}
