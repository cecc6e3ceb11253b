import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { chunkBytesMax, smallBytesMax } from "../limits.ts";
import { type CopySource, fetchRun } from "./copy-source.ts";
import type { Draft } from "./drafts.ts";
import { diskFailure } from "./faults.ts";
import { fillDraft } from "./fill.ts";
import { blocksIn, encodeRecord } from "./record.ts";
import { removeLocked } from "./remove.ts";
import { persist, type Store } from "./store.ts";
import { type Chunk, expectWanted, type LiveRecord } from "./table.ts";

/**
 * Fetching a replica. What comes from other servers, and what of it is here already, goes into a
 * _draft_, a file in `staging/` that is no replica. When it is what the sources have, and on the
 * disk, it takes the place of an older or bad replica as a whole: a crash leaves the old one, none,
 * or a good one, never a mixture.
 *
 *   draft order    while the chunk is being written to: fetches what it can, keeps the draft
 *   final order    nobody writes: fetches what differs from the draft, syncs, publishes
 */
interface CopyRequest {
  handle: ChunkHandle;
  version: ChunkVersion;
  draft: boolean;
}

interface Copied {
  length: number;
  /** What did not come from this server's own disk. */
  fetchedBytes: number;
}

/**
 * Carries out such an order. Replaces nothing when it is cancelled: what the master does not wait
 * for any more may be out of date by now. Throws `stale-version` if a newer one is here,
 * `interrupted`, and the failures of both sides.
 */
export function copyChunk(
  store: Store,
  request: CopyRequest,
  source: CopySource,
  signal?: AbortSignal,
): Promise<Copied> {
  const { handle, version } = request;
  return store.table.with(handle, (chunk) =>
    chunk.gate.run("exclusive", async () => {
      expectWanted(signal);
      const own = chunk.record?.version ?? version;
      if (own > version) {
        throw new StatusError("stale-version", `chunk ${handle}: version ${own} is here already`);
      }
      try {
        return await copyLocked(store, chunk, { ...request, source, signal });
      } catch (error) {
        store.space.writeFailed(error);
        throw diskFailure(error, `chunk ${handle} could not be copied`);
      }
    }),
  );
}

interface CopyWork extends CopyRequest {
  source: CopySource;
  signal: AbortSignal | undefined;
}

async function copyLocked(store: Store, chunk: Chunk, work: CopyWork): Promise<Copied> {
  const { source, signal, draft } = work;
  const wanted = await source.checksums();
  const { length, crcs } = wanted;
  if (length > chunkBytesMax || crcs.length !== blocksIn(length)) {
    throw new StatusError("protocol", "the source's checksums do not fit its length");
  }
  const record: LiveRecord = {
    version: work.version,
    length,
    crcs,
    origin: undefined,
    dirty: false,
    fresh: false,
    small: length <= smallBytesMax,
    bytes: undefined,
  };
  if (record.small) {
    if (draft) return { length, fetchedBytes: 0 };
    store.space.take(length);
    record.bytes = await smallBytes(record, source);
    expectWanted(signal);
    await publish(store, chunk, record, () => Promise.resolve());
    await store.drafts.discard(chunk.handle);
    return { length, fetchedBytes: length };
  }
  return store.drafts.with(chunk.handle, async (staged) => {
    const fetchedBytes = await fillDraft(store, chunk, { staged, wanted, source, signal, draft });
    await staged.file.truncate("copy.cut", length);
    await syncDraft(staged);
    if (draft) return { length, fetchedBytes };
    expectWanted(signal);
    staged.spent = true;
    await publish(store, chunk, record, () => moveInPlace(store, chunk.handle, staged));
    return { length, fetchedBytes };
  });
}

/** A sync that failed is not tried again: see sync.ts. What it was to keep is fetched anew. */
async function syncDraft(staged: Draft): Promise<void> {
  try {
    await staged.file.datasync("copy.sync");
  } catch (error) {
    staged.spent = true;
    throw error;
  }
}

async function smallBytes(record: LiveRecord, source: CopySource): Promise<Buffer> {
  const { length, crcs } = record;
  if (length === 0) return Buffer.alloc(0);
  const run = { first: 0, offset: 0, length };
  // The message it came in is much larger.
  return Buffer.from((await fetchRun(source, run, { crcs, anyCrcs: false })).payload);
}

async function moveInPlace(store: Store, handle: ChunkHandle, staged: Draft): Promise<void> {
  const { disk, files } = store;
  await disk.rename("copy.publish", staged.path, files.path(handle));
  await disk.syncDirectory("copy.publish-dir", files.directory(handle));
}

/**
 * The old replica goes, then the new one is there. In between the index says that the file is being
 * removed: a crash there leaves one that the next start clears away.
 */
function publish(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  moveFile: () => Promise<void>,
): Promise<void> {
  return chunk.applying.run("exclusive", async () => {
    await removeLocked(store, chunk);
    const { handle } = chunk;
    if (record.bytes) {
      const written = store.index.put(handle, encodeRecord(handle, record), record.bytes);
      await written.flushed();
    } else {
      await store.index.remove(handle, { file: true }).flushed();
      await moveFile();
      const written = persist(store, chunk, record);
      store.index.removalEnded(handle);
      await written.flushed();
    }
    store.table.replaceWhole(chunk, record);
  });
}
