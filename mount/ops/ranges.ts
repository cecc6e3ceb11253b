import type { Ino } from "../../protocol/id.ts";
import { fileBytesMax, payloadBytesMax } from "../../protocol/limits.ts";
import { allocate, copyRange } from "../../protocol/methods/namespace.ts";
import { StatusError } from "../../protocol/status.ts";
import {
  type Caller,
  fallocateFlags,
  type FileRange,
  type FileSystem,
} from "../fuse/filesystem.ts";
import { atOf, attrOf, type Context, contentsChanged } from "./context.ts";
import { readRange } from "./files.ts";
import type { OpenRegular } from "./open-files.ts";
import { seekFile } from "./seek.ts";

type Group = Pick<FileSystem, "fallocate" | "seek" | "copyFileRange">;

/** Bytes that one copy_file_range reads and writes at most before it returns with what it has. */
const copyBytesMax = 64 * 1024 * 1024;
const accessMask = 0o3;
const flagsKnown = fallocateFlags.keepSize | fallocateFlags.punchHole | fallocateFlags.zeroRange;
const zeros = Buffer.alloc(payloadBytesMax);

/** Ranges of files: allocated, punched, searched for data, copied by sharing chunks. */
export function rangeOps(context: Context): Group {
  const { files } = context;
  return {
    async fallocate(file, range, flags, caller) {
      const how = allocation(range, flags);
      const opened = files.regular(file);
      const ino = writable(opened);
      if (range.offset + range.length > fileBytesMax) {
        throw new StatusError("too-large", "the file would be too large");
      }
      await allocateRange(context, { opened, ino }, { range, ...how }, caller);
    },

    seek: (file, offset, what, caller) =>
      seekFile(context, files.regular(file).ref, { offset, what }, caller),

    copyFileRange: (source, target, length, caller) =>
      copyFile(
        context,
        {
          source: { opened: files.regular(source.file), offset: source.offset },
          target: { opened: files.regular(target.file), offset: target.offset },
          length,
        },
        caller,
      ),
  };
}

/** The inode of a file that is open for writing. */
function writable(opened: OpenRegular): Ino {
  if (opened.ref.kind !== "live") throw new StatusError("read-only", "snapshots are read-only");
  if ((opened.flags & accessMask) === 0) {
    throw new StatusError("bad-file", "the file is not open for writing");
  }
  return opened.ref.ino;
}

/** What the flags of fallocate(2) ask for. The errors are those of its man page. */
function allocation(range: FileRange, flags: number): { punch: boolean; grow: boolean } {
  const { keepSize, punchHole, zeroRange } = fallocateFlags;
  if (range.offset < 0 || range.length <= 0) {
    throw new StatusError("invalid", "the range is empty, or begins before the file");
  }
  const punches = (flags & punchHole) !== 0;
  const zeroes = (flags & zeroRange) !== 0;
  const keepsSize = (flags & keepSize) !== 0;
  const known = (flags & ~flagsKnown) === 0;
  if (!known || (punches && zeroes) || (punches && !keepsSize)) {
    throw new StatusError("not-supported", "this kind of fallocate is not supported");
  }
  return { punch: punches || zeroes, grow: !keepsSize };
}

/**
 * The master drops whole chunks and makes the file longer; what is left of a range at its ends is
 * overwritten with zeros, where there is a chunk at all.
 */
async function allocateRange(
  context: Context,
  { opened, ino }: { opened: OpenRegular; ino: Ino },
  { range, punch, grow }: { range: FileRange; punch: boolean; grow: boolean },
  caller: Caller,
): Promise<void> {
  const { writeBack, master, cache } = context;
  await writeBack.exclusively(
    ino,
    async () => {
      const ticket = cache.ticket();
      const size = (await attrOf(context, opened.ref, caller)).size;
      const request = { ino, ...range, punch, grow };
      const { attr } = await master.mutate(allocate, request, caller.signal);
      contentsChanged(context, ino);
      context.tails.sized(ino, attr.size);
      cache.changedAttr(attr, ticket);
      if (punch) await zeroEnds(context, { opened, ino }, { ...range, size }, caller);
    },
    caller.signal,
  );
}

/** Zeros for the parts of chunks that a punched range covers, as far as the file went. */
async function zeroEnds(
  context: Context,
  { opened, ino }: { opened: OpenRegular; ino: Ino },
  { offset, length, size }: FileRange & { size: number },
  caller: Caller,
): Promise<void> {
  const { chunkBytes } = context.master;
  const end = Math.min(offset + length, size);
  if (offset >= end) return;
  const wholeFrom = Math.ceil(offset / chunkBytes) * chunkBytes;
  const wholeTo = end === size ? end : Math.floor(end / chunkBytes) * chunkBytes;
  const parts =
    wholeFrom >= wholeTo
      ? [[offset, end] as const]
      : ([
          [offset, wholeFrom],
          [wholeTo, end],
        ] as const);
  for (const [from, to] of parts) {
    for (let at = from; at < to;) {
      const chunkEnd = (Math.floor(at / chunkBytes) + 1) * chunkBytes;
      const stop = Math.min(to, chunkEnd);
      if (await context.reader.hasChunk({ ino, at: undefined }, at, caller.signal)) {
        await writeZeros(context, { opened, ino }, { from: at, to: stop }, caller);
      }
      at = stop;
    }
  }
}

async function writeZeros(
  context: Context,
  { opened, ino }: { opened: OpenRegular; ino: Ino },
  { from, to }: { from: number; to: number },
  caller: Caller,
): Promise<void> {
  const waiter = { cursor: opened.errors, signal: caller.signal };
  opened.wrote = true;
  for (let at = from; at < to; at += zeros.length) {
    await context.writeBack.writeWithin(ino, at, zeros.subarray(0, to - at), waiter);
  }
}

interface Copy {
  source: { opened: OpenRegular; offset: number };
  target: { opened: OpenRegular; offset: number };
  length: number;
}

/**
 * copy_file_range(2). Whole chunks are shared on the master; up to the first border of a chunk, and
 * where the two files' borders do not fall together, bytes are read and written. Each call does one
 * kind of work and returns how far it came: the kernel's caller asks for the rest.
 */
async function copyFile(context: Context, copy: Copy, caller: Caller): Promise<number> {
  const { writeBack, master } = context;
  const { source, target } = copy;
  const ino = writable(target.opened);
  const { ref } = source.opened;
  if (ref.kind === "snapshots") throw new StatusError("is-directory", "it is a directory");
  if (ref.kind === "live" && ref.ino === ino) checkNoOverlap(copy);
  // What this mount has written to the source is in what is copied.
  if (ref.kind === "live") await writeBack.settle(ref.ino, caller.signal);
  const { size } = await attrOf(context, ref, caller);
  const length = Math.min(copy.length, size - source.offset);
  if (length <= 0) return 0;
  if (target.offset + length > fileBytesMax) {
    throw new StatusError("too-large", "the file would be too large");
  }
  const { chunkBytes } = master;
  const behind = source.offset % chunkBytes;
  const together = behind === target.offset % chunkBytes;
  if (together && behind === 0) {
    const shared = await share(context, { ...copy, length }, ino, caller);
    if (shared > 0) return shared;
  }
  const most = together ? Math.min(copyBytesMax, chunkBytes - behind) : copyBytesMax;
  return copyBytes(context, { ...copy, length: Math.min(length, most) }, ino, caller);
}

function checkNoOverlap({ source, target, length }: Copy): void {
  if (Math.abs(source.offset - target.offset) >= length) return;
  throw new StatusError("invalid", "the ranges overlap");
}

/** Resolves with the bytes that the master could share. */
function share(context: Context, copy: Copy, ino: Ino, caller: Caller): Promise<number> {
  const { writeBack, master, cache, writer } = context;
  const { source, target, length } = copy;
  const { ref } = source.opened;
  const work = async (): Promise<number> => {
    const ticket = cache.ticket();
    const request = {
      ...{ source: ref.ino, ...atOf(ref), offset: source.offset },
      ...{ ino, targetOffset: target.offset, length },
    };
    const { attr, copied } = await master.mutate(copyRange, request, caller.signal);
    if (copied === 0) return 0;
    // The source's chunks are shared now: they are not written in place any more.
    if (ref.kind === "live") writer.forget(ref.ino);
    contentsChanged(context, ino);
    // What is beyond the end of the last chunk is the source's.
    context.tails.drop(ino);
    cache.changedAttr(attr, ticket);
    return copied;
  };
  return writeBack.exclusively(ino, work, caller.signal);
}

/** Reads and writes, a piece at a time. */
async function copyBytes(
  context: Context,
  { source, target, length }: Copy,
  ino: Ino,
  caller: Caller,
): Promise<number> {
  const waiter = { cursor: target.opened.errors, signal: caller.signal };
  target.opened.wrote = true;
  let copied = 0;
  try {
    while (copied < length) {
      const want = Math.min(payloadBytesMax, length - copied);
      const range = { offset: source.offset + copied, length: want };
      const parts = await readRange(context, source.opened, range, caller);
      const data = parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
      if (data.length === 0) break;
      await context.writeBack.write(ino, target.offset + copied, data, waiter);
      copied += data.length;
    }
  } catch (error) {
    if (copied === 0) throw error;
  }
  return copied;
}
