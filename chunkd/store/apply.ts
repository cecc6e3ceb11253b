import { assert, must } from "../../common/assert.ts";
import { blockBytes, crcsByBlock } from "../../common/crc32c.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { smallBytesMax } from "../limits.ts";
import { splice, type Splice } from "./blocks.ts";
import type { Written } from "./chunk-index.ts";
import { diskFailure } from "./faults.ts";
import { readBlock } from "./read.ts";
import { blocksIn, encodeRecord } from "./record.ts";
import { persist, type Store } from "./store.ts";
import type { Chunk, LiveRecord } from "./table.ts";

/**
 * A write on this server's own disk. The caller holds `applying`. When it resolves, the write
 * survives the end of this process; `syncChunk` makes it survive the end of power.
 *
 *   small chunk   record and bytes go into the index in one commit, which is flushed if the chunk
 *                 was clean: see `survives`
 *   file chunk    1. the dirty mark is flushed (or, for a new chunk, committed: there is nothing to
 *                    lose yet)  2. the bytes go into the file  3. the CRCs change, in memory only
 *   small → file  1. the old bytes go into the file, synced  2. the dirty mark replaces record and
 *                    bytes in one commit  3. as above. A crash before 2 leaves a file that no
 *                    record speaks of, which the next start removes.
 */
interface Write {
  offset: number;
  /** Aliases the message it came in. */
  bytes: Buffer;
  /** As `crcsByBlock(bytes, offset)`, verified. */
  crcs: readonly number[];
}

export async function applyWrite(store: Store, chunk: Chunk, write: Write): Promise<void> {
  const record = chunk.record;
  if (!record) {
    throw new StatusError("io-error", `chunk ${chunk.handle}: the write that makes it has failed`);
  }
  chunk.begun += 1;
  try {
    const end = write.bytes.length === 0 ? 0 : write.offset + write.bytes.length;
    const length = Math.max(record.length, end);
    if (record.bytes && length <= smallBytesMax) await applySmall(store, chunk, record, write);
    else await applyToFile(store, chunk, record, write);
    store.space.writeSucceeded();
  } catch (error) {
    throw await writeFailed(store, chunk, record, error);
  } finally {
    chunk.ended += 1;
  }
}

async function applySmall(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  write: Write,
): Promise<void> {
  const old = must(record.bytes, "a small chunk's bytes");
  const spliced =
    write.bytes.length === 0
      ? { length: record.length, crcs: record.crcs }
      : await spliceWrite(store, chunk, record, write);
  const bytes = Buffer.alloc(spliced.length);
  old.copy(bytes);
  write.bytes.copy(bytes, write.offset);
  const { length, crcs } = spliced;
  const next: LiveRecord = { ...record, length, crcs: [...crcs], bytes, dirty: true, fresh: false };
  const written = store.index.put(chunk.handle, encodeRecord(chunk.handle, next), bytes);
  await written.committed;
  store.table.replace(chunk, next);
  await survives(record, written);
}

/**
 * Resolves when a write that changed what the index says may be answered. Power loss takes the
 * index back to some earlier commit. That must not be one in which the chunk was clean: this
 * replica would pass for one that has every byte. So the first write to a clean chunk waits for the
 * disk. To be back at a dirty record, or to have no record of a chunk that was new, tells the
 * master enough.
 */
function survives(before: { dirty: boolean; fresh: boolean }, written: Written): Promise<void> {
  const wasClean = !before.dirty && !before.fresh;
  return wasClean ? written.flushed() : written.committed;
}

async function applyToFile(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  write: Write,
): Promise<void> {
  if (write.bytes.length === 0) return; // There is nothing to make durable: the file exists.
  const marked = await markForWriting(store, chunk, record);
  const spliced = await spliceWrite(store, chunk, record, write);
  try {
    await store.files.use(chunk.handle, "write", (file) =>
      file.write("write.bytes", write.bytes, write.offset),
    );
  } catch (error) {
    await marked?.().catch(() => undefined); // A new chunk is there if the index has its mark.
    if (!record.fresh) await remakeAfterFailure(store, chunk, record, spliced);
    throw error;
  }
  installCrcs(store, record, spliced);
  store.table.noteDirty(chunk);
  await marked?.();
}

function spliceWrite(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  write: Write,
): Promise<Splice> {
  return splice({
    length: record.length,
    crcs: record.crcs,
    offset: write.offset,
    bytes: write.bytes,
    bytesCrcs: write.crcs,
    readBlock: (block) => readBlock(store, chunk, block),
  });
}

function installCrcs(store: Store, record: LiveRecord, spliced: Splice): void {
  const before = record.length;
  spliced.crcs.forEach((crc, i) => {
    record.crcs[spliced.first + i] = crc;
  });
  record.length = spliced.length;
  assert(record.crcs.length * blockBytes >= record.length, "every block has a CRC");
  store.table.resized(record, before);
}

/**
 * Resolves when the index is where it has to be before the write is answered. A new chunk is fresh
 * until then.
 */
type Answerable = () => Promise<void>;

/**
 * Makes a file chunk of a small one and marks a clean one dirty. What is returned is asked for
 * after the bytes have been written: the index has had that time already.
 */
async function markForWriting(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
): Promise<Answerable | undefined> {
  if (record.bytes) {
    try {
      return await moveToFile(store, chunk, record, record.bytes);
    } catch (error) {
      if (!record.fresh) await undoFile(store, chunk.handle); // It is a small chunk still.
      throw error;
    }
  }
  if (record.dirty) return undefined;
  const mark = { ...record, dirty: true };
  await persist(store, chunk, mark).flushed();
  record.dirty = true;
  store.table.noteDirty(chunk);
  return undefined;
}

async function moveToFile(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  bytes: Buffer,
): Promise<Answerable> {
  const { handle } = chunk;
  const before = { dirty: record.dirty, fresh: record.fresh };
  await store.files.use(handle, "create", async (file) => {
    await file.truncate("migrate.truncate", 0);
    if (record.fresh) return;
    await file.write("migrate.bytes", bytes, 0);
    await file.datasync("migrate.sync");
  });
  if (!record.fresh) {
    await store.disk.syncDirectory("migrate.sync-dir", store.files.directory(handle));
  }
  const marked = persist(store, chunk, { ...record, bytes: undefined, small: false, dirty: true });
  if (!record.fresh) await marked.committed;
  chunk.nameUnsynced = record.fresh;
  if (store.index.isBeingRemoved(handle)) store.index.removalEnded(handle); // It is this one now.
  store.files.strays.delete(handle);
  store.table.noteClean(handle);
  record.bytes = undefined;
  record.small = false;
  record.dirty = true;
  store.table.noteDirty(chunk);
  return async () => {
    await survives(before, marked);
    record.fresh = false;
  };
}

/** Removes a file without a record. */
async function undoFile(store: Store, handle: ChunkHandle): Promise<void> {
  store.files.forget(handle);
  try {
    await store.disk.remove("write.undo", store.files.path(handle));
    store.index.removalEnded(handle);
  } catch (error) {
    store.files.strays.add(handle);
    store.log.warn("write.undo-failed", { handle, error });
  }
}

/** Makes an error of a failed write a status; a chunk that was to be made is not there then. */
async function writeFailed(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  error: unknown,
): Promise<Error> {
  store.space.writeFailed(error);
  const failure = diskFailure(error, `chunk ${chunk.handle} could not be written`);
  store.log.warn("write.failed", { handle: chunk.handle, error: failure.message });
  if (record.fresh) {
    store.table.replace(chunk, undefined);
    store.index.remove(chunk.handle, { file: true });
    await undoFile(store, chunk.handle);
  }
  return failure;
}

/** Nobody knows how much reached the file: the CRCs of what was touched are made anew. */
async function remakeAfterFailure(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  touched: Splice,
): Promise<void> {
  const blocks = { first: touched.first, end: touched.first + touched.crcs.length };
  try {
    await remakeCrcs(store, chunk, record, blocks);
  } catch (error) {
    const { handle } = chunk;
    chunk.unusable = "its file could not be read after a failed write";
    store.faults.noteBad({ handle, version: record.version, reason: chunk.unusable, blocks: [] });
    store.log.error("write.remake-failed", { handle, error });
  }
}

/**
 * Takes the length of a dirty chunk, and the CRCs of `blocks`, from its file. Never of more blocks
 * than may have changed: it would turn damage into data.
 */
export async function remakeCrcs(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  blocks: { first: number; end: number },
): Promise<void> {
  const piece = Buffer.allocUnsafe(16 * blockBytes);
  const length = await store.files.use(chunk.handle, "write", async (file) => {
    const size = await file.size("remake.size");
    const end = Math.min(size, blocks.end * blockBytes);
    for (let at = blocks.first * blockBytes; at < end;) {
      const want = Math.min(piece.length, end - at);
      const count = await file.read("remake.read", piece.subarray(0, want), at);
      if (count < want) throw new StatusError("io-error", "the file is shorter than its size");
      crcsByBlock(piece.subarray(0, count), at).forEach((crc, i) => {
        record.crcs[at / blockBytes + i] = crc;
      });
      at += count;
    }
    return size;
  });
  const before = record.length;
  record.crcs.length = blocksIn(length);
  record.length = length;
  chunk.plannedLength = length;
  store.table.resized(record, before);
}
