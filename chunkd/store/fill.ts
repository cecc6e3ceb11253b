import { blockBytes, crc32c } from "../../common/crc32c.ts";
import { must } from "../../common/assert.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { copyPiecesInFlight, pieceBytes } from "../limits.ts";
import { type CopySource, fetchRun, type Run } from "./copy-source.ts";
import { blockSum, type Draft } from "./drafts.ts";
import type { Bytes } from "./read.ts";
import { bytesInBlock } from "./record.ts";
import type { Store } from "./store.ts";
import { type Chunk, expectWanted } from "./table.ts";

interface FillWork {
  staged: Draft;
  /** What the draft shall become. */
  wanted: { length: number; crcs: readonly number[] };
  source: CopySource;
  signal: AbortSignal | undefined;
  /** The chunk is being written to: what comes need not be `wanted`. */
  draft: boolean;
}

/**
 * Puts into a draft what it lacks of `wanted`: blocks that an older replica here has alike, and for
 * the rest what the sources have. Resolves with the bytes that were fetched.
 */
export async function fillDraft(store: Store, chunk: Chunk, work: FillWork): Promise<number> {
  const { staged, wanted } = work;
  const sums = wanted.crcs.map((crc, block) => blockSum(crc, bytesInBlock(block, wanted.length)));
  for (const block of staged.sums.keys()) if (block >= sums.length) staged.sums.delete(block);
  const lacking = [...sums.keys()].filter((block) => staged.sums.get(block) !== sums[block]);
  const missing = await reuse(store, chunk, work, lacking);
  const runs = runsOf(missing, wanted.length);
  const bytes = runs.reduce((sum, run) => sum + run.length, 0);
  store.space.take(bytes);
  await fetchAll(runs, work);
  return bytes;
}

/**
 * Takes those of `blocks` from the replica that is here which are the same there, and whose bytes
 * are good. Resolves with the others.
 */
async function reuse(
  store: Store,
  chunk: Chunk,
  { staged, wanted, signal }: FillWork,
  blocks: readonly number[],
): Promise<number[]> {
  const { record, handle } = chunk;
  if (!record || record.bytes || chunk.unsafe !== undefined) return [...blocks];
  const missing: number[] = [];
  let readable = true;
  for (const block of blocks) {
    expectWanted(signal);
    const crc = must(wanted.crcs[block], "a block's CRC");
    const bytes = Buffer.allocUnsafe(bytesInBlock(block, wanted.length));
    const alike: boolean = readable && record.crcs[block] === crc;
    const count: number | undefined = alike ? await readOwn(store, handle, { block, bytes }) : 0;
    readable &&= count !== undefined;
    if (count === bytes.length && crc32c(bytes) === crc) {
      store.space.take(bytes.length);
      await staged.file.write("copy.write-own", bytes, block * blockBytes);
      staged.sums.set(block, blockSum(crc, bytes.length));
    } else missing.push(block);
  }
  return missing;
}

/** How many bytes could be read; undefined if the disk failed, which may be why a copy is made. */
async function readOwn(
  store: Store,
  handle: ChunkHandle,
  { block, bytes }: { block: number; bytes: Buffer },
): Promise<number | undefined> {
  try {
    return await store.files.use(handle, "write", (file) =>
      file.read("copy.reuse", bytes, block * blockBytes),
    );
  } catch (error) {
    store.log.warn("copy.not-reused", { handle, block, error });
    return undefined;
  }
}

/** Blocks beside each other are fetched together, as many as a message holds. */
function runsOf(blocks: readonly number[], length: number): Run[] {
  const runs: Run[] = [];
  for (const block of blocks) {
    const bytes = bytesInBlock(block, length);
    const run = runs.at(-1);
    const offset = block * blockBytes;
    if (run && run.offset + run.length === offset && run.length + bytes <= pieceBytes) {
      run.length += bytes;
    } else runs.push({ first: block, offset, length: bytes });
  }
  return runs;
}

/** Keeps a few requests on the way; what comes is written in the order of the file. */
async function fetchAll(runs: readonly Run[], work: FillWork): Promise<void> {
  const coming: { run: Run; bytes: Promise<Bytes> }[] = [];
  const asked = runs.values();
  const ask = (): void => {
    const { value: run } = asked.next();
    if (!run) return;
    const bytes = fetchRun(work.source, run, { crcs: work.wanted.crcs, anyCrcs: work.draft });
    bytes.catch(() => undefined); // Whoever awaits it is told; it may fail before anybody does.
    coming.push({ run, bytes });
  };
  try {
    for (let i = 0; i < copyPiecesInFlight; i += 1) ask();
    for (let next = coming[0]; next; next = coming[0]) {
      await putRun(work.staged, next.run, await next.bytes);
      coming.shift();
      expectWanted(work.signal);
      ask();
    }
  } finally {
    await Promise.allSettled(coming.map(({ bytes }) => bytes));
  }
}

async function putRun({ file, sums }: Draft, run: Run, { payload, crcs }: Bytes): Promise<void> {
  for (const i of crcs.keys()) sums.delete(run.first + i); // Until it is written as a whole.
  await file.write("copy.write", payload, run.offset);
  for (const [i, crc] of crcs.entries()) {
    sums.set(run.first + i, blockSum(crc, bytesInBlock(i, payload.length)));
  }
}
