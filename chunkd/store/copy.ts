import type { OpenFile } from "../../common/disk.ts";
import { blockBytes, crcsMatch } from "../../common/crc32c.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { chunkBytesMax, copyPiecesInFlight, pieceBytes, smallBytesMax } from "../limits.ts";
import { diskFailure } from "./faults.ts";
import type { Bytes } from "./read.ts";
import { blocksIn, encodeRecord } from "./record.ts";
import { removeLocked } from "./remove.ts";
import { persist, type Store } from "./store.ts";
import { type Chunk, expectWanted, type LiveRecord } from "./table.ts";

/** Another server's replica. */
export interface CopySource {
  checksums(): Promise<{ length: number; crcs: number[] }>;
  read(offset: number, length: number): Promise<Bytes>;
}

/**
 * Fetches a replica, verified and on the disk when it resolves with its length. Replaces an older
 * or a bad one: fetched first, then the old one is deleted as a whole, so that a crash leaves
 * either none or a good one. Replaces nothing when it is cancelled: what the master does not wait
 * for any more may be out of date by now. Throws `stale-version` if a newer one is here,
 * `interrupted`, and the failures of both sides.
 */
export function copyChunk(
  store: Store,
  { handle, version }: { handle: ChunkHandle; version: ChunkVersion },
  source: CopySource,
  signal?: AbortSignal,
): Promise<number> {
  return store.table.with(handle, (chunk) =>
    chunk.gate.run("exclusive", async () => {
      expectWanted(signal);
      const own = chunk.record?.version ?? version;
      if (own > version) {
        throw new StatusError("stale-version", `chunk ${handle}: version ${own} is here already`);
      }
      try {
        return await fetchAndReplace(store, chunk, { version, source, signal });
      } catch (error) {
        store.space.writeFailed(error);
        throw diskFailure(error, `chunk ${handle} could not be copied`);
      }
    }),
  );
}

interface CopyWork {
  version: ChunkVersion;
  source: CopySource;
  signal: AbortSignal | undefined;
}

async function fetchAndReplace(
  store: Store,
  chunk: Chunk,
  { version, source, signal }: CopyWork,
): Promise<number> {
  const { length, crcs } = await source.checksums();
  if (length > chunkBytesMax || crcs.length !== blocksIn(length)) {
    throw new StatusError("protocol", "the source's checksums do not fit its length");
  }
  store.space.take(length);
  const record: LiveRecord = {
    version,
    length,
    crcs,
    origin: undefined,
    dirty: false,
    fresh: false,
    small: length <= smallBytesMax,
    bytes: undefined,
  };
  if (record.small) {
    record.bytes = length > 0 ? await fetchPiece(record, source, 0) : Buffer.alloc(0);
    expectWanted(signal);
    await publish(store, chunk, record, async () => undefined);
    return length;
  }
  const { disk, files } = store;
  const staging = files.staging(chunk.handle, "copy");
  await disk.remove("copy.clear", staging);
  try {
    const file = await disk.open("copy.open", staging, "create");
    try {
      await fetchAll(file, record, source);
      await file.datasync("copy.sync");
    } finally {
      await file.close();
    }
    expectWanted(signal);
    await publish(store, chunk, record, async () => {
      await disk.rename("copy.publish", staging, files.path(chunk.handle));
      await disk.syncDirectory("copy.publish-dir", files.directory(chunk.handle));
    });
  } catch (error) {
    await disk.remove("copy.undo", staging).catch(() => false);
    throw error;
  }
  return length;
}

function publish(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  moveFile: () => Promise<void>,
): Promise<void> {
  return chunk.applying.run("exclusive", async () => {
    await removeLocked(store, chunk);
    await moveFile();
    const { handle } = chunk;
    if (record.bytes) {
      await store.index.put(handle, encodeRecord(handle, record), record.bytes).flushed();
    } else await persist(store, chunk, record).flushed();
    store.table.replaceWhole(chunk, record);
  });
}

/** Keeps a few requests on the way; pieces are written in the order of the file. */
async function fetchAll(file: OpenFile, record: LiveRecord, source: CopySource): Promise<void> {
  const coming: Promise<Buffer>[] = [];
  let asked = 0;
  try {
    for (let at = 0; at < record.length; at += pieceBytes) {
      for (; asked < record.length && coming.length < copyPiecesInFlight; asked += pieceBytes) {
        const piece = fetchPiece(record, source, asked);
        piece.catch(() => undefined); // Whoever awaits it is told; it may fail before anybody does.
        coming.push(piece);
      }
      const [next] = coming;
      if (next) await file.write("copy.write", await next, at);
      void coming.shift();
    }
  } finally {
    await Promise.allSettled(coming);
  }
}

/** One piece, which has to match the CRCs that the source named at the beginning. */
async function fetchPiece(record: LiveRecord, source: CopySource, offset: number): Promise<Buffer> {
  const length = Math.min(pieceBytes, record.length - offset);
  const { payload } = await source.read(offset, length);
  const first = offset / blockBytes;
  const expected = record.crcs.slice(first, first + blocksIn(length));
  if (payload.length === length && crcsMatch(payload, offset, expected)) {
    return record.small ? Buffer.from(payload) : payload;
  }
  throw new StatusError("unavailable", "the source changed while it was copied, or lost bytes");
}
