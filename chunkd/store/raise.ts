import { assert } from "../../common/assert.ts";
import { blockBytes, crc32c } from "../../common/crc32c.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { remakeCrcs } from "./apply.ts";
import { diskFailure } from "./faults.ts";
import { readBlock } from "./read.ts";
import { blocksIn, encodeRecord } from "./record.ts";
import { persist, type Store } from "./store.ts";
import { datasync, syncName } from "./sync.ts";
import { type Chunk, expectChunk, expectVersion, expectWanted, type LiveRecord } from "./table.ts";

/**
 * Gives a chunk a new version, and cuts it if `length` is given and smaller. Waits for writes under
 * way and is on the disk when it resolves, with true if a write under the old version may not have
 * reached every replica (nobody knows when the order is repeated). A chunk that has `newVersion`
 * already is cut all the same: nobody knows how far an order came whose answer was lost. A replica
 * in doubt is so no more: nobody reads `newVersion` before the master has compared it. The master
 * repeats one only while nobody writes under `newVersion`. An order that was cancelled before its
 * turn is not carried out: the master went on without this server, which must not come by a version
 * whose writes it lacks. Throws `no-chunk`, `stale-version`, `interrupted`, or `corrupt` if the
 * block that is cut is not what it was.
 */
interface RaiseRequest {
  handle: ChunkHandle;
  version: ChunkVersion;
  newVersion: ChunkVersion;
  length?: number | undefined;
}

export function raiseVersion(
  store: Store,
  request: RaiseRequest,
  signal?: AbortSignal,
): Promise<boolean> {
  return store.table.with(request.handle, (chunk) =>
    chunk.gate.run("exclusive", () =>
      chunk.applying.run("exclusive", async () => {
        expectWanted(signal);
        return raiseLocked(store, chunk, request);
      }),
    ),
  );
}

async function raiseLocked(store: Store, chunk: Chunk, request: RaiseRequest): Promise<boolean> {
  const { version } = expectChunk(chunk);
  const raised = version === request.newVersion;
  const uneven = raised || store.faults.mayBeUneven(chunk.handle, version);
  const record = expectVersion(chunk, raised ? version : request.version);
  const length = Math.min(record.length, request.length ?? record.length);
  if (raised && length === record.length) {
    await store.index.flushed(); // The first try may not have got so far.
    return uneven;
  }
  chunk.begun += 1;
  try {
    if (length === record.length) await raiseOnly(store, chunk, record, request.newVersion);
    else await raiseAndCut(store, chunk, record, { ...request, length });
  } catch (error) {
    store.space.writeFailed(error);
    throw diskFailure(error, `chunk ${chunk.handle} could not be given a new version`);
  } finally {
    chunk.ended += 1;
  }
  store.faults.raised(chunk.handle, request.newVersion);
  if (chunk.record?.dirty) store.table.noteDirty(chunk); // The cleaner may have let it be.
  return uneven;
}

async function raiseOnly(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  version: ChunkVersion,
): Promise<void> {
  await persist(store, chunk, { ...record, version }).flushed();
  record.version = version;
}

/**
 * Steps: 1. the dirty mark, flushed  2. the file is cut and synced  3. the record with the new
 * version, flushed. A crash in between leaves a dirty chunk of the old version, and the master asks
 * again.
 */
async function raiseAndCut(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  { newVersion, length }: { newVersion: ChunkVersion; length: number },
): Promise<void> {
  assert(length < record.length, "a cut makes it shorter");
  const crcs = await cutCrcs(store, chunk, record, length);
  const next: LiveRecord = { ...record, version: newVersion, length, crcs };
  if (record.bytes) {
    next.bytes = Buffer.from(record.bytes.subarray(0, length));
    await store.index.put(chunk.handle, encodeRecord(chunk.handle, next), next.bytes).flushed();
  } else {
    await markDirty(store, chunk, record);
    try {
      await cutFile(store, chunk, length);
      next.dirty = false;
      await persist(store, chunk, next).flushed();
    } catch (error) {
      await takeLengthFromFile(store, chunk, record, length);
      throw error;
    }
  }
  store.table.replaceWhole(chunk, next);
}

async function markDirty(store: Store, chunk: Chunk, record: LiveRecord): Promise<void> {
  if (record.dirty) return;
  await persist(store, chunk, { ...record, dirty: true }).flushed();
  record.dirty = true;
  store.table.noteDirty(chunk);
}

async function cutFile(store: Store, chunk: Chunk, length: number): Promise<void> {
  await store.files.use(chunk.handle, "write", async (file) => {
    await file.truncate("raise.cut", length);
    await datasync(store, chunk, file, "raise.sync");
  });
  await syncName(store, chunk);
  chunk.synced = chunk.ended + 1; // This change, which ends in a moment, and all before it.
}

/** After a failed step nobody knows whether the file was cut. */
async function takeLengthFromFile(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  length: number,
): Promise<void> {
  const size = await store.files.use(chunk.handle, "write", (file) => file.size("raise.look"));
  if (size === record.length) return;
  const last = Math.floor(length / blockBytes);
  await remakeCrcs(store, chunk, record, { first: last, end: last + 1 });
}

/** The CRCs of the chunk's first `length` bytes; a block that is cut is verified first. */
export async function cutCrcs(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  length: number,
): Promise<number[]> {
  const crcs = record.crcs.slice(0, blocksIn(length));
  const rest = length % blockBytes;
  if (rest === 0 || length === record.length) return crcs;
  const last = blocksIn(length) - 1;
  const block = await readBlock(store, chunk, last);
  crcs[last] = crc32c(block.subarray(0, rest));
  return crcs;
}
