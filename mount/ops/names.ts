import type { Ino } from "../../protocol/id.ts";
import {
  link,
  mkdir,
  mknod,
  rename,
  rmdir,
  symlink,
  unlink,
} from "../../protocol/methods/namespace.ts";
import { isDirectory } from "../../protocol/mode.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { type Caller, type Entry, type FileSystem, renameFlags } from "../fuse/filesystem.ts";
import { attrOf, type Context, entryOf, learnGone, learnNew } from "./context.ts";
import { checkNameLength, type NodeRef } from "./nodes.ts";
import { dropSnapshot, isSnapshotsName, moveSnapshot, takeSnapshot } from "./snapshots.ts";

type Group = Pick<
  FileSystem,
  "mknod" | "mkdir" | "symlink" | "link" | "unlink" | "rmdir" | "rename"
>;

/** Everything that makes, moves or removes names. */
export function nameOps(context: Context): Group {
  const { nodes, master } = context;
  return {
    async mknod(parent, name, { mode, umask, rdev }, caller) {
      const dir = writable(context, parent, name);
      const request = { parent: dir, name, mode, umask, rdev, ...ownerOf(caller) };
      return make(context, name, () => master.mutate(mknod, request, caller.signal));
    },

    async mkdir(parent, name, { mode, umask }, caller) {
      const ref = nodes.ref(parent);
      if (ref.kind === "snapshots") {
        const frozen = await takeSnapshot(context, ref.ino, name, caller);
        return entryOf(context, frozen, await attrOf(context, frozen, caller));
      }
      const dir = writable(context, parent, name);
      const request = { parent: dir, name, mode, umask, ...ownerOf(caller) };
      return make(context, name, () => master.mutate(mkdir, request, caller.signal));
    },

    async symlink(parent, name, target, caller) {
      const dir = writable(context, parent, name);
      const request = { parent: dir, name, target, ...ownerOf(caller) };
      return make(context, name, () => master.mutate(symlink, request, caller.signal));
    },

    async link(node, parent, name, caller) {
      const dir = writable(context, parent, name);
      const request = { ino: nodes.live(node), parent: dir, name };
      return make(context, name, () => master.mutate(link, request, caller.signal));
    },

    async unlink(parent, name, caller) {
      const dir = removable(context, parent, name);
      const ticket = context.cache.ticket();
      const request = { parent: dir, name, ...closing(context, dir, name) };
      const reply = await master.mutate(unlink, request, caller.signal);
      learnGone(context, { name, ...reply }, ticket);
      context.files.unpark(reply.attr.ino);
    },

    async rmdir(parent, name, caller) {
      const ref = nodes.ref(parent);
      if (ref.kind === "snapshots") return dropSnapshot(context, ref.ino, name, caller);
      const dir = removable(context, parent, name);
      const ticket = context.cache.ticket();
      const reply = await master.mutate(rmdir, { parent: dir, name }, caller.signal);
      learnGone(context, { name, ...reply }, ticket);
    },

    rename: (source, target, flags, caller) => move(context, source, target, flags, caller),
  };
}

/** The live directory `parent`, in which `name` is to be made. */
function writable(context: Context, parent: number, name: Buffer): Ino {
  const ino = context.nodes.live(parent);
  checkNameLength(name);
  if (isSnapshotsName(name)) throw new StatusError("exists", ".snapshots is reserved");
  return ino;
}

/** The live directory `parent`, from which `name` is to be removed. */
function removable(context: Context, parent: number, name: Buffer): Ino {
  const ino = context.nodes.live(parent);
  checkNameLength(name);
  if (isSnapshotsName(name)) {
    throw new StatusError("not-permitted", ".snapshots belongs to the directory");
  }
  return ino;
}

function ownerOf(caller: Caller): { uid: number; gid: number } {
  return { uid: caller.uid, gid: caller.gid };
}

async function make(
  context: Context,
  name: Buffer,
  ask: () => Promise<{ attr: Attr; parent: Attr }>,
): Promise<Entry> {
  const ticket = context.cache.ticket();
  const { attr, parent } = await ask();
  learnNew(context, { name, attr, parent }, ticket);
  return entryOf(context, { kind: "live", ino: attr.ino }, attr);
}

async function move(
  context: Context,
  source: { parent: number; name: Buffer },
  target: { parent: number; name: Buffer },
  flags: number,
  caller: Caller,
): Promise<void> {
  const { nodes, master, cache } = context;
  const { noReplace, exchange, whiteout } = renameFlags;
  if ((flags & ~(noReplace | exchange | whiteout)) !== 0) {
    throw new StatusError("invalid", "unknown flags");
  }
  const from = nodes.ref(source.parent);
  const to = nodes.ref(target.parent);
  if (from.kind === "snapshots" || to.kind === "snapshots") {
    const dir = sameSnapshots(from, to);
    return moveSnapshot(context, dir, { name: source.name, newName: target.name }, caller);
  }
  const request = {
    parent: removable(context, source.parent, source.name),
    name: source.name,
    newParent: writable(context, target.parent, target.name),
    newName: target.name,
    noReplace: (flags & noReplace) !== 0,
    exchange: (flags & exchange) !== 0,
    ...((flags & whiteout) === 0 ? {} : { whiteout: ownerOf(caller) }),
  };
  const ticket = cache.ticket();
  const closed = closing(context, request.newParent, target.name);
  const reply = await master.mutate(rename, { ...request, ...closed }, caller.signal);
  const { moved, replaced, parent, newParent } = reply;
  // With hard links it may have been two names of one inode, of which both are still there.
  const left = (flags & (exchange | whiteout)) === 0 && (moved.nlink === 1 || isDirectory(moved));
  if (left) cache.changedEntry(parent.ino, source.name, 0, ticket);
  else cache.dropEntry(parent.ino, source.name);
  cache.changedEntry(newParent.ino, target.name, moved.ino, ticket);
  const attrs = new Map([moved, replaced, parent, newParent].map((attr) => [attr?.ino, attr]));
  for (const attr of attrs.values()) if (attr) cache.changedAttr(attr, ticket);
  if (replaced) context.files.unpark(replaced.ino);
}

/** What is about to be removed is not kept open: it would become an orphan for a moment. */
function closing({ cache, files }: Context, parent: Ino, name: Buffer): { closed?: Ino } {
  const ino = cache.entry(parent, name);
  return ino !== undefined && ino !== 0 && files.takeParked(ino) ? { closed: ino } : {};
}

function sameSnapshots(from: NodeRef, to: NodeRef): Ino {
  if (from.kind === "snapshots" && to.kind === "snapshots" && from.ino === to.ino) return from.ino;
  throw new StatusError("cross-device", "a snapshot can only be renamed where it is");
}
