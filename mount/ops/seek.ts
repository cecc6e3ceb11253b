import { blockBytes, crc32c } from "../../common/crc32c.ts";
import { chunkRun } from "../../protocol/methods/namespace.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Outline, Source } from "../client/chunk-reader.ts";
import type { Caller } from "../fuse/filesystem.ts";
import { attrOf, type Context } from "./context.ts";
import type { NodeRef } from "./nodes.ts";

/** Where a chunk's data ends is told in multiples of this, as on a local disk. */
const endBytes = 4096;
/** Chunks that one call looks into for holes; of what follows only whole chunks count as holes. */
const chunksMax = 64;
/** Blocks that one call reads to see that they are zeros. Further ones count as data. */
const zeroBlocksMax = 256;

const zeroBlock = Buffer.alloc(blockBytes);
const zeroCrc = crc32c(zeroBlock);

/**
 * lseek(2) with SEEK_DATA or SEEK_HOLE. Holes are the chunks that a file does not have, whole
 * blocks of zeros in those it has, and what lies beyond the end of one; the end of the file counts
 * as one. Throws `no-such-offset` at or past the end, and for data where there is none left.
 */
export async function seekFile(
  context: Context,
  ref: NodeRef,
  { offset, what }: { offset: number; what: "data" | "hole" },
  caller: Caller,
): Promise<number> {
  if (ref.kind === "snapshots") throw new StatusError("is-directory", "it is a directory");
  // Where the holes are is known only to the master: it has to know of what was written here.
  if (ref.kind === "live") await context.writeBack.settle(ref.ino, caller.signal);
  const { size } = await attrOf(context, ref, caller);
  if (offset < 0 || offset >= size) throw noSuchOffset();
  const source = { ino: ref.ino, at: ref.kind === "frozen" ? ref.at : undefined };
  const search = new Search(context, source, caller);
  const found = await (what === "data" ? search.data(offset) : search.hole(offset));
  if (what === "hole") return Math.min(size, found ?? size);
  if (found === undefined || found >= size) throw noSuchOffset();
  return found;
}

interface Run {
  first: number;
  last: number;
}

class Search {
  readonly #context: Context;
  readonly #source: Source;
  readonly #caller: Caller;
  #zeroBlocks = 0;

  constructor(context: Context, source: Source, caller: Caller) {
    this.#context = context;
    this.#source = source;
    this.#caller = caller;
  }

  /** The first byte of data at or after `offset`, if there is any. */
  async data(offset: number): Promise<number | undefined> {
    const { chunkBytes } = this.#context.master;
    let from = offset;
    for (;;) {
      const index = Math.floor(from / chunkBytes);
      const run = await this.#run(index);
      if (!run) return undefined;
      from = Math.max(from, run.first * chunkBytes);
      const found = await this.#dataIn(run.first, from - run.first * chunkBytes);
      if (found !== undefined) return run.first * chunkBytes + found;
      from = (run.first + 1) * chunkBytes;
    }
  }

  /** The first hole at or after `offset`. */
  async hole(offset: number): Promise<number | undefined> {
    const { chunkBytes } = this.#context.master;
    let from = offset;
    for (let looked = 0; ; looked += 1) {
      const index = Math.floor(from / chunkBytes);
      const run = await this.#run(index);
      if (run?.first !== index) return from;
      if (looked === chunksMax) return (run.last + 1) * chunkBytes;
      const found = await this.#holeIn(index, from - index * chunkBytes);
      if (found !== undefined) return index * chunkBytes + found;
      from = (index + 1) * chunkBytes;
    }
  }

  async #dataIn(index: number, offset: number): Promise<number | undefined> {
    const outline = await this.#outline(index);
    const reach = reachOf(outline);
    for (let at = offset; at < reach; at = nextBlock(at)) {
      if (!(await this.#isZero(index, outline, at))) return at;
    }
    return undefined;
  }

  async #holeIn(index: number, offset: number): Promise<number | undefined> {
    const outline = await this.#outline(index);
    const reach = reachOf(outline);
    for (let at = offset; at < reach; at = nextBlock(at)) {
      if (await this.#isZero(index, outline, at)) return at;
    }
    return reach < this.#context.master.chunkBytes ? Math.max(offset, reach) : undefined;
  }

  #outline(index: number): Promise<Outline> {
    return this.#context.reader.outline(this.#source, index, this.#caller.signal);
  }

  /** The CRC says which blocks are worth reading: other bytes can have the same one. */
  async #isZero(index: number, { crcs }: Outline, offset: number): Promise<boolean> {
    const block = Math.floor(offset / blockBytes);
    if (crcs[block] !== zeroCrc || this.#zeroBlocks === zeroBlocksMax) return false;
    this.#zeroBlocks += 1;
    const start = index * this.#context.master.chunkBytes + block * blockBytes;
    const range = { offset: start, length: blockBytes };
    const bytes = await this.#context.reader.read(this.#source, range, this.#caller.signal);
    return bytes.equals(zeroBlock);
  }

  /** The first chunk with data at or after `index`, and the last that follows without a gap. */
  async #run(index: number): Promise<Run | undefined> {
    const { ino, at } = this.#source;
    let first: number | undefined;
    let next = index;
    for (;;) {
      const request = { ino, index: next, ...(at === undefined ? {} : { at }) };
      const { master } = this.#context;
      const { run, more } = await master.read(chunkRun, request, this.#caller.signal);
      if (!run || (first !== undefined && run.first !== next)) break;
      first ??= run.first;
      if (!more) return { first, last: run.last };
      next = run.last + 1;
    }
    return first === undefined ? undefined : { first, last: next - 1 };
  }
}

function reachOf({ length }: Outline): number {
  return Math.ceil(length / endBytes) * endBytes;
}

function nextBlock(offset: number): number {
  return (Math.floor(offset / blockBytes) + 1) * blockBytes;
}

function noSuchOffset(): StatusError {
  return new StatusError("no-such-offset", "there is nothing at or after the offset");
}
