import type { OpenFile } from "../../common/disk.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { diskFailure } from "./faults.ts";
import { persist, type Store } from "./store.ts";
import { type Chunk, expectChunk, expectVersion } from "./table.ts";

/**
 * Making writes survive the end of power, and dirty chunks clean.
 *
 * `syncChunk` leaves a file chunk dirty: after a crash the synced bytes are in the file, and the
 * flushed mark says that length and CRCs come from there. So a program that syncs after every write
 * pays for one fdatasync each, not for that of a mark and of a record too. The cleaner writes the
 * record when the chunk has fallen silent.
 *
 * A sync that failed is never tried again: Linux drops the pages that it could not write, or calls
 * them written, so the next fdatasync succeeds without them, and what is read back comes from
 * memory. The replica is bad from then on: reported, neither read nor written, and dirty in the
 * index until it is replaced. A restart takes it as it finds it on the disk, and reports it dirty.
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
function syncFile(store: Store, chunk: Chunk): Promise<void> {
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
  await Promise.allSettled([before]);
  chunk.syncing = chunk.syncNext;
  chunk.syncNext = undefined;
  await syncNow(store, chunk);
}

async function syncNow(store: Store, chunk: Chunk): Promise<void> {
  expectChunk(chunk); // The sync before may have failed.
  const upTo = chunk.ended;
  if (chunk.synced !== upTo) {
    await store.syncs.acquire(1);
    try {
      await store.files.use(chunk.handle, "write", (file) =>
        datasync(store, chunk, file, "sync.data"),
      );
    } finally {
      store.syncs.release(1);
    }
  }
  await syncName(store, chunk);
  chunk.synced = upTo;
}

/** A file that is new has its name on the disk when this resolves. */
export async function syncName(store: Store, chunk: Chunk): Promise<void> {
  if (!chunk.nameUnsynced) return;
  const directory = store.files.directory(chunk.handle);
  await orUnsafe(store, chunk, store.disk.syncDirectory("sync.name", directory));
  chunk.nameUnsynced = false;
}

/** fdatasync of a chunk's file, once: see above. */
export function datasync(store: Store, chunk: Chunk, file: OpenFile, site: string): Promise<void> {
  return orUnsafe(store, chunk, file.datasync(site));
}

async function orUnsafe(store: Store, chunk: Chunk, synced: Promise<void>): Promise<void> {
  try {
    await synced;
  } catch (error) {
    const { handle, record } = chunk;
    const reason = "the disk failed to keep bytes that were written to it";
    chunk.unsafe = reason;
    if (record) store.faults.noteBad({ handle, version: record.version, reason, blocks: [] });
    throw error;
  }
}

/**
 * A replica that may differ from the others stays dirty in the index, so that the master compares
 * it if this server stops: one with a failed write, or in doubt, until it is raised, one that is
 * bad until it is replaced.
 */
function mayBeCleaned(store: Store, chunk: Chunk): boolean {
  const { handle, record } = chunk;
  if (!record?.dirty || chunk.unusable !== undefined || chunk.unsafe !== undefined) return false;
  if (store.faults.isDoubtful(handle)) return false;
  return store.faults.failedWrite(handle, record.version) === undefined;
}

/**
 * Writes the CRCs of a dirty chunk to the index. Resolves with false if somebody wrote meanwhile.
 */
export function cleanChunk(store: Store, handle: ChunkHandle): Promise<boolean> {
  return store.table.with(handle, async (chunk) => {
    if (mayBeCleaned(store, chunk) && !chunk.record?.bytes) await syncFile(store, chunk);
    return chunk.applying.run("exclusive", async () => {
      const { record } = chunk;
      if (!record || !mayBeCleaned(store, chunk)) {
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
