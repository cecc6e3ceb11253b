import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { cloneChunk } from "../../chunkd/store/clone.ts";
import { copyChunk } from "../../chunkd/store/copy.ts";
import type { DataDirectory } from "../../chunkd/store/directory.ts";
import { chunkFileName } from "../../chunkd/store/files.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import type { Store } from "../../chunkd/store/store.ts";
import { cleanChunk, syncChunk } from "../../chunkd/store/sync.ts";
import { serverId } from "../../protocol/id.ts";
import { kib, put, sourceOf } from "./store-support.ts";
import { h, pattern, v } from "./support.ts";

/** What a chunk has; undefined: it is not there. */
export interface Contents {
  /** Survives the end of power. */
  synced: Buffer | undefined;
  /** Survives the end of the process. */
  answered: Buffer | undefined;
  /** When the operation is done. */
  after: Buffer | undefined;
  /** For an operation that deletes a chunk on the way. */
  mayBeGone?: boolean;
  /** For one that replaces a replica that is out of date: an error says so, at the end of power. */
  mayBeBad?: boolean;
}

/** An operation of the chunk server that is broken off, and what may be found afterwards. */
export interface Scenario {
  /** On the disk before, all of it. */
  prepare?: (store: Store, directory: DataDirectory) => Promise<void>;
  /** Files that an earlier crash left. */
  litter?: (root: string) => void;
  /** Answered before, and not synced. */
  before?: (store: Store) => Promise<void>;
  run: (store: Store, directory: DataDirectory) => Promise<void>;
  /** The start is part of what is broken off. */
  isStart?: boolean;
  /** A step that fails, for those that come after a failure. */
  fails?: { site: string; code: string };
  /** Blocks of files can be shared. */
  shares?: boolean;
  /** Its answer promises that it survives the end of power. */
  isDurable?: boolean;
  /** There are files that no record speaks of, which are kept in `lost/`. */
  loses?: boolean;
  chunks: Record<number, Contents>;
}

const small = pattern(60 * kib, 1);
const large = pattern(300 * kib, 2);
const other = pattern(400 * kib, 9);

/** `bytes` with `written` at `offset`. */
function over(bytes: Buffer, written: Buffer, offset: number): Buffer {
  const result = Buffer.alloc(Math.max(bytes.length, offset + written.length));
  bytes.copy(result);
  written.copy(result, offset);
  return result;
}

const kept = (bytes: Buffer): Contents => ({ synced: bytes, answered: bytes, after: bytes });
const changed = (bytes: Buffer, after: Buffer | undefined): Contents => ({
  ...{ synced: bytes, answered: bytes, after },
});
const made = (after: Buffer): Contents => ({ synced: undefined, answered: undefined, after });

async function twoChunks(store: Store): Promise<void> {
  await put(store, h(1), small);
  await put(store, h(2), large);
  await syncChunk(store, { handle: h(1), version: v(1) });
  await cleanChunk(store, h(1));
  await cleanChunk(store, h(2));
  await store.index.flushed();
}

const piece = pattern(100 * kib, 7);
const written = over(large, piece, 50 * kib);
const copyOf = (bytes: Buffer, draft = false) => {
  return async (store: Store): Promise<void> => {
    await copyChunk(store, { handle: h(2), version: v(2), draft }, sourceOf(bytes));
  };
};
const copyOther = copyOf(other);
/** A replica that is out of date may be gone. */
const replaced = (after: Buffer): Contents => ({ ...changed(large, after), mayBeGone: true });
const cutLarge = async (store: Store): Promise<void> => {
  await raiseVersion(store, { handle: h(2), version: v(1), newVersion: v(2), length: 99_999 });
};
const cloneLarge = (store: Store): Promise<void> =>
  cloneChunk(store, { handle: h(2), version: v(1), target: h(3), length: 200_000 });
const writeLarge = (store: Store): Promise<void> => put(store, h(2), piece, 50 * kib);
const makeLarge = (store: Store): Promise<void> => put(store, h(5), other);

export const scenarios: Record<string, Scenario> = {
  "a write": {
    prepare: twoChunks,
    run: writeLarge,
    chunks: { 1: kept(small), 2: changed(large, written) },
  },
  "a write that fails": {
    prepare: twoChunks,
    run: writeLarge,
    fails: { site: "write.bytes", code: "EIO" },
    chunks: { 1: kept(small), 2: changed(large, written) },
  },
  "a write that makes a file of a small chunk": {
    prepare: twoChunks,
    run: (store) => put(store, h(1), piece, 10 * kib),
    chunks: { 1: changed(small, over(small, piece, 10 * kib)), 2: kept(large) },
  },
  "a write that makes a chunk": {
    prepare: twoChunks,
    run: makeLarge,
    chunks: { 1: kept(small), 2: kept(large), 5: made(other) },
  },
  "a write that fails to make a chunk": {
    prepare: twoChunks,
    run: makeLarge,
    fails: { site: "migrate.truncate", code: "ENOSPC" },
    chunks: { 1: kept(small), 2: kept(large), 5: made(other) },
  },
  "a sync": {
    prepare: twoChunks,
    before: async (store) => {
      await writeLarge(store);
      await makeLarge(store);
    },
    run: async (store) => {
      // What a loss of power took is nobody's to sync any more.
      for (const handle of [h(2), h(5)]) {
        if (store.index.has(handle)) await syncChunk(store, { handle, version: v(1) });
      }
    },
    isDurable: true,
    chunks: {
      1: kept(small),
      2: { synced: large, answered: written, after: written },
      5: { synced: undefined, answered: other, after: other },
    },
  },
  "the cleaning of a chunk": {
    prepare: twoChunks,
    before: writeLarge,
    run: async (store) => void (await cleanChunk(store, h(2))),
    chunks: { 1: kept(small), 2: { synced: large, answered: written, after: written } },
  },
  "a cut": {
    prepare: twoChunks,
    run: cutLarge,
    isDurable: true,
    chunks: { 1: kept(small), 2: changed(large, large.subarray(0, 99_999)) },
  },
  "a cut of a chunk that is new": {
    prepare: twoChunks,
    before: makeLarge,
    run: async (store) => {
      if (!store.index.has(h(5))) return;
      await raiseVersion(store, { handle: h(5), version: v(1), newVersion: v(2), length: 99_999 });
    },
    isDurable: true,
    chunks: {
      1: kept(small),
      2: kept(large),
      5: { synced: undefined, answered: other, after: other.subarray(0, 99_999) },
    },
  },
  "a cut that fails": {
    prepare: twoChunks,
    run: cutLarge,
    fails: { site: "raise.sync", code: "EIO" },
    chunks: { 1: kept(small), 2: changed(large, large.subarray(0, 99_999)) },
  },
  "a clone": {
    prepare: twoChunks,
    run: cloneLarge,
    isDurable: true,
    chunks: { 1: kept(small), 2: kept(large), 3: made(large.subarray(0, 200_000)) },
  },
  "a clone that shares blocks": {
    prepare: twoChunks,
    run: cloneLarge,
    shares: true,
    isDurable: true,
    chunks: { 1: kept(small), 2: kept(large), 3: made(large.subarray(0, 200_000)) },
  },
  "a clone that fails": {
    prepare: twoChunks,
    run: cloneLarge,
    fails: { site: "clone.sync", code: "ENOSPC" },
    chunks: { 1: kept(small), 2: kept(large), 3: made(large.subarray(0, 200_000)) },
  },
  "a copy that replaces a chunk": {
    prepare: twoChunks,
    run: copyOther,
    isDurable: true,
    chunks: { 1: kept(small), 2: replaced(other) },
  },
  "a copy that takes what is here": {
    prepare: twoChunks,
    run: copyOf(written),
    isDurable: true,
    chunks: { 1: kept(small), 2: replaced(written) },
  },
  "a copy that goes on with a draft": {
    prepare: twoChunks,
    before: copyOf(written, true),
    run: copyOf(written),
    isDurable: true,
    chunks: { 1: kept(small), 2: replaced(written) },
  },
  "a copy of what has become small": {
    prepare: twoChunks,
    before: copyOf(written, true),
    run: copyOf(small),
    isDurable: true,
    chunks: { 1: kept(small), 2: replaced(small) },
  },
  "a copy that fails": {
    prepare: twoChunks,
    run: copyOther,
    fails: { site: "copy.sync", code: "ENOSPC" },
    chunks: { 1: kept(small), 2: replaced(other) },
  },
  "a look whether a disk is still read-only": {
    prepare: twoChunks,
    run: async (store) => {
      store.space.writeFailed(Object.assign(new Error("EROFS"), { code: "EROFS" }));
      await store.space.refresh();
    },
    chunks: { 1: kept(small), 2: kept(large) },
  },
  "a deletion": {
    prepare: twoChunks,
    run: (store) => removeChunk(store, h(2)),
    // A record that comes back without its file is an error, and the master deletes it again.
    chunks: { 1: kept(small), 2: { ...changed(large, undefined), mayBeBad: true } },
  },
  "a start after a crash": {
    prepare: async (store, directory) => {
      await directory.adopt({ cluster: "test-cluster", server: serverId(1) });
      await twoChunks(store);
      await writeLarge(store);
      await syncChunk(store, { handle: h(2), version: v(1) });
    },
    litter: (root) => {
      // Of a chunk that was about to be made.
      writeFileSync(path.join(root, "chunks/64", chunkFileName(h(0x64))), "");
      // Of a small chunk that was to become a file; of nobody; of a copy that was not finished.
      writeFileSync(path.join(root, "chunks/01", chunkFileName(h(1))), pattern(999, 3));
      writeFileSync(path.join(root, "chunks/63", chunkFileName(h(0x63))), pattern(999, 4));
      writeFileSync(path.join(root, "staging", `${chunkFileName(h(9))}.copy`), pattern(999, 5));
    },
    isStart: true,
    loses: true, // The one of nobody.
    run: async () => undefined,
    chunks: { 1: kept(small), 2: kept(written) },
  },
  "a start in the middle of a deletion": {
    prepare: async (store, directory) => {
      await directory.adopt({ cluster: "test-cluster", server: serverId(1) });
      await twoChunks(store);
      await store.index.remove(h(2), { file: true }).flushed();
    },
    isStart: true,
    run: async () => undefined,
    chunks: { 1: kept(small), 2: { synced: undefined, answered: undefined, after: undefined } },
  },
  "a first start": {
    litter: (root) => mkdirSync(path.join(root, "lost+found")),
    isStart: true,
    run: async (_store, directory) => {
      await directory.rememberPort(9_999);
      await directory.lastPort();
      // Registered by an earlier try: then it is not done again.
      if (directory.identity) return;
      await directory.adopt({ cluster: "test-cluster", server: serverId(1) });
    },
    chunks: {},
  },
};
