import {
  getxattr,
  listxattr,
  lookup,
  readlink,
  removexattr,
  setattr,
  setxattr,
  statfs,
} from "../../protocol/methods/namespace.ts";
import type { Ino } from "../../protocol/id.ts";
import { fileBytesMax, nameBytesMax, xattrBytesMax } from "../../protocol/limits.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import { checkXattrName, isAclName, isTrustedName } from "../../protocol/xattr-names.ts";
import type { AttrChanges, Caller, Entry, FileSystem, Statfs } from "../fuse/filesystem.ts";
import {
  atOf,
  attrOf,
  changedAttr,
  type Context,
  entryOf,
  latestAttr,
  noteAccess,
  shownAttr,
  sizeChanged,
} from "./context.ts";
import { checkNameLength, type NodeRef } from "./nodes.ts";
import { findSnapshot, isSnapshotsName } from "./snapshots.ts";

type Group = Pick<
  FileSystem,
  | "lookup"
  | "forget"
  | "getattr"
  | "setattr"
  | "readlink"
  | "statfs"
  | "getxattr"
  | "setxattr"
  | "listxattr"
  | "removexattr"
>;

const xattrModes = ["any", "create", "replace"] as const;
/** statfs(2) counts in these. */
const statfsBlockBytes = 4096;
/** "As many as you like": the master has no limit of its own. */
const filesFree = 2 ** 31;

/** Looking up and looking at inodes, and changing what is not their contents. */
export function attributeOps(context: Context): Group {
  const { nodes, master, cache } = context;
  return {
    lookup: (parent, name, caller) => lookUp(context, nodes.ref(parent), name, caller),
    forget: (node, references) => nodes.forget(node, references),

    async getattr(node, _file, caller) {
      const ref = nodes.ref(node);
      return shownAttr(context, ref, await attrOf(context, ref, caller));
    },

    async setattr(node, changes, _file, caller) {
      const ino = nodes.live(node);
      const ref = { kind: "live", ino } as const;
      return shownAttr(context, ref, await setAttributes(context, ino, changes, caller));
    },

    async readlink(node, caller) {
      const ref = nodes.ref(node);
      const request = { ino: ref.ino, ...atOf(ref) };
      const { target } = await master.read(readlink, request, caller.signal);
      const attr = cache.attr(ref.ino);
      if (attr) noteAccess(context, ref, attr);
      return Buffer.from(target);
    },

    statfs: (caller) => statfsOf(context, caller),

    getxattr: (node, name, caller) => getAttribute(context, nodes.ref(node), name, caller),

    async setxattr(node, { name, value, flags, killSgid }, caller) {
      const ino = nodes.live(node);
      const mode = xattrModes[flags];
      if (!mode) throw new StatusError("invalid", "unknown flags");
      checkXattrName(name);
      if (value.length > xattrBytesMax) throw new StatusError("too-big", "the value is too large");
      const ticket = cache.ticket();
      const request = { ino, name, value, mode, killSgid };
      const { attr } = await master.mutate(setxattr, request, caller.signal);
      cache.dropXattrs(ino);
      cache.changedAttr(attr, ticket);
    },

    async listxattr(node, caller) {
      const ref = nodes.ref(node);
      if (ref.kind === "snapshots" || hasNoXattrs(context, ref)) return [];
      const request = { ino: ref.ino, ...atOf(ref) };
      const { names } = await master.read(listxattr, request, caller.signal);
      // As far as can be told, who is not root has no CAP_SYS_ADMIN.
      return caller.uid === 0 ? names : names.filter((name) => !isTrustedName(name));
    },

    async removexattr(node, name, caller) {
      const ino = nodes.live(node);
      checkXattrName(name);
      // Tools that copy take away what is not there either.
      if (isAclName(name) && hasNoXattrs(context, { kind: "live", ino })) return;
      const ticket = cache.ticket();
      const { attr } = await master.mutate(removexattr, { ino, name }, caller.signal);
      cache.dropXattrs(ino);
      cache.changedAttr(attr, ticket);
    },
  };
}

async function lookUp(
  context: Context,
  parent: NodeRef,
  name: Buffer,
  caller: Caller,
): Promise<Entry> {
  checkNameLength(name);
  const { cache, master } = context;
  if (parent.kind === "snapshots") {
    const ref = await findSnapshot(context, parent.ino, name, caller);
    return entryOf(context, ref, await attrOf(context, ref, caller));
  }
  if (parent.kind === "frozen") {
    const request = { parent: parent.ino, name, at: parent.at };
    const { attr } = await master.read(lookup, request, caller.signal);
    return entryOf(context, { kind: "frozen", ino: attr.ino, at: parent.at }, attr);
  }
  if (isSnapshotsName(name)) {
    const attr = await attrOf(context, parent, caller);
    return entryOf(context, { kind: "snapshots", ino: parent.ino }, attr);
  }
  const known = cache.entry(parent.ino, name);
  if (known === 0) throw notFound();
  if (known !== undefined) {
    const ref = { kind: "live", ino: known } as const;
    return entryOf(context, ref, await attrOf(context, ref, caller));
  }
  return entryFromMaster(context, parent.ino, name, caller);
}

async function entryFromMaster(
  context: Context,
  parent: Ino,
  name: Buffer,
  caller: Caller,
): Promise<Entry> {
  const { cache, master } = context;
  const ticket = cache.ticket();
  try {
    const { attr } = await master.read(lookup, { parent, name }, caller.signal);
    cache.putEntry(parent, name, attr.ino, ticket);
    const latest = await latestAttr(context, attr, ticket, caller);
    return entryOf(context, { kind: "live", ino: attr.ino }, latest);
  } catch (error) {
    if (statusOf(error) === "not-found") cache.putEntry(parent, name, 0, ticket);
    throw error;
  }
}

function notFound(): StatusError {
  return new StatusError("not-found", "no such entry");
}

/** What was written before comes first, so that it cannot undo a new size or time. */
async function setAttributes(
  context: Context,
  ino: Ino,
  changes: AttrChanges,
  caller: Caller,
): Promise<Attr> {
  const { writeBack, cache } = context;
  const isNothing = Object.values(changes).every(
    (change) => change === undefined || change === false,
  );
  const asked = isNothing ? chownOfNothing : changes;
  if (asked.size !== undefined) {
    const { size } = asked;
    if (size > fileBytesMax) throw new StatusError("too-large", "the file would be too large");
    const cut = (): Promise<Attr> => setSize(context, ino, { ...asked, size }, caller);
    return writeBack.exclusively(ino, cut, caller.signal);
  }
  await writeBack.settle(ino, caller.signal);
  const ticket = cache.ticket();
  const request = { ino, ...asRequest(asked) };
  const { attr } = await context.master.mutate(setattr, request, caller.signal);
  cache.dropXattrs(ino);
  return changedAttr(context, attr, ticket, caller);
}

/**
 * The kernel asks for no change at all for chown(2) with -1 and -1, which on Linux takes setuid and
 * setgid away like any other.
 */
const chownOfNothing: AttrChanges = { killSuidGid: true };

const privileges = 0o6000;

/** Somebody without CAP_FSETID changes the contents: setuid and setgid go (write(2)). */
export async function dropPrivileges(context: Context, ino: Ino, caller: Caller): Promise<void> {
  const { mode } = await attrOf(context, { kind: "live", ino }, caller);
  if ((mode & privileges) !== 0) await setAttributes(context, ino, { killSuidGid: true }, caller);
}

/** A time that does not fit into the master's records becomes the nearest that does. */
const timeMin = -(2n ** 63n);
const timeMax = 2n ** 63n - 1n;

function asRequest(changes: AttrChanges) {
  const { atime, mtime, ...rest } = changes;
  return {
    ...rest,
    ...(atime === undefined ? {} : { atime: clamped(atime) }),
    ...(mtime === undefined ? {} : { mtime: clamped(mtime) }),
  };
}

function clamped(time: bigint | "now"): bigint | "now" {
  if (time === "now") return time;
  if (time < timeMin) return timeMin;
  return time > timeMax ? timeMax : time;
}

/** Where chunks were, and leave to write them, may be gone with what was cut off. */
async function setSize(
  context: Context,
  ino: Ino,
  changes: AttrChanges & { size: number },
  caller: Caller,
): Promise<Attr> {
  const { cache, master } = context;
  const ticket = cache.ticket();
  const request = { ino, ...asRequest(changes) };
  const { attr } = await master.mutate(setattr, request, caller.signal);
  cache.dropXattrs(ino);
  sizeChanged(context, ino, changes.size);
  return changedAttr(context, attr, ticket, caller);
}

/** Most inodes have none, and their attributes, which are cached, say so. */
function hasNoXattrs({ cache }: Context, ref: NodeRef): boolean {
  return ref.kind === "live" && cache.attr(ref.ino)?.xattrs === 0;
}

async function getAttribute(
  context: Context,
  ref: NodeRef,
  name: Buffer,
  caller: Caller,
): Promise<Buffer> {
  const { cache, master } = context;
  if (ref.kind === "snapshots") throw new StatusError("no-attribute", "no such attribute");
  checkXattrName(name);
  if (ref.kind === "frozen") {
    const request = { ino: ref.ino, name, at: ref.at };
    return Buffer.from((await master.read(getxattr, request, caller.signal)).value);
  }
  // The kernel asks for security.capability before every write: that must not cost a round trip.
  let known = cache.xattr(ref.ino, name);
  if (hasNoXattrs(context, ref)) known = { value: undefined };
  if (!known) {
    const ticket = cache.ticket();
    try {
      const { value } = await master.read(getxattr, { ino: ref.ino, name }, caller.signal);
      known = { value: Buffer.from(value) };
    } catch (error) {
      if (statusOf(error) !== "no-attribute") throw error;
      known = { value: undefined };
    }
    cache.putXattr(ref.ino, Buffer.from(name), known.value, ticket);
  }
  if (!known.value) throw new StatusError("no-attribute", "no such attribute");
  return known.value;
}

async function statfsOf(context: Context, caller: Caller): Promise<Statfs> {
  const { totalBytes, freeBytes, inodes } = await context.master.read(statfs, {}, caller.signal);
  return {
    blockBytes: statfsBlockBytes,
    blocks: Math.floor(totalBytes / statfsBlockBytes),
    blocksFree: Math.floor(freeBytes / statfsBlockBytes),
    files: inodes + filesFree,
    filesFree,
    nameBytesMax,
  };
}
