import { create, open, tmpfile } from "../../protocol/methods/namespace.ts";
import type { Ino } from "../../protocol/id.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { ReadAhead, type ReadAheadBudget } from "../client/read-ahead.ts";
import type { Caller, Entry, FileSystem, Opened, OpenFile, Writing } from "../fuse/filesystem.ts";
import { dropPrivileges } from "./attributes.ts";
import {
  atOf,
  attrOf,
  type Context,
  entryOf,
  learnNew,
  noteAccess,
  sizeChanged,
} from "./context.ts";
import { closeLocked, releaseLocked } from "./locks.ts";
import { checkNameLength, type NodeRef } from "./nodes.ts";
import type { OpenRegular } from "./open-files.ts";
import { isSnapshotsName } from "./snapshots.ts";

type Group = Pick<
  FileSystem,
  "open" | "create" | "tmpfile" | "read" | "write" | "flush" | "fsync" | "release"
>;

/** Flags of open(2) on Linux. */
const accessMask = 0o3;
const readOnly = 0;
const flag = {
  exclusive: 0o200,
  truncate: 0o1000,
  append: 0o2000,
  noAccessTime: 0o1000000,
  /** Part of O_SYNC, which asks for more: that is on the master's disk in any case. */
  dsync: 0o10000,
  direct: 0o40000,
} as const;

/** Contents of files. */
export function fileOps(context: Context, budget: ReadAheadBudget): Group {
  const { files, writeBack } = context;
  return {
    open: (node, flags, caller) =>
      openFile(context, budget, context.nodes.ref(node), flags, caller),
    create: (parent, name, { mode, umask, flags }, caller) =>
      createFile(context, budget, { parent, name, mode, umask, flags }, caller),
    tmpfile: (parent, making, caller) =>
      createTmpfile(context, budget, { parent, ...making }, caller),
    async read(file, offset, length, caller) {
      context.locks.check(file);
      return readRange(context, files.regular(file), { offset, length }, caller);
    },
    write: (file, writing, caller) => writeFile(context, file, writing, caller),

    async flush(file, owner, caller) {
      const opened = files.get(file);
      if (opened.kind !== "file") return;
      const write = (signal?: AbortSignal): Promise<void> => flushWritten(context, opened, signal);
      await closeLocked(context, file, { owner, write }, caller);
    },

    async fsync(file, _dataOnly, caller) {
      const opened = files.get(file);
      if (opened.kind !== "file" || opened.ref.kind !== "live") return;
      await writeBack.fsync(opened.ref.ino, { cursor: opened.errors, signal: caller.signal });
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
): Promise<Opened> {
  if (ref.kind === "snapshots") throw new StatusError("is-directory", "it is a directory");
  const truncate = (flags & flag.truncate) !== 0;
  const writes = (flags & accessMask) !== readOnly || truncate;
  if (writes && ref.kind !== "live") throw new StatusError("read-only", "snapshots are read-only");
  const { files, writeBack } = context;
  const { ino } = ref;
  if (ref.kind !== "live") {
    await attrOf(context, ref, caller);
    // A snapshot does not change.
    const file = files.add(newlyOpened(context, budget, ref, flags));
    return { file, keepCache: true, directIo: false };
  }
  files.hold(ino);
  try {
    if (truncate || !isKnown(context, ino)) {
      const how = { truncate, write: writes };
      const ask = (): Promise<void> => askToOpen(context, ref, how, caller);
      await (truncate ? writeBack.exclusively(ino, ask, caller.signal) : ask());
    }
  } catch (error) {
    files.letGo(ino);
    throw error;
  }
  const file = files.add(newlyOpened(context, budget, ref, flags));
  return asOpened(context, ino, file, flags);
}

/**
 * True if opening the file again needs no question: for the master it is open already, and would
 * have told of changes (P4).
 */
function isKnown({ files, cache, kernel, master }: Context, ino: Ino): boolean {
  return (
    files.isOpened(ino) &&
    cache.attr(ino) !== undefined &&
    kernel.knowsContents(ino) &&
    master.believesForMs > 0
  );
}

/**
 * With O_APPEND the kernel takes the file to end where it last heard, puts the bytes there in its
 * pages, page by page, and sends what each page took by itself. Another mount's records would come
 * between, and its pages be wrong: without pages a record is sent as one.
 */
function asOpened({ kernel }: Context, ino: Ino, file: OpenFile, flags: number): Opened {
  const appends = (flags & flag.append) !== 0 && (flags & accessMask) !== readOnly;
  const directIo = (flags & flag.direct) !== 0 || appends;
  return { file, keepCache: kernel.opened(ino), directIo };
}

async function askToOpen(
  context: Context,
  ref: NodeRef,
  how: { truncate: boolean; write: boolean },
  caller: Caller,
): Promise<void> {
  const { master, cache, reader, writer, tails } = context;
  const { ino } = ref;
  const at = ref.kind === "frozen" ? ref.at : undefined;
  // Close-to-open: where the chunks are, and what was read ahead, is asked anew (P4).
  if (at === undefined) reader.forget(ino);
  const learn = reader.learner({ ino, at });
  const ticket = cache.ticket();
  const reply = await master.mutate(open, { ino, ...atOf(ref), ...how }, caller.signal);
  context.files.opened(ino);
  if (reply.tail) tails.learn(ino, reply.tail);
  if (how.truncate) {
    sizeChanged(context, ino, 0);
    cache.changedAttr(reply.attr, ticket);
    // As far as can be told, who is not root has no CAP_FSETID.
    if (caller.uid !== 0) await dropPrivileges(context, ino, caller);
    return;
  }
  if (reply.location) learn(reply.location);
  const current = at === undefined && cache.putAttr(reply.attr, ticket);
  if (reply.grant && current) writer.learn(ino, reply.grant);
}

function newlyOpened(
  { reader, writeBack }: Context,
  budget: ReadAheadBudget,
  ref: NodeRef,
  flags: number,
): OpenRegular {
  const { ino } = ref;
  const at = ref.kind === "frozen" ? ref.at : undefined;
  const readAhead = new ReadAhead(reader, budget, { ino, at });
  const errors = writeBack.errors.cursor(ino);
  const accessed = (flags & flag.noAccessTime) !== 0;
  return { kind: "file", ref, flags, readAhead, errors, wrote: false, accessed };
}

async function createFile(
  context: Context,
  budget: ReadAheadBudget,
  wanted: { parent: number; name: Buffer; mode: number; umask: number; flags: number },
  caller: Caller,
): Promise<Entry & Opened> {
  const { nodes, files } = context;
  const { name, flags } = wanted;
  const parent = nodes.live(wanted.parent);
  checkNameLength(name);
  if (isSnapshotsName(name)) throw new StatusError("exists", ".snapshots is reserved");
  const { attr, created, current } = await askToCreate(context, { ...wanted, parent }, caller);
  const ref = { kind: "live", ino: attr.ino } as const;
  try {
    const truncate = !created && (flags & flag.truncate) !== 0;
    if (truncate) {
      const how = { truncate, write: true };
      const ask = (): Promise<void> => askToOpen(context, ref, how, caller);
      await context.writeBack.exclusively(attr.ino, ask, caller.signal);
    }
    const latest = current && !truncate ? attr : await attrOf(context, ref, caller);
    const file = files.add(newlyOpened(context, budget, ref, flags));
    const opened = asOpened(context, attr.ino, file, flags);
    return { ...entryOf(context, ref, latest), ...opened };
  } catch (error) {
    files.letGo(attr.ino);
    throw error;
  }
}

async function createTmpfile(
  context: Context,
  budget: ReadAheadBudget,
  wanted: { parent: number; mode: number; umask: number; flags: number },
  caller: Caller,
): Promise<Entry & Opened> {
  const { master, cache, files, writer, nodes } = context;
  const { mode, umask, flags } = wanted;
  const { uid, gid } = caller;
  const linkable = (flags & flag.exclusive) === 0;
  const request = { parent: nodes.live(wanted.parent), mode, umask, uid, gid, linkable };
  const ticket = cache.ticket();
  const { attr, grant } = await master.mutate(tmpfile, request, caller.signal);
  files.hold(attr.ino);
  if (cache.changedAttr(attr, ticket) && grant) writer.learn(attr.ino, grant);
  const ref = { kind: "live", ino: attr.ino } as const;
  const file = files.add(newlyOpened(context, budget, ref, flags));
  return { ...entryOf(context, ref, attr), ...asOpened(context, attr.ino, file, flags) };
}

/** The file is held when this resolves. `current` is false if it has changed meanwhile. */
async function askToCreate(
  context: Context,
  wanted: { parent: Ino; name: Buffer; mode: number; umask: number; flags: number },
  caller: Caller,
): Promise<{ attr: Attr; created: boolean; current: boolean }> {
  const { master, writer, files, cache, tails } = context;
  const { parent, name, mode, umask, flags } = wanted;
  const { uid, gid } = caller;
  const exclusive = (flags & flag.exclusive) !== 0;
  const write = (flags & accessMask) !== readOnly;
  for (;;) {
    const ticket = cache.ticket();
    const opening = files.opening();
    try {
      const request = { parent, name, mode, umask, uid, gid, exclusive, write };
      const reply = await master.mutate(create, request, caller.signal);
      const { attr, created, grant, tail } = reply;
      // A release of the file, which existed, has passed by: it may not count as open any more.
      if (!created && opening.crossed(attr.ino)) continue;
      files.hold(attr.ino);
      files.opened(attr.ino);
      const current = learnNew(context, { name, attr, parent: reply.parent }, ticket);
      if (created) writer.forget(attr.ino);
      if (grant && current) writer.learn(attr.ino, grant);
      if (tail) tails.learn(attr.ino, tail);
      return { attr, created, current };
    } finally {
      opening.end();
    }
  }
}

/** Reads what is there of a range, with what this mount has written. */
export async function readRange(
  context: Context,
  opened: OpenRegular,
  range: { offset: number; length: number },
  caller: Caller,
): Promise<readonly Buffer[]> {
  const { ref } = opened;
  const attr = await attrOf(context, ref, caller);
  if (!opened.accessed) {
    opened.accessed = !context.writeBack.pending(ref.ino);
    noteAccess(context, ref, attr);
  }
  const { size } = attr;
  const length = Math.min(range.length, size - range.offset);
  if (length <= 0) return [];
  if (ref.kind === "live") {
    await context.writeBack.readable(ref.ino, range.offset, length, caller.signal);
  }
  return opened.readAhead.read({ offset: range.offset, length, size }, caller.signal);
}

async function writeFile(
  context: Context,
  file: OpenFile,
  { offset, data, append, killSuidGid }: Writing,
  caller: Caller,
): Promise<number> {
  const opened = context.files.regular(file);
  context.locks.check(file);
  const { ref } = opened;
  if (ref.kind !== "live") throw new StatusError("read-only", "snapshots are read-only");
  const place = append ? "end" : offset;
  opened.wrote = true;
  const waiter = { cursor: opened.errors, signal: caller.signal };
  // Nothing is awaited before: `data` is the binding's again as soon as this returns.
  const writing = context.writeBack.write(ref.ino, place, data, waiter);
  const dropping = killSuidGid ? dropPrivileges(context, ref.ino, caller) : undefined;
  const [at] = await Promise.all([writing, dropping]);
  // The kernel has put the bytes elsewhere in its pages.
  if (at !== offset) context.kernel.dropContents(ref.ino);
  if ((opened.flags & flag.dsync) !== 0) await context.writeBack.fsync(ref.ino, waiter);
  return data.length;
}

async function flushWritten(
  { writeBack }: Context,
  opened: OpenRegular,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (opened.ref.kind !== "live") return;
  const { ino } = opened.ref;
  const mayHaveWritten = (opened.flags & accessMask) !== readOnly;
  if (opened.wrote) await writeBack.flush(ino, { cursor: opened.errors, signal });
  else if (mayHaveWritten) await writeBack.settle(ino, signal);
}

async function releaseFile(context: Context, file: OpenFile): Promise<void> {
  const opened = context.files.get(file);
  const ino: Ino = opened.ref.ino;
  try {
    // Pages of a mapping may have been written after close(2): nobody is left to hear of an error.
    if (opened.kind === "file" && opened.ref.kind === "live") {
      await context.writeBack.flush(ino, { cursor: opened.errors });
    }
  } catch (error) {
    context.log.error("release.write-failed", { ino, error });
  }
  if (opened.kind === "file") await releaseLocked(context, file, opened);
  if (!context.files.remove(file)) return;
  context.writer.forget(ino);
  context.tails.drop(ino);
  context.writeBack.errors.forget(ino);
}
