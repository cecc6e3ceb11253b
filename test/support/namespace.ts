import type { Clock } from "../../common/clock.ts";
import type { ChunkHandle, Epoch, Ino } from "../../protocol/id.ts";
import { rootIno } from "../../protocol/id.ts";
import { reclaimTrash } from "../../master/background/reclaim.ts";
import { sweepHistory } from "../../master/background/sweep.ts";
import { checkStore } from "../../master/check/check.ts";
import { openFormat } from "../../master/format.ts";
import { Committer } from "../../master/namespace/committer.ts";
import { addChunk, type CutPlan, putCopy, truncate } from "../../master/namespace/ops/contents.ts";
import { NamespaceReader } from "../../master/namespace/ops/read.ts";
import { dropSnapshot, takeSnapshot } from "../../master/namespace/ops/snapshot.ts";
import type { Txn } from "../../master/namespace/txn.ts";
import { numberFromKey, numberKey } from "../../master/store/bytes.ts";
import { rowsAt } from "../../master/store/history.ts";
import type { Store } from "../../master/store/store.ts";
import { decodeChunkRef } from "../../master/store/tables.ts";

/** Chunks of four bytes, so that small tests cross their borders. */
export const chunkBytes = 4;

/** A clock that moves on by a microsecond whenever it is read. */
export function tickingClock(): Clock {
  let now = 1_700_000_000_000_000_000n;
  return {
    nowMs: () => Number(now / 1_000_000n),
    wallNs: () => (now += 1_000n),
    timer: () => ({ cancel: () => undefined }),
  };
}

/**
 * The master's namespace without a network: its operations, and chunks that are strings in a map,
 * which behave as chunk servers do (in-place writes, clones, cuts).
 */
export class TestNamespace {
  readonly store: Store;
  readonly committer: Committer;
  readonly reader: NamespaceReader;
  /** What each chunk holds. */
  readonly chunks = new Map<ChunkHandle, string>();
  readonly open = new Set<Ino>();

  constructor(store: Store) {
    this.store = store;
    const clock = tickingClock();
    openFormat(store, {
      cluster: "test",
      chunkBytes,
      replicas: 3,
      nowNs: clock.wallNs(),
      uid: 0,
      gid: 0,
    });
    this.committer = new Committer(store, clock);
    this.committer.onGarbage = (garbage) => {
      for (const { handle } of garbage) this.chunks.delete(handle);
    };
    this.reader = new NamespaceReader(store, chunkBytes);
  }

  /** What sweeps stumbled over. */
  readonly damaged: unknown[] = [];

  run<T>(work: (txn: Txn) => T): Promise<T> {
    return this.committer.run(work);
  }

  /** Writes one whole chunk of a file, as a mount and its chunk servers would. */
  async write(ino: Ino, index: number, value: string): Promise<void> {
    await this.run((txn) => {
      const inode = txn.inode(ino);
      const ref = txn.findChunkRef(ino, index);
      let handle = ref?.handle;
      if (!ref) {
        handle = txn.newHandle();
        addChunk(txn, { ino, index, handle, servers: [] });
      } else if (!txn.isExclusive(ino, ref)) {
        handle = txn.newHandle();
        putCopy(txn, ino, index, { source: ref.handle, handle, servers: [] });
      }
      if (handle !== undefined) this.chunks.set(handle, value);
      const size = Math.max(inode.size, (index + 1) * chunkBytes);
      txn.putInode(ino, { ...txn.inode(ino), size, mtime: txn.nowNs });
    });
  }

  async truncate(ino: Ino, size: number): Promise<void> {
    await this.run((txn) => {
      const oldSize = txn.inode(ino).size;
      const index = Math.floor(size / chunkBytes);
      const ref = txn.findChunkRef(ino, index);
      const cuts = ref && size < txn.inode(ino).size && size % chunkBytes !== 0;
      let copy: CutPlan | undefined;
      if (cuts && !txn.isExclusive(ino, ref)) {
        const made = { source: ref.handle, handle: txn.newHandle(), servers: [] };
        copy = { source: ref.handle, made };
        this.chunks.set(made.handle, this.#cut(ref.handle, size % chunkBytes));
      }
      truncate(txn, { ino, size, chunkBytes, copy });
      this.#applyCut(txn, ino, Math.floor(Math.min(size, oldSize) / chunkBytes));
    });
  }

  /** As chunk servers do before anybody uses the chunk again. */
  #applyCut(txn: Txn, ino: Ino, index: number): void {
    const ref = txn.findChunkRef(ino, index);
    const chunk = ref && txn.findChunk(ref.handle);
    if (!ref || chunk?.cutTo === undefined) return;
    this.chunks.set(ref.handle, this.#cut(ref.handle, chunk.cutTo));
    txn.putChunk(ref.handle, { ...chunk, cutTo: undefined });
  }

  #cut(handle: ChunkHandle, length: number): string {
    return (this.chunks.get(handle) ?? "").slice(0, length);
  }

  snapshot(dir: Ino, name: string): Promise<Epoch> {
    return this.run((txn) => {
      const { epoch } = takeSnapshot(txn, dir, Buffer.from(name));
      this.committer.raiseEpoch(txn);
      return epoch;
    });
  }

  async dropSnapshot(dir: Ino, name: string): Promise<void> {
    await this.run((txn) => {
      dropSnapshot(txn, dir, Buffer.from(name));
      this.committer.endGroup();
    });
    const damaged = (error: unknown): void => void this.damaged.push(error);
    await sweepHistory(this.committer, new AbortController().signal, damaged);
    await this.committer.synced();
  }

  async reclaim(): Promise<void> {
    while (await reclaimTrash(this.committer)) continue;
    // Chunks go when that is on the disk.
    await this.committer.synced();
  }

  /** A file's bytes, now or in an epoch; holes and what is missing are NULs. */
  contents(ino: Ino, at: Epoch | undefined): string {
    const { size } = this.reader.inode(ino, at);
    let bytes = "\0".repeat(Math.ceil(size / chunkBytes) * chunkBytes);
    for (const row of rowsAt(this.store, "chunkmap", { prefix: numberKey(ino), at })) {
      const start = numberFromKey(row.key, 8) * chunkBytes;
      const { handle } = decodeChunkRef(row.value);
      const value = (this.chunks.get(handle) ?? `<lost chunk ${handle}>`).padEnd(chunkBytes, "\0");
      bytes = bytes.slice(0, start) + value + bytes.slice(start + chunkBytes);
    }
    return bytes.slice(0, size);
  }

  xattrs(ino: Ino, at?: Epoch): Record<string, string> {
    const names = this.reader.listxattr(ino, at);
    const value = (name: Buffer): string => this.reader.getxattr(ino, name, at).toString();
    return Object.fromEntries(names.map((name) => [name.toString(), value(name)]));
  }

  /** The tree under a directory as one value: names, kinds, links and contents. */
  tree(dir: Ino = rootIno, at?: Epoch): unknown {
    const entries: Record<string, unknown> = {};
    for (const { name, attr } of this.reader.readdir(dir, at, { after: undefined, limit: 1024 })
      .entries) {
      const isDir = (attr.mode & 0o170000) === 0o040000;
      const { ino, nlink, mode, xattrs } = attr;
      const own = xattrs ? { xattrs: this.xattrs(ino, at) } : {};
      entries[name.toString()] = isDir
        ? this.tree(ino, at)
        : { nlink, mode, contents: this.contents(ino, at), ...own };
    }
    return entries;
  }

  /** What is wrong with the tables, as sentences. Empty if they agree with each other. */
  check(): string[] {
    const wrong: string[] = [];
    checkStore(this.store, (text) => wrong.push(text));
    return wrong;
  }
}
