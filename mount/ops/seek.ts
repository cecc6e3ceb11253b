import { chunkRun } from "../../protocol/methods/namespace.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Source } from "../client/chunk-reader.ts";
import type { Caller } from "../fuse/filesystem.ts";
import { attrOf, type Context } from "./context.ts";
import type { NodeRef } from "./nodes.ts";

/** Where holes begin and end inside a chunk is told in multiples of this, as on a local disk. */
const blockBytes = 4096;

/**
 * lseek(2) with SEEK_DATA or SEEK_HOLE. Holes are the chunks that a file does not have, and what
 * the chunk before such a hole does not reach; the end of the file counts as one. Throws
 * `no-such-offset` at or past the end, and for data where there is none left.
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
  const { chunkBytes } = context.master;
  const search = {
    size,
    run: (index: number) => nextRun(context, source, index, caller),
    end: async (index: number): Promise<number> => {
      const length = await context.reader.dataLength(source, index, caller.signal);
      const reach = Math.ceil(length / blockBytes) * blockBytes;
      return index * chunkBytes + Math.min(reach, chunkBytes);
    },
  };
  const index = Math.floor(offset / chunkBytes);
  return what === "data"
    ? seekData(search, offset, index, chunkBytes)
    : seekHole(search, offset, index);
}

interface Run {
  first: number;
  last: number;
}

interface Search {
  size: number;
  /** The first chunk with data at or after `index`, and the last that follows without a gap. */
  run(index: number): Promise<Run | undefined>;
  /** Where in the file the data of a chunk ends. */
  end(index: number): Promise<number>;
}

async function nextRun(
  { master }: Context,
  source: Source,
  index: number,
  caller: Caller,
): Promise<Run | undefined> {
  const { ino, at } = source;
  let first: number | undefined;
  let next = index;
  for (;;) {
    const request = { ino, index: next, ...(at === undefined ? {} : { at }) };
    const { run, more } = await master.read(chunkRun, request, caller.signal);
    if (!run || (first !== undefined && run.first !== next)) break;
    first ??= run.first;
    if (!more) return { first, last: run.last };
    next = run.last + 1;
  }
  return first === undefined ? undefined : { first, last: next - 1 };
}

async function seekData(
  search: Search,
  offset: number,
  index: number,
  chunkBytes: number,
): Promise<number> {
  let run = await search.run(index);
  // A chunk that ends before `offset`, and before a hole.
  const beyond = run?.first === index && run.last === index && offset >= (await search.end(index));
  if (beyond) run = await search.run(index + 1);
  const found = run && Math.max(offset, run.first * chunkBytes);
  if (found === undefined || found >= search.size) throw noSuchOffset();
  return found;
}

async function seekHole(search: Search, offset: number, index: number): Promise<number> {
  const run = await search.run(index);
  if (run?.first !== index) return offset;
  return Math.min(search.size, Math.max(offset, await search.end(run.last)));
}

function noSuchOffset(): StatusError {
  return new StatusError("no-such-offset", "there is nothing at or after the offset");
}
