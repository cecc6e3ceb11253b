import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import { getattr } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import type { AccessTimes } from "../client/access-times.ts";
import type { ChunkReader } from "../client/chunk-reader.ts";
import type { ChunkWriter } from "../client/chunk-writer.ts";
import type { LockClient } from "../client/lock-client.ts";
import type { MasterClient } from "../client/master-client.ts";
import type { MetaCache } from "../client/meta-cache.ts";
import type { Tails } from "../client/tails.ts";
import type { WriteBack } from "../client/write-back.ts";
import type { Caller, Entry, NodeAttr } from "../fuse/filesystem.ts";
import type { Kernel } from "./kernel.ts";
import { nodeAttr, type NodeRef, type Nodes } from "./nodes.ts";
import type { OpenFiles } from "./open-files.ts";

/** What the groups of operations share. */
export interface Context {
  readonly master: MasterClient;
  readonly cache: MetaCache;
  readonly reader: ChunkReader;
  readonly writer: ChunkWriter;
  readonly writeBack: WriteBack;
  readonly locks: LockClient;
  readonly accesses: AccessTimes;
  readonly tails: Tails;
  readonly nodes: Nodes;
  readonly files: OpenFiles;
  readonly kernel: Kernel;
  readonly clock: Clock;
  readonly log: Log;
  readonly showSnapshots: boolean;
}

/** `{ at }` for a request, or nothing for the live filesystem. */
export function atOf(ref: NodeRef): { at: Epoch } | Record<string, never> {
  return ref.kind === "frozen" ? { at: ref.at } : {};
}

/** Answers about one inode that were overtaken by changes of it, before the last one is taken. */
const overtakenMax = 8;

/** An inode's attributes, with what this mount has written and the master does not know yet. */
export async function attrOf(context: Context, ref: NodeRef, caller: Caller): Promise<Attr> {
  const { cache, master } = context;
  for (let overtaken = 0; ; overtaken += 1) {
    const known = ref.kind === "frozen" ? cache.frozen(ref) : cache.attr(ref.ino);
    if (known) return withPending(context, ref, known);
    const ticket = cache.ticket();
    const { attr } = await master.read(getattr, { ino: ref.ino, ...atOf(ref) }, caller.signal);
    // An answer from before a commit of our own has the old size, and what was written is not
    // pending any more: it would make the file shrink for a moment.
    const current =
      ref.kind === "frozen" ? cache.putFrozen(ref, attr) : cache.putAttr(attr, ticket);
    if (current || overtaken === overtakenMax) return withPending(context, ref, attr);
  }
}

/** Keeps what the master says of a live inode; returns what is the latest known of it. */
export async function latestAttr(
  context: Context,
  attr: Attr,
  ticket: number,
  caller: Caller,
): Promise<Attr> {
  if (context.cache.putAttr(attr, ticket)) return attr;
  return attrOf(context, { kind: "live", ino: attr.ino }, caller);
}

/** As `latestAttr`, for the answer to a change by this mount. */
export async function changedAttr(
  context: Context,
  attr: Attr,
  ticket: number,
  caller: Caller,
): Promise<Attr> {
  if (context.cache.changedAttr(attr, ticket)) return attr;
  return attrOf(context, { kind: "live", ino: attr.ino }, caller);
}

function withPending(context: Context, ref: NodeRef, attr: Attr): Attr {
  if (ref.kind !== "live") return attr;
  const pending = context.writeBack.pending(ref.ino);
  if (!pending) return context.accesses.shown(attr);
  const size = Math.max(attr.size, pending.end);
  const blocks = attr.blocks + Math.ceil((size - attr.size) / 512);
  return { ...attr, size, blocks, mtime: pending.mtime, ctime: pending.mtime };
}

/** The node, which has these attributes, is being read: its atime may move on. */
export function noteAccess({ accesses, writeBack }: Context, ref: NodeRef, attr: Attr): void {
  // What is still to be written will move mtime past it: reading after that counts.
  if (ref.kind === "live" && !writeBack.pending(ref.ino)) accesses.note(attr);
}

/** The answer to a lookup or a creating call: the node gets a reference. */
export function entryOf(context: Context, ref: NodeRef, attr: Attr): Entry {
  return { node: context.nodes.remember(ref), attr: shownAttr(context, ref, attr) };
}

export function shownAttr(context: Context, ref: NodeRef, attr: Attr): NodeAttr {
  return nodeAttr(ref, withPending(context, ref, attr));
}

/** The master's answer to a change of an entry, by this mount. */
interface ChangedEntry {
  name: Buffer;
  /** Of the directory, and of the inode that is or was at the name. */
  parent: Attr;
  attr: Attr;
}

/** A new entry. False if the inode has changed since `ticket`. */
export function learnNew(
  { cache }: Context,
  { parent, name, attr }: ChangedEntry,
  ticket: number,
): boolean {
  cache.changedAttr(parent, ticket);
  cache.changedEntry(parent.ino, name, attr.ino, ticket);
  return cache.changedAttr(attr, ticket);
}

/** An entry that is gone. Its inode may live on, with another name or open. */
export function learnGone({ cache }: Context, gone: ChangedEntry, ticket: number): void {
  const { parent, name, attr } = gone;
  cache.changedAttr(parent, ticket);
  cache.changedEntry(parent.ino, name, 0, ticket);
  cache.changedAttr(attr, ticket);
}

/** This mount has set the file's size. */
export function sizeChanged(context: Context, ino: Ino, size: number): void {
  context.writeBack.truncated(ino, size);
  contentsChanged(context, ino);
}

/** The file has other chunks than before: where they were, and grants, are forgotten. */
export function contentsChanged(context: Context, ino: Ino): void {
  const { writer, reader, files } = context;
  writer.forget(ino);
  reader.forget(ino);
  files.changed(ino);
}
