import { fileBytesMax } from "../../protocol/limits.ts";
import { create, open } from "../../protocol/methods/namespace.ts";
import type { Ino } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { ReadAhead, type ReadAheadBudget } from "../client/read-ahead.ts";
import type { Caller, Entry, FileSystem, OpenFile } from "../fuse/filesystem.ts";
import { atOf, attrOf, type Context, entryOf, learnNew } from "./context.ts";
import type { NodeRef } from "./nodes.ts";
import { isSnapshotsName } from "./snapshots.ts";

type Group = Pick<FileSystem, "open" | "create" | "read" | "write" | "flush" | "fsync" | "release">;

/** Flags of open(2) on Linux. */
const accessMask = 0o3;
const readOnly = 0;
const flag = { exclusive: 0o200, truncate: 0o1000, append: 0o2000 } as const;

/** Contents of files. */
export function fileOps(context: Context, budget: ReadAheadBudget): Group {
  const { files, writeBack } = context;
  return {
    open: (node, flags, caller) =>
      openFile(context, budget, context.nodes.ref(node), flags, caller),
    create: (parent, name, mode, flags, caller) =>
      createFile(context, budget, { parent, name, mode, flags }, caller),
    read: (file, offset, length, caller) => readFile(context, file, { offset, length }, caller),
    write: (file, offset, data, caller) => writeFile(context, file, offset, data, caller),

    async flush(file) {
      const opened = files.get(file);
      if (opened.kind === "file" && opened.ref.kind === "live") {
        await writeBack.flush(opened.ref.ino);
      }
    },

    async fsync(file) {
      const opened = files.get(file);
      if (opened.kind === "file" && opened.ref.kind === "live") {
        await writeBack.fsync(opened.ref.ino);
      }
    },

    release: (file) => releaseFile(context, file),
  };
}

async function openFile(
  context: Context,
  budget: ReadAheadBudget,
  ref: NodeRef,
  flags: number,
  caller: Caller,
): Promise<OpenFile> {
  const { master, cache, reader, writer, writeBack, files } = context;
  if (ref.kind === "snapshots") throw new StatusError("is-directory", "it is a directory");
  const truncate = (flags & flag.truncate) !== 0;
  const writes = (flags & accessMask) !== readOnly || truncate;
  if (writes && ref.kind !== "live") throw new StatusError("read-only", "snapshots are read-only");
  const { ino } = ref;
  if (truncate) await writeBack.flush(ino);
  const ticket = cache.ticket();
  const reply = await master.mutate(open, { ino, ...atOf(ref), truncate }, caller.signal);
  const at = ref.kind === "frozen" ? ref.at : undefined;
  // Close-to-open: where the chunks are, and what was read ahead, is asked anew (P4).
  if (at === undefined) reader.forget(ino);
  if (reply.location) reader.learn({ ino, at }, reply.location);
  if (truncate) {
    writer.forget(ino);
    files.changed(ino);
    cache.dropAttr(ino);
    cache.putAttr(reply.attr, cache.ticket());
  } else if (at === undefined) cache.putAttr(reply.attr, ticket);
  const readAhead = new ReadAhead(reader, budget, { ino, at });
  return files.add({ kind: "file", ref, flags, readAhead });
}

async function createFile(
  context: Context,
  budget: ReadAheadBudget,
  wanted: { parent: number; name: Buffer; mode: number; flags: number },
  caller: Caller,
): Promise<Entry & { file: OpenFile }> {
  const { master, nodes, writer, files, reader } = context;
  const { name, mode, flags } = wanted;
  const parent = nodes.live(wanted.parent);
  if (isSnapshotsName(name)) throw new StatusError("exists", ".snapshots is reserved");
  const reply = await master.mutate(
    create,
    {
      parent,
      name,
      mode,
      uid: caller.uid,
      gid: caller.gid,
      exclusive: (flags & flag.exclusive) !== 0,
      write: (flags & accessMask) !== readOnly,
    },
    caller.signal,
  );
  const { attr } = reply;
  const ref = { kind: "live", ino: attr.ino } as const;
  learnNew(context, parent, name, attr);
  if (!reply.created && (flags & flag.truncate) !== 0) {
    const file = await openFile(context, budget, ref, flags, caller);
    return { ...entryOf(context, ref, await attrOf(context, ref, caller)), file };
  }
  if (reply.created) writer.forget(attr.ino);
  if (reply.grant) writer.learn(attr.ino, reply.grant);
  const readAhead = new ReadAhead(reader, budget, { ino: attr.ino, at: undefined });
  const file = files.add({ kind: "file", ref, flags, readAhead });
  return { ...entryOf(context, ref, attr), file };
}

async function readFile(
  context: Context,
  file: OpenFile,
  range: { offset: number; length: number },
  caller: Caller,
): Promise<readonly Buffer[]> {
  const opened = context.files.regular(file);
  const { ref } = opened;
  const { size } = await attrOf(context, ref, caller);
  const length = Math.min(range.length, size - range.offset);
  if (length <= 0) return [];
  if (ref.kind === "live" && context.writeBack.overlaps(ref.ino, range.offset, length)) {
    await context.writeBack.drain(ref.ino);
    opened.readAhead.clear();
  }
  return opened.readAhead.read({ offset: range.offset, length, size }, caller.signal);
}

async function writeFile(
  context: Context,
  file: OpenFile,
  offset: number,
  data: Buffer,
  caller: Caller,
): Promise<number> {
  const { ref } = context.files.regular(file);
  if (ref.kind !== "live") throw new StatusError("read-only", "snapshots are read-only");
  if (offset + data.length > fileBytesMax) throw new StatusError("too-large", "file too large");
  if (caller.signal?.aborted) throw new StatusError("interrupted", "interrupted");
  context.files.changed(ref.ino);
  context.reader.forget(ref.ino);
  await context.writeBack.write(ref.ino, offset, data);
  return data.length;
}

async function releaseFile(context: Context, file: OpenFile): Promise<void> {
  const opened = context.files.get(file);
  const ino: Ino = opened.ref.ino;
  try {
    // Pages of a mapping may have been written after close(2): nobody is left to hear of an error.
    if (opened.kind === "file" && opened.ref.kind === "live") await context.writeBack.flush(ino);
  } catch (error) {
    context.log.error("release.write-failed", { ino, error });
  }
  if (context.files.remove(file)) context.writer.forget(ino);
}
