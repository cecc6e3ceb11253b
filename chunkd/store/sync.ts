import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { diskFailure } from "./faults.ts";
import { persist, type Store } from "./store.ts";
import { type Chunk, expectVersion } from "./table.ts";

/**
 * Making writes survive the end of power, and dirty chunks clean.
 *
 * `syncChunk` leaves a file chunk dirty: after a crash the synced bytes are in the file, and the
 * flushed mark says that length and CRCs come from there. So a program that syncs after every write
 * pays for one fdatasync each, not for that of a mark and of a record too. The cleaner writes the
 * record when the chunk has fallen silent.
 */

/**
 * All writes of the chunk that were answered before survive. Throws `no-chunk`, `stale-version`.
 */
export function syncChunk(
  store: Store,
  chunk: { handle: ChunkHandle; version: ChunkVersion },
): Promise<void> {
  return store.table.with(chunk.handle, async (found) => {
    const record = expectVersion(found, chunk.version);
    try {
      if (!record.bytes) await syncFile(store, found);
      await store.index.flushed();
    } catch (error) {
      store.space.writeFailed(error);
      throw diskFailure(error, `chunk ${chunk.handle} could not be synced`);
    }
  });
}

/** fdatasync of the chunk's file. Those who come while one is under way share the next. */
export function syncFile(store: Store, chunk: Chunk): Promise<void> {
  if (chunk.syncNext) return chunk.syncNext;
  if (chunk.synced === chunk.ended && !chunk.nameUnsynced && !chunk.syncing) {
    return Promise.resolve();
  }
  const run = syncAfter(store, chunk, chunk.syncing).finally(() => {
    if (chunk.syncing === run) chunk.syncing = undefined;
  });
  chunk.syncNext = run;
  return run;
}

async function syncAfter(
  store: Store,
  chunk: Chunk,
  before: Promise<void> | undefined,
): Promise<void> {
  // A failure of the one before is told to those who wait for it; this one tries itself.
  await Promise.allSettled([before]);
  chunk.syncing = chunk.syncNext;
  chunk.syncNext = undefined;
  await syncNow(store, chunk);
}

async function syncNow(store: Store, chunk: Chunk): Promise<void> {
  const upTo = chunk.ended;
  if (chunk.synced !== upTo) {
    await store.syncs.acquire(1);
    try {
      await store.files.use(chunk.handle, "write", (file) => file.datasync("sync.data"));
    } finally {
      store.syncs.release(1);
    }
  }
  if (chunk.nameUnsynced) {
    await store.disk.syncDirectory("sync.name", store.files.directory(chunk.handle));
    chunk.nameUnsynced = false;
  }
  chunk.synced = upTo;
}

/**
 * Writes the CRCs of a dirty chunk to the index. Resolves with false if somebody wrote meanwhile.
 */
export function cleanChunk(store: Store, handle: ChunkHandle): Promise<boolean> {
  return store.table.with(handle, async (chunk) => {
    if (!chunk.record?.bytes && chunk.record?.dirty) await syncFile(store, chunk);
    return chunk.applying.run("exclusive", async () => {
      const { record } = chunk;
      const clean = !record?.dirty || chunk.unusable !== undefined;
      if (clean) {
        store.table.noteClean(handle);
        return true;
      }
      if (record.fresh || (!record.bytes && chunk.synced !== chunk.ended)) return false;
      await persist(store, chunk, { ...record, dirty: false }).committed;
      record.dirty = false;
      store.table.noteClean(handle);
      return true;
    });
  });
}
