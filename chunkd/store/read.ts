import { assert, must } from "../../common/assert.ts";
import { blockBytes, crc32c, crcsByBlock } from "../../common/crc32c.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { diskFailure } from "./faults.ts";
import type { Store } from "./store.ts";
import { type Chunk, expectVersion, type LiveRecord } from "./table.ts";

/**
 * Reading. Takes no lock: bytes that match their CRCs are good whoever was writing meanwhile. If
 * they do not match, and a write was under way when the read began or began before it ended, they
 * are read again with writes held off; only then are they corrupt.
 */

export interface ReadRequest {
  handle: ChunkHandle;
  version: ChunkVersion;
  offset: number;
  length: number;
}

export interface Bytes {
  payload: Buffer;
  /** As `crcsByBlock(payload, offset)`. */
  crcs: number[];
}

/**
 * Bytes [offset, offset + length), fewer where the chunk ends. Throws `no-chunk`, `stale-version`,
 * `corrupt` or `io-error`; the last two are reported to the master.
 */
export function readChunk(store: Store, request: ReadRequest): Promise<Bytes> {
  return store.table.with(request.handle, (chunk) => readUnlocked(store, chunk, request));
}

async function readUnlocked(store: Store, chunk: Chunk, request: ReadRequest): Promise<Bytes> {
  const record = expectVersion(chunk, request.version);
  const { begun } = chunk;
  const wasQuiet = chunk.ended === begun; // Else a write may end unseen while the bytes come in.
  const read = await attempt(store, chunk, record, request);
  if (!(read instanceof Error)) return read;
  const undisturbed = wasQuiet && chunk.begun === begun && chunk.record === record;
  if (undisturbed) throw condemn(store, chunk, read);
  return chunk.applying.run("exclusive", async () => {
    const again = await attempt(store, chunk, expectVersion(chunk, request.version), request);
    if (again instanceof Error) throw condemn(store, chunk, again);
    return again;
  });
}

/** The bytes, or what is wrong with them. */
async function attempt(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  { offset, length }: ReadRequest,
): Promise<Bytes | Error> {
  const end = Math.min(offset + length, record.length);
  if (end <= offset) return { payload: Buffer.alloc(0), crcs: [] };
  const start = offset - (offset % blockBytes);
  const stop = Math.min(Math.ceil(end / blockBytes) * blockBytes, record.length);
  try {
    const blocks = await blocksOf(store, chunk, record, { start, stop });
    const [wrong] = wrongBlocks(record, blocks, { start, stop });
    if (wrong !== undefined) return new CorruptBlocks(chunk.handle, [wrong]);
    const payload = blocks.subarray(offset - start, end - start);
    return { payload, crcs: payloadCrcs(record, payload, { offset, start, stop, end }) };
  } catch (error) {
    store.space.readFailed(error);
    const failure = diskFailure(error, `chunk ${chunk.handle} could not be read`);
    if (failure instanceof StatusError) return failure;
    throw error;
  }
}

/** The chunk's bytes [start, stop), short if the file is. */
async function blocksOf(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  { start, stop }: { start: number; stop: number },
): Promise<Buffer> {
  if (record.bytes) return record.bytes.subarray(start, stop);
  const into = Buffer.allocUnsafe(stop - start);
  const count = await store.files.use(chunk.handle, "write", (file) =>
    file.read("read.blocks", into, start),
  );
  return into.subarray(0, count);
}

/** The blocks of [start, stop) that do not match their CRC, or are not in `bytes`. */
function wrongBlocks(
  record: LiveRecord,
  bytes: Buffer,
  { start, stop }: { start: number; stop: number },
): number[] {
  const wrong: number[] = [];
  for (let at = start; at < stop; at += blockBytes) {
    const block = at / blockBytes;
    const own = bytes.subarray(at - start, at - start + blockBytes);
    if (own.length === 0 || crc32c(own) !== record.crcs[block]) wrong.push(block);
  }
  return wrong;
}

/** Whole blocks have just been verified, so their CRCs are known; only cut ones are computed. */
function payloadCrcs(
  record: LiveRecord,
  payload: Buffer,
  range: { offset: number; start: number; stop: number; end: number },
): number[] {
  const { offset, start, stop, end } = range;
  const first = start / blockBytes;
  const last = Math.ceil(end / blockBytes) - 1;
  const crcs = record.crcs.slice(first, last + 1);
  if (offset !== start) {
    const head = payload.subarray(0, Math.min(payload.length, blockBytes - (offset - start)));
    crcs[0] = must(crcsByBlock(head, offset)[0], "the CRC of the first piece");
  }
  if (end !== stop && (last > first || offset === start)) {
    crcs[last - first] = crc32c(payload.subarray(Math.max(0, last * blockBytes - offset)));
  }
  return crcs;
}

class CorruptBlocks extends StatusError {
  readonly blocks: readonly number[];

  constructor(handle: ChunkHandle, blocks: readonly number[]) {
    const [first] = blocks;
    const what =
      blocks.length === 1
        ? `block ${first} does not match its CRC`
        : `${blocks.length} blocks from ${first} on do not match their CRCs`;
    super("corrupt", `chunk ${handle}: ${what}`);
    this.blocks = blocks;
  }
}

/** Counts and reports what makes the chunk bad, and returns it. */
function condemn(store: Store, chunk: Chunk, error: Error): Error {
  if (!(error instanceof StatusError) || !chunk.record) return error;
  const { handle, record } = chunk;
  const blocks = error instanceof CorruptBlocks ? error.blocks : [];
  const bad = { handle, version: record.version, reason: error.message, blocks };
  if (error.status === "corrupt") store.faults.noteCorrupt(bad);
  else store.faults.noteBad(bad);
  return error;
}

/**
 * The blocks of [offset, offset + length), both at borders of blocks, that cannot be read or do not
 * match their CRCs; they are counted and reported. None of a chunk that is not here, or is known
 * to be bad as a whole.
 */
export function badBlocks(
  store: Store,
  handle: ChunkHandle,
  range: { offset: number; length: number },
): Promise<number[]> {
  return store.table.with(handle, (chunk) => findBad(store, chunk, range));
}

async function findBad(
  store: Store,
  chunk: Chunk,
  range: { offset: number; length: number },
): Promise<number[]> {
  const { begun } = chunk;
  const wasQuiet = chunk.ended === begun; // As for a read that may be disturbed by a write.
  const { record } = chunk;
  if (!record || chunk.unusable !== undefined || chunk.unsafe !== undefined) return [];
  let bad = await verified(store, chunk, record, range);
  if (bad.length === 0) return bad;
  const undisturbed = wasQuiet && chunk.begun === begun && chunk.record === record;
  if (!undisturbed) {
    bad = await chunk.applying.run("exclusive", async () =>
      chunk.record ? verified(store, chunk, chunk.record, range) : [],
    );
  }
  if (bad.length > 0) condemn(store, chunk, new CorruptBlocks(chunk.handle, bad));
  return bad;
}

/** The bad blocks of a range; where the disk refuses it, each block is read on its own. */
async function verified(
  store: Store,
  chunk: Chunk,
  record: LiveRecord,
  { offset, length }: { offset: number; length: number },
): Promise<number[]> {
  const stop = Math.min(offset + length, record.length);
  if (stop <= offset) return [];
  try {
    const bytes = await blocksOf(store, chunk, record, { start: offset, stop });
    return wrongBlocks(record, bytes, { start: offset, stop });
  } catch (error) {
    if (!(diskFailure(error, "") instanceof StatusError)) throw error;
    store.space.readFailed(error);
    if (stop - offset <= blockBytes) return [offset / blockBytes];
  }
  const bad: number[] = [];
  for (let at = offset; at < stop; at += blockBytes) {
    bad.push(...(await verified(store, chunk, record, { offset: at, length: blockBytes })));
  }
  return bad;
}

/** Verified bytes for one who holds `applying` and knows that they exist. Throws as `readChunk`. */
export async function readVerified(
  store: Store,
  chunk: Chunk,
  range: { offset: number; length: number },
): Promise<Buffer> {
  const record = must(chunk.record, "a chunk with a record");
  assert(range.offset < record.length, "the range begins in the chunk");
  const request = { handle: chunk.handle, version: record.version, ...range };
  const read = await attempt(store, chunk, record, request);
  if (read instanceof Error) throw condemn(store, chunk, read);
  return read.payload;
}

/** All of one block's bytes, as `readVerified`. */
export function readBlock(store: Store, chunk: Chunk, block: number): Promise<Buffer> {
  return readVerified(store, chunk, { offset: block * blockBytes, length: blockBytes });
}
