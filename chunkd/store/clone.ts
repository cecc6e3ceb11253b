import type { OpenFile } from "../../common/disk.ts";
import { type ChunkHandle, type ChunkVersion, chunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { pieceBytes, smallBytesMax } from "../limits.ts";
import { diskFailure } from "./faults.ts";
import { cutCrcs } from "./raise.ts";
import { readBlock, readVerified } from "./read.ts";
import { encodeRecord, type Origin } from "./record.ts";
import { persist, type Store } from "./store.ts";
import { type Chunk, expectVersion, expectWanted, type LiveRecord } from "./table.ts";

/**
 * Copy on write: `target` becomes a copy of the first `length` bytes of a chunk, under version 1,
 * on the disk when it resolves. Shares the blocks where the filesystem can (FICLONE), else copies,
 * verified. The same request again is answered at once, whatever has become of the target. Throws
 * `interrupted` if it was cancelled before its turn, `no-chunk`, `stale-version`, `exists` (another
 * chunk has that handle), `corrupt`, `no-space`, `io-error`.
 */
interface CloneRequest {
  handle: ChunkHandle;
  version: ChunkVersion;
  target: ChunkHandle;
  length?: number | undefined;
}

export async function cloneChunk(
  store: Store,
  request: CloneRequest,
  signal?: AbortSignal,
): Promise<void> {
  if (request.handle === request.target) {
    throw new StatusError("invalid", "a chunk cannot be cloned to itself");
  }
  await store.table.with(request.handle, (source) =>
    store.table.with(request.target, (target) =>
      locked(source, target, async () => {
        expectWanted(signal);
        await cloneLocked(store, source, target, request);
      }),
    ),
  );
}

/**
 * Takes both chunks' locks; the gates lower handle first, so that two clones cannot block each
 * other.
 */
function locked(source: Chunk, target: Chunk, work: () => Promise<void>): Promise<void> {
  const [first, second] = source.handle < target.handle ? [source, target] : [target, source];
  return first.gate.run("exclusive", () =>
    second.gate.run("exclusive", () =>
      first.applying.run("exclusive", () => second.applying.run("exclusive", work)),
    ),
  );
}

async function cloneLocked(
  store: Store,
  source: Chunk,
  target: Chunk,
  request: CloneRequest,
): Promise<void> {
  const { handle, version } = request;
  if (target.record ?? target.unusable) return checkOrigin(store, target, request);
  const from = expectVersion(source, version);
  store.faults.expectSure(handle);
  const length = Math.min(from.length, request.length ?? from.length);
  const origin: Origin = { handle, version, length };
  target.begun += 1;
  try {
    store.space.take(length);
    const crcs = await cutCrcs(store, source, from, length);
    const head = { version: chunkVersion(1), length, crcs, origin, dirty: false, fresh: false };
    if (length <= smallBytesMax) await cloneSmall(store, source, target, head);
    else await cloneFile(store, source, target, head);
  } catch (error) {
    store.space.writeFailed(error);
    throw diskFailure(error, `chunk ${handle} could not be cloned`);
  } finally {
    target.ended += 1;
    target.synced = target.ended;
  }
}

type Head = Omit<LiveRecord, "bytes" | "small">;

async function checkOrigin(store: Store, target: Chunk, request: CloneRequest): Promise<void> {
  const origin = target.record?.origin;
  const wanted = request.length;
  const same =
    origin?.handle === request.handle &&
    origin.version === request.version &&
    (wanted === undefined || origin.length <= wanted);
  if (!same) throw new StatusError("exists", `chunk ${request.target} is here already`);
  await store.index.flushed();
}

async function cloneSmall(store: Store, source: Chunk, target: Chunk, head: Head): Promise<void> {
  const whole = head.length > 0 ? await readBlock(store, source, 0) : Buffer.alloc(0);
  const bytes = Buffer.from(whole.subarray(0, head.length));
  const record: LiveRecord = { ...head, bytes, small: true };
  await store.index.put(target.handle, encodeRecord(target.handle, record), bytes).flushed();
  store.table.replaceWhole(target, record);
}

async function cloneFile(store: Store, source: Chunk, target: Chunk, head: Head): Promise<void> {
  const { disk, files } = store;
  const staging = files.staging(target.handle, "clone");
  // Until the record is there, a file under this name is one to delete: after a crash, recover.ts.
  const noted = store.index.remove(target.handle, { file: true });
  await disk.remove("clone.clear", staging);
  try {
    const shared = await disk.reflink("clone.reflink", files.path(source.handle), staging);
    const file = await disk.open("clone.open", staging, "create");
    try {
      if (shared) await file.truncate("clone.cut", head.length);
      else await copyBytes(store, source, { file, length: head.length });
      await file.datasync("clone.sync");
    } finally {
      await file.close();
    }
    await noted.flushed();
    await disk.rename("clone.publish", staging, files.path(target.handle));
  } catch (error) {
    await disk.remove("clone.undo", staging).catch(() => false);
    throw error;
  }
  await disk.syncDirectory("clone.publish-dir", files.directory(target.handle));
  const record: LiveRecord = { ...head, bytes: undefined, small: false };
  const recorded = persist(store, target, record);
  store.index.removalEnded(target.handle);
  await recorded.flushed();
  store.table.replaceWhole(target, record);
}

/** Copies verified blocks, a piece at a time; a block of another's corruption is not spread. */
async function copyBytes(
  store: Store,
  source: Chunk,
  { file, length }: { file: OpenFile; length: number },
): Promise<void> {
  for (let at = 0; at < length; at += pieceBytes) {
    const piece = await readVerified(store, source, { offset: at, length: pieceBytes });
    const kept = piece.subarray(0, length - at);
    await file.write("clone.copy", kept, at);
  }
}
