import { lastUsed } from "../../common/lru.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import { ino as toIno } from "../../protocol/id.ts";
import { numberFromKey, numberKey } from "../store/bytes.ts";
import { recordAt, rowsAt } from "../store/history.ts";
import type { StoreReader } from "../store/store.ts";
import { decodeInode, decodeSnapshot, type SnapshotRecord } from "../store/tables.ts";

export interface LiveSnapshot extends SnapshotRecord {
  dir: Ino;
  name: Buffer;
}

/** Answers "was this inode under D in epoch e" are remembered: the past does not change. */
const coveredMax = 200_000;

/**
 * The live snapshots, in memory, ordered by epoch; and the question on which all copying depends:
 * does any of them still show this record?
 */
export class SnapshotIndex {
  #live: LiveSnapshot[] = [];
  readonly #covered = lastUsed<string, boolean>(coveredMax);

  load(store: StoreReader): void {
    this.#live = [];
    for (const { key, value } of store.range("snapshot", { from: Buffer.alloc(0) })) {
      const dir = toIno(numberFromKey(key, 0));
      this.#live.push({ dir, name: Buffer.from(key.subarray(8)), ...decodeSnapshot(value) });
    }
    this.#live.sort((a, b) => a.epoch - b.epoch);
  }

  get all(): readonly LiveSnapshot[] {
    return this.#live;
  }

  add(snapshot: LiveSnapshot): void {
    this.#live.push(snapshot);
    this.#live.sort((a, b) => a.epoch - b.epoch);
  }

  remove(dir: Ino, name: Buffer): void {
    this.#live = this.#live.filter((s) => !(s.dir === dir && s.name.equals(name)));
  }

  find(dir: Ino, name: Buffer): LiveSnapshot | undefined {
    return this.#live.find((s) => s.dir === dir && s.name.equals(name));
  }

  ofDirectory(dir: Ino): LiveSnapshot[] {
    return this.#live.filter((s) => s.dir === dir);
  }

  /** True when `at` is the epoch of a live snapshot, so that reading at it makes sense. */
  hasEpoch(at: Epoch): boolean {
    return this.#live.some((s) => s.epoch === at);
  }

  /** True when a record of `ino`, visible in [since, until), is seen by a live snapshot. */
  shows(store: StoreReader, ino: Ino, since: number, until = Infinity): boolean {
    for (let i = this.#live.length - 1; i >= 0; i -= 1) {
      const snapshot = this.#live[i];
      if (!snapshot || snapshot.epoch < since) return false;
      if (snapshot.epoch < until && this.covers(store, snapshot, ino)) return true;
    }
    return false;
  }

  /** True when `ino` was the snapshot's directory or under it, when the snapshot was taken. */
  covers(store: StoreReader, snapshot: { dir: Ino; epoch: Epoch }, ino: Ino): boolean {
    if (ino === snapshot.dir) return true;
    const memo = `${snapshot.epoch}:${ino}`;
    const known = this.#covered.get(memo);
    if (known !== undefined) return known;
    const answer = parentsAt(store, ino, snapshot.epoch).some((parent) =>
      this.covers(store, snapshot, parent),
    );
    this.#covered.set(memo, answer);
    return answer;
  }
}

/** The directories that had an entry for `ino` in epoch `at`. */
function parentsAt(store: StoreReader, ino: Ino, at: Epoch): Ino[] {
  const record = recordAt(store, "inode", numberKey(ino), at);
  if (!record) return [];
  const inode = decodeInode(record);
  const parents = inode.parent === 0 ? [] : [inode.parent];
  if (inode.nlink > 1) {
    for (const { key } of rowsAt(store, "link", { prefix: numberKey(ino), at })) {
      parents.push(toIno(numberFromKey(key, 8)));
    }
  }
  return parents;
}
