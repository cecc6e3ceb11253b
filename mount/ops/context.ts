import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import { getattr } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import type { ChunkReader } from "../client/chunk-reader.ts";
import type { ChunkWriter } from "../client/chunk-writer.ts";
import type { MasterClient } from "../client/master-client.ts";
import type { MetaCache } from "../client/meta-cache.ts";
import type { WriteBack } from "../client/write-back.ts";
import type { Caller, Entry, NodeAttr } from "../fuse/filesystem.ts";
import { nodeAttr, type NodeRef, type Nodes } from "./nodes.ts";
import type { OpenFiles } from "./open-files.ts";

/** What the groups of operations share. */
export interface Context {
  readonly master: MasterClient;
  readonly cache: MetaCache;
  readonly reader: ChunkReader;
  readonly writer: ChunkWriter;
  readonly writeBack: WriteBack;
  readonly nodes: Nodes;
  readonly files: OpenFiles;
  readonly clock: Clock;
  readonly log: Log;
  readonly showSnapshots: boolean;
}

/** `{ at }` for a request, or nothing for the live filesystem. */
export function atOf(ref: NodeRef): { at: Epoch } | Record<string, never> {
  return ref.kind === "frozen" ? { at: ref.at } : {};
}

/** An inode's attributes, with what this mount has written and the master does not know yet. */
export async function attrOf(context: Context, ref: NodeRef, caller: Caller): Promise<Attr> {
  const { cache, master } = context;
  const known = ref.kind === "frozen" ? undefined : cache.attr(ref.ino);
  if (known) return withPending(context, ref, known);
  const ticket = cache.ticket();
  const { attr } = await master.read(getattr, { ino: ref.ino, ...atOf(ref) }, caller.signal);
  if (ref.kind !== "frozen") cache.putAttr(attr, ticket);
  return withPending(context, ref, attr);
}

export function withPending(context: Context, ref: NodeRef, attr: Attr): Attr {
  if (ref.kind !== "live") return attr;
  const pending = context.writeBack.pending(ref.ino);
  if (!pending) return attr;
  const size = Math.max(attr.size, pending.end);
  const blocks = attr.blocks + Math.ceil((size - attr.size) / 512);
  return { ...attr, size, blocks, mtime: pending.mtime, ctime: pending.mtime };
}

/** The answer to a lookup or a creating call: the node gets a reference. */
export function entryOf(context: Context, ref: NodeRef, attr: Attr): Entry {
  return { node: context.nodes.remember(ref), attr: shownAttr(context, ref, attr) };
}

export function shownAttr(context: Context, ref: NodeRef, attr: Attr): NodeAttr {
  return nodeAttr(ref, withPending(context, ref, attr));
}

/** An entry of `parent` has appeared, changed or gone by this mount's own doing. */
export function entryChanged(context: Context, parent: Ino, name: Buffer): void {
  context.cache.dropEntry(parent, name);
  context.cache.dropAttr(parent);
}

/** A new inode and its entry, as the master answered. */
export function learnNew(context: Context, parent: Ino, name: Buffer, attr: Attr): void {
  entryChanged(context, parent, name);
  context.cache.dropAttr(attr.ino);
  const ticket = context.cache.ticket();
  context.cache.putEntry(parent, name, attr.ino, ticket);
  context.cache.putAttr(attr, ticket);
}
