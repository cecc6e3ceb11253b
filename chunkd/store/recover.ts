import { errnoName } from "../../common/disk.ts";
import { UserError } from "../../common/program.ts";
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
 * and CRCs of dirty file chunks from their files, clears away what was unfinished and files without
 * a record. The chunks that were dirty are in doubt from now on, see faults.ts. `registered`: the
 * directory has been in use. Throws a `UserError` if its index is gone.
 */
export async function recover(
  store: Store,
  { registered }: { registered: boolean },
): Promise<void> {
  const files = await chunkFiles(store);
  if (registered && files.length > 0) expectIndex(store, files.length);
  if (store.index.getNumber(indexMark) === 0) await store.index.putNumber(indexMark, 1).flushed();
  let dirty = 0;
  const dirtyFiles: ChunkHandle[] = [];
  for (const { handle, record } of allRecords(store)) {
    if (typeof record === "string") {
      const reason = `its index record ${record}`;
      store.faults.noteBad({ handle, version: chunkVersion(0), reason, blocks: [] });
      continue;
    }
    store.table.countStored(record);
    if (!record.dirty) continue;
    dirty += 1;
    store.faults.noteDoubtful(handle);
    if (!record.small) dirtyFiles.push(handle);
  }
  for (const handle of dirtyFiles) await store.table.with(handle, (c) => recoverFile(store, c));
  const { removed, lost } = await clearOrphans(store, files);
  const filesRemoved = removed + (await clearStaging(store));
  if (dirty > 0 || filesRemoved > 0) store.log.event("store.recovered", { dirty, filesRemoved });
  if (lost > 0) store.log.warn("store.files-lost", { files: lost, in: store.files.lostDirectory });
}

/** In the index since its first start. An index without it is another than the directory's. */
const indexMark = "made";

/**
 * Chunk files and a new index: somebody deleted or replaced the index. To go on would tell the
 * master that all chunks are gone. An old index that merely lost its last commits passes: it has
 * the mark, and files that it does not know are kept.
 */
function expectIndex(store: Store, files: number): void {
  if (store.index.getNumber(indexMark) > 0 || store.index.getNumber("epoch") > 0) return;
  if (store.index.scan(0, 1).length > 0) return;
  throw new UserError(
    `${store.files.root}/index is empty, but there are ${files} chunk files: put the index back, ` +
      "or start with an empty directory, and the cluster copies again what this server had",
  );
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
  const before = record.length;
  try {
    record.length = 0; // A mark's length says nothing.
    store.table.resized(record, before);
    await remakeCrcs(store, chunk, record, { first: 0, end: Number.MAX_SAFE_INTEGER });
    chunk.begun = 1; // The file is not known to be synced.
    chunk.ended = 1;
    chunk.nameUnsynced = true;
    store.table.noteDirty(chunk);
  } catch (error) {
    if (errnoName(error) === "ENOENT") return recoverWithoutFile(store, chunk, before);
    chunk.unusable = "its file could not be read after a crash";
    store.faults.noteBad({ handle, version: record.version, reason: chunk.unusable, blocks: [] });
    store.log.error("recover.failed", { handle, error });
  }
}

/**
 * The mark was committed, the file not yet made: a chunk that was new, and is empty. The mark of
 * one that was older tells its length then: its file is lost.
 */
async function recoverWithoutFile(store: Store, chunk: Chunk, lengthBefore: number): Promise<void> {
  const { handle, record } = chunk;
  if (!record) return;
  if (lengthBefore > 0) {
    chunk.unusable = "its file is gone";
    store.faults.noteBad({ handle, version: record.version, reason: chunk.unusable, blocks: [] });
    return;
  }
  const bytes = Buffer.alloc(0);
  const empty = { ...record, length: 0, crcs: [], small: true, bytes };
  await store.index.put(handle, encodeRecord(handle, empty), bytes).committed;
  store.table.replace(chunk, empty);
}

interface ChunkFile {
  directory: string;
  name: string;
}

async function chunkFiles(store: Store): Promise<ChunkFile[]> {
  const directories = Array.from({ length: 256 }, (_, i) => store.files.directory(chunkHandle(i)));
  const lists = await Promise.all(
    directories.map(async (directory) => {
      const names = (await store.disk.list("recover.list", directory)) ?? [];
      return names.map((name) => ({ directory, name }));
    }),
  );
  return lists.flat();
}

/**
 * Takes away files that no record speaks of. Those that are known to be ours to delete are: what a
 * move into a file or a deletion left when it was broken off, and empty ones, of chunks that were
 * about to be made. Any other is kept in `lost/`: its record may be what is missing.
 */
async function clearOrphans(
  store: Store,
  files: readonly ChunkFile[],
): Promise<{ removed: number; lost: number }> {
  const count = { removed: 0, lost: 0 };
  const touched = new Set<string>();
  for (const { directory, name } of files) {
    switch (fateOf(store, name)) {
      case "keep":
        break;
      case "remove":
        await store.disk.remove("recover.remove-orphan", `${directory}/${name}`);
        touched.add(directory);
        count.removed += 1;
        break;
      case "unknown":
        if (await setAside(store, { directory, name })) count.lost += 1;
        else count.removed += 1;
    }
  }
  await endRemovals(store, touched);
  return count;
}

/**
 * Ends the notes of files that are to go, when they are off the disk: a loss of power would bring
 * them back, also those that the last run removed. `touched`: directories with other such files.
 */
async function endRemovals(store: Store, touched: ReadonlySet<string>): Promise<void> {
  const noted = store.index.removals();
  const directories = new Set(noted.map((handle) => store.files.directory(handle)));
  try {
    for (const directory of new Set([...touched, ...directories])) {
      await store.disk.syncDirectory("recover.sync-dir", directory);
    }
    for (const handle of noted) store.index.removalEnded(handle);
  } catch (error) {
    store.log.warn("recover.removals-not-ended", { error }); // The next start tries again.
  }
}

/** Resolves with false if there was nothing in it to keep. */
async function setAside(store: Store, { directory, name }: ChunkFile): Promise<boolean> {
  const { lostDirectory } = store.files;
  if (await isEmpty(store, `${directory}/${name}`)) {
    await store.disk.remove("recover.remove-empty", `${directory}/${name}`);
    return false;
  }
  await store.disk.makeDirectory("recover.make-lost", lostDirectory);
  const at = store.clock.wallNs() / 1_000_000_000n; // The same name may be lost again.
  await store.disk.rename("recover.lose", `${directory}/${name}`, `${lostDirectory}/${name}.${at}`);
  return true;
}

async function isEmpty(store: Store, path: string): Promise<boolean> {
  const file = await store.disk.open("recover.open-unknown", path, "read");
  try {
    return (await file.size("recover.measure-unknown")) === 0;
  } finally {
    await file.close();
  }
}

function fateOf(store: Store, name: string): "keep" | "remove" | "unknown" {
  const handle = chunkHandle(Number.parseInt(name, 16));
  if (!Number.isSafeInteger(handle) || handle < 0 || chunkFileName(handle) !== name) {
    return "unknown";
  }
  const live = store.table.peek(handle);
  if (live) return live.bytes === undefined ? "keep" : "remove";
  const stored = store.index.get(handle);
  if (!stored) return store.index.isBeingRemoved(handle) ? "remove" : "unknown";
  const record = decodeRecord(handle, stored);
  if (typeof record === "string") return "keep"; // What cannot be read is kept as evidence.
  return record.small ? "remove" : "keep"; // A small chunk's bytes are in the index.
}

async function clearStaging(store: Store): Promise<number> {
  const directory = store.files.stagingDirectory;
  const names = (await store.disk.list("recover.list-staging", directory)) ?? [];
  for (const name of names) await store.disk.remove("recover.clear", `${directory}/${name}`);
  return names.length;
}
