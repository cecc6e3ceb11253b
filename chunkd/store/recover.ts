import { errnoName } from "../../common/disk.ts";
import { type ChunkHandle, chunkHandle, chunkVersion } from "../../protocol/id.ts";
import { remakeCrcs } from "./apply.ts";
import { chunkFileName } from "./files.ts";
import { type ChunkRecord, decodeRecord, encodeRecord } from "./record.ts";
import type { Store } from "./store.ts";
import type { Chunk } from "./table.ts";

/** Records per turn of the event loop while all are looked at. */
const recordsPerStep = 4_096;

/**
 * Makes the store whole again after whatever ended the last run: counts the chunks, takes length
 * and CRCs of dirty file chunks from their files, deletes files without a record and what was
 * unfinished. Resolves with the chunks that were dirty. They stay dirty until the master has been
 * told.
 */
export async function recover(store: Store): Promise<Set<ChunkHandle>> {
  const dirty = new Set<ChunkHandle>();
  const dirtyFiles: ChunkHandle[] = [];
  for (const { handle, record } of allRecords(store)) {
    if (typeof record === "string") {
      const reason = `its index record ${record}`;
      store.faults.noteBad({ handle, version: chunkVersion(0), reason });
      continue;
    }
    store.table.countStored(record);
    if (!record.dirty) continue;
    dirty.add(handle);
    if (!record.small) dirtyFiles.push(handle);
  }
  for (const handle of dirtyFiles) await store.table.with(handle, (c) => recoverFile(store, c));
  const removed = (await removeOrphans(store)) + (await clearStaging(store));
  if (dirty.size > 0 || removed > 0) {
    store.log.event("store.recovered", { dirty: dirty.size, filesRemoved: removed });
  }
  return dirty;
}

function* allRecords(
  store: Store,
): Generator<{ handle: ChunkHandle; record: ChunkRecord | string }> {
  for (let after = 0; ;) {
    const found = store.index.scan(after, recordsPerStep);
    for (const { handle, record } of found) {
      yield { handle, record: decodeRecord(handle, record) };
      after = handle;
    }
    if (found.length < recordsPerStep) return;
  }
}

async function recoverFile(store: Store, chunk: Chunk): Promise<void> {
  const { handle, record } = chunk;
  if (!record) return; // Bad, and reported as such.
  try {
    const before = record.length;
    record.length = 0; // A mark's length says nothing.
    store.table.resized(record, before);
    await remakeCrcs(store, chunk, record, { first: 0, end: Number.MAX_SAFE_INTEGER });
    chunk.begun = 1; // The file is not known to be synced.
    chunk.ended = 1;
    chunk.nameUnsynced = true;
    store.table.noteDirty(chunk);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return recoverWithoutFile(store, chunk);
    chunk.unusable = "its file could not be read after a crash";
    store.faults.noteBad({ handle, version: record.version, reason: chunk.unusable });
    store.log.error("recover.failed", { handle, error });
  }
}

/** The mark was committed, the file not yet made: a chunk that was new, and is empty. */
async function recoverWithoutFile(store: Store, chunk: Chunk): Promise<void> {
  const { handle, record } = chunk;
  if (!record) return;
  const bytes = Buffer.alloc(0);
  const empty = { ...record, length: 0, crcs: [], small: true, bytes };
  await store.index.put(handle, encodeRecord(handle, empty), bytes).committed;
  store.table.replace(chunk, empty);
}

/** Deletes chunk files that no record speaks of. */
async function removeOrphans(store: Store): Promise<number> {
  const directories = Array.from({ length: 256 }, (_, i) => store.files.directory(chunkHandle(i)));
  const removed = await Promise.all(directories.map((path) => removeOrphansIn(store, path)));
  return removed.reduce((sum, count) => sum + count, 0);
}

async function removeOrphansIn(store: Store, directory: string): Promise<number> {
  let removed = 0;
  for (const name of (await store.disk.list("recover.list", directory)) ?? []) {
    if (isWanted(store, name)) continue;
    await store.disk.remove("recover.remove-orphan", `${directory}/${name}`);
    removed += 1;
  }
  return removed;
}

function isWanted(store: Store, name: string): boolean {
  const handle = chunkHandle(Number.parseInt(name, 16));
  if (!Number.isSafeInteger(handle) || handle < 0 || chunkFileName(handle) !== name) return false;
  const live = store.table.peek(handle);
  if (live) return live.bytes === undefined;
  const stored = store.index.get(handle);
  if (!stored) return false;
  const record = decodeRecord(handle, stored);
  return typeof record === "string" || !record.small; // What cannot be read is kept as evidence.
}

async function clearStaging(store: Store): Promise<number> {
  const directory = store.files.stagingDirectory;
  const names = (await store.disk.list("recover.list-staging", directory)) ?? [];
  for (const name of names) await store.disk.remove("recover.clear", `${directory}/${name}`);
  return names.length;
}
