import { type Ino, noIno } from "../../protocol/id.ts";
import { entriesPerPageMax } from "../../protocol/limits.ts";
import { readdir, sync } from "../../protocol/methods/namespace.ts";
import { isDirectory } from "../../protocol/mode.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { interruptible } from "../client/interruptible.ts";
import type { Caller, DirectoryEntry, DirectoryPage, FileSystem } from "../fuse/filesystem.ts";
import { atOf, attrOf, type Context, noteAccess, shownAttr } from "./context.ts";
import { type NodeRef, shownIno } from "./nodes.ts";
import { snapshotsName, snapshotsOf } from "./snapshots.ts";

type Group = Pick<
  FileSystem,
  "opendir" | "readdir" | "adopt" | "releasedir" | "fsyncdir" | "syncfs"
>;

/** Reading directories. A page of entries with attributes is one round trip. */
export function directoryOps(context: Context): Group {
  const { nodes, files, master } = context;
  return {
    async opendir(node, caller) {
      const ref = nodes.ref(node);
      const attr = await attrOf(context, ref, caller);
      if (!isDirectory(attr)) throw new StatusError("not-directory", "not a directory");
      const file = files.add({ kind: "directory", ref, accessed: false });
      return { file, keepCache: false, directIo: false };
    },

    async readdir(file, after, limit, caller) {
      const opened = files.get(file);
      const { ref } = opened;
      if (!opened.accessed) {
        opened.accessed = true;
        noteAccess(context, ref, await attrOf(context, ref, caller));
      }
      return readEntries(context, ref, { after, limit }, caller);
    },

    adopt: (_file, { attr, token }) => ({ node: nodes.remember(token as NodeRef), attr }),

    releasedir(file) {
      files.remove(file);
      return Promise.resolve();
    },

    async fsyncdir(_file, _dataOnly, caller) {
      await master.read(sync, {}, caller.signal);
    },

    async syncfs(caller) {
      await interruptible(context.writeBack.syncAll(), caller.signal);
      await master.read(sync, {}, caller.signal);
    },
  };
}

function readEntries(
  context: Context,
  ref: NodeRef,
  page: Page,
  caller: Caller,
): Promise<DirectoryPage> {
  if (ref.kind === "snapshots") return readSnapshots(context, ref, page, caller);
  if (ref.kind === "live" && context.showSnapshots) {
    return readWithSnapshots(context, ref, page, caller);
  }
  return readPages(context, ref, page, caller);
}

interface Page {
  after: Buffer | undefined;
  limit: number;
}

async function readPages(
  context: Context,
  ref: NodeRef,
  page: Page,
  caller: Caller,
): Promise<DirectoryPage> {
  const { master, cache } = context;
  const entries: DirectoryEntry[] = [];
  const self = shownIno(ref);
  let parent = self;
  let { after } = page;
  for (let more = true; more && entries.length < page.limit;) {
    const limit = Math.min(page.limit - entries.length, entriesPerPageMax);
    const request = { ino: ref.ino, ...atOf(ref), ...(after ? { after } : {}), limit };
    const ticket = cache.ticket();
    const reply = await master.read(readdir, request, caller.signal);
    parent = parentIno(ref, reply.parent);
    for (const { name, attr } of reply.entries) {
      let latest = attr;
      if (ref.kind === "live") {
        cache.putEntry(ref.ino, name, attr.ino, ticket);
        if (!cache.putAttr(attr, ticket)) latest = cache.attr(attr.ino) ?? attr;
      }
      const child = ref.kind === "frozen" ? { ...ref, ino: attr.ino } : liveRef(attr.ino);
      entries.push(listed(context, name, child, latest));
    }
    after = reply.entries.at(-1)?.name;
    more = reply.more && after !== undefined;
  }
  return { entries, self, parent };
}

/** The st_ino of ".."; `parent` is 0 where the master has none. */
function parentIno(ref: NodeRef, parent: Ino): number {
  if (parent !== noIno) return shownIno({ ...ref, ino: parent });
  // Above a snapshot's directory is the .snapshots in which it is found; the root is its own.
  return shownIno(ref.kind === "frozen" ? { kind: "snapshots", ino: ref.ino } : ref);
}

function listed(context: Context, name: Buffer, ref: NodeRef, attr: Attr): DirectoryEntry {
  return { name: Buffer.from(name), attr: shownAttr(context, ref, attr), token: ref };
}

function liveRef(ino: NodeRef["ino"]): NodeRef {
  return { kind: "live", ino };
}

/** The snapshots of a directory, in byte order of their names. */
async function readSnapshots(
  context: Context,
  ref: NodeRef,
  page: Page,
  caller: Caller,
): Promise<DirectoryPage> {
  const { after } = page;
  const snapshots = (await snapshotsOf(context, ref.ino, caller))
    .toSorted((a, b) => Buffer.compare(a.name, b.name))
    .filter(({ name }) => after === undefined || Buffer.compare(name, after) > 0)
    .slice(0, page.limit);
  const entries: DirectoryEntry[] = [];
  for (const { name, epoch } of snapshots) {
    const frozen = { kind: "frozen", ino: ref.ino, at: epoch } as const;
    const attr = await attrOf(context, frozen, caller);
    entries.push(listed(context, name, frozen, attr));
  }
  return { entries, self: shownIno(ref), parent: ref.ino };
}

/** `--show-snapshots`: the name is listed first, whatever order the others have. */
async function readWithSnapshots(
  context: Context,
  ref: NodeRef,
  page: Page,
  caller: Caller,
): Promise<DirectoryPage> {
  const after = page.after?.equals(snapshotsName) ? undefined : page.after;
  if (page.after !== undefined)
    return readPages(context, ref, { after, limit: page.limit }, caller);
  const own: NodeRef = { kind: "snapshots", ino: ref.ino };
  const first = listed(context, snapshotsName, own, await attrOf(context, ref, caller));
  const rest = await readPages(context, ref, { after, limit: page.limit - 1 }, caller);
  return { ...rest, entries: [first, ...rest.entries] };
}
