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
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { type Caller, type Entry, type FileSystem, renameFlags } from "../fuse/filesystem.ts";
import { attrOf, type Context, entryChanged, entryOf, learnNew } from "./context.ts";
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
      const request = { parent: dir, name, mode: mode & ~umask, rdev, ...ownerOf(caller) };
      return make(context, { parent: dir, name }, () =>
        master.mutate(mknod, request, caller.signal),
      );
    },

    async mkdir(parent, name, { mode, umask }, caller) {
      const ref = nodes.ref(parent);
      if (ref.kind === "snapshots") {
        const frozen = await takeSnapshot(context, ref.ino, name, caller);
        return entryOf(context, frozen, await attrOf(context, frozen, caller));
      }
      const dir = writable(context, parent, name);
      const request = { parent: dir, name, mode: mode & ~umask, ...ownerOf(caller) };
      return make(context, { parent: dir, name }, () =>
        master.mutate(mkdir, request, caller.signal),
      );
    },

    async symlink(parent, name, target, caller) {
      const dir = writable(context, parent, name);
      const request = { parent: dir, name, target, ...ownerOf(caller) };
      return make(context, { parent: dir, name }, () =>
        master.mutate(symlink, request, caller.signal),
      );
    },

    async link(node, parent, name, caller) {
      const dir = writable(context, parent, name);
      const request = { ino: nodes.live(node), parent: dir, name };
      return make(context, { parent: dir, name }, () =>
        master.mutate(link, request, caller.signal),
      );
    },

    async unlink(parent, name, caller) {
      const dir = writable(context, parent, name);
      const ticket = context.cache.ticket();
      const request = { parent: dir, name, ...closing(context, dir, name) };
      const { ino } = await master.mutate(unlink, request, caller.signal);
      gone(context, { parent: dir, name, ino }, ticket);
    },

    async rmdir(parent, name, caller) {
      const ref = nodes.ref(parent);
      if (ref.kind === "snapshots") return dropSnapshot(context, ref.ino, name, caller);
      const dir = writable(context, parent, name);
      const ticket = context.cache.ticket();
      const { ino } = await master.mutate(rmdir, { parent: dir, name }, caller.signal);
      gone(context, { parent: dir, name, ino }, ticket);
    },

    rename: (source, target, flags, caller) => move(context, source, target, flags, caller),
  };
}

/** The live directory `parent`, in which `name` is to be made or removed. */
function writable(context: Context, parent: number, name: Buffer): Ino {
  const ino = context.nodes.live(parent);
  checkNameLength(name);
  if (isSnapshotsName(name)) throw new StatusError("exists", ".snapshots is reserved");
  return ino;
}

function ownerOf(caller: Caller): { uid: number; gid: number } {
  return { uid: caller.uid, gid: caller.gid };
}

async function make(
  context: Context,
  entry: { parent: Ino; name: Buffer },
  ask: () => Promise<{ attr: Attr }>,
): Promise<Entry> {
  const ticket = context.cache.ticket();
  const { attr } = await ask();
  learnNew(context, { ...entry, attr }, ticket);
  return entryOf(context, { kind: "live", ino: attr.ino }, attr);
}

function gone(
  context: Context,
  entry: { parent: Ino; name: Buffer; ino: Ino },
  ticket: number,
): void {
  context.files.unpark(entry.ino);
  context.cache.dropAttr(entry.parent);
  context.cache.dropAttr(entry.ino);
  context.cache.changedEntry(entry.parent, entry.name, 0, ticket);
}

async function move(
  context: Context,
  source: { parent: number; name: Buffer },
  target: { parent: number; name: Buffer },
  flags: number,
  caller: Caller,
): Promise<void> {
  const { nodes, master, cache } = context;
  if ((flags & ~(renameFlags.noReplace | renameFlags.exchange)) !== 0) {
    throw new StatusError("invalid", "unknown flags");
  }
  const from = nodes.ref(source.parent);
  const to = nodes.ref(target.parent);
  if (from.kind === "snapshots" || to.kind === "snapshots") {
    const dir = sameSnapshots(from, to);
    return moveSnapshot(context, dir, { name: source.name, newName: target.name }, caller);
  }
  const parent = writable(context, source.parent, source.name);
  const newParent = writable(context, target.parent, target.name);
  const { moved, replaced } = await master.mutate(
    rename,
    {
      parent,
      name: source.name,
      newParent,
      newName: target.name,
      noReplace: (flags & renameFlags.noReplace) !== 0,
      exchange: (flags & renameFlags.exchange) !== 0,
      ...closing(context, newParent, target.name),
    },
    caller.signal,
  );
  entryChanged(context, parent, source.name);
  entryChanged(context, newParent, target.name);
  cache.dropAttr(moved);
  if (replaced === undefined) return;
  cache.dropAttr(replaced);
  context.files.unpark(replaced);
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
