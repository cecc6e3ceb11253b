import { assert } from "../../common/assert.ts";
import type { ChunkHandle, Epoch, Ino } from "../../protocol/id.ts";
import { chunkHandle, ino as toIno } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { nameKey, numberKey, sinceOf } from "../store/bytes.ts";
import type { Change } from "../store/batch.ts";
import { keyText } from "../store/overlay.ts";
import { historyKey, recordAt, rowsAt, type VersionedTable } from "../store/history.ts";
import type { Row, StoreReader, StoreWriter, Table } from "../store/store.ts";
import {
  type Chunk,
  type ChunkRef,
  decodeChunk,
  decodeChunkRef,
  decodeEntry,
  decodeInode,
  decodeLink,
  encodeChunk,
  encodeChunkRef,
  encodeEntry,
  encodeInode,
  encodeLink,
  type EntryRecord,
  type Inode,
  type LinkRecord,
} from "../store/tables.ts";
import type { Ids } from "./ids.ts";
import type { SnapshotIndex } from "./snapshots.ts";

/** A versioned record as an operation writes it: the transaction adds `since`. */
type Fresh<T> = Omit<T, "since">;

/**
 * One operation's view of the state and the batch of changes it makes. Operations are functions of
 * a transaction: they read through it, write into it, and either return, which commits the batch,
 * or throw, which leaves nothing. It sees its own writes by key; ranges show what was there before
 * it.
 *
 * Replacing or removing a versioned record that a live snapshot shows moves the old one to history.
 */
export class Txn {
  readonly epoch: Epoch;
  readonly nowNs: bigint;
  /** Counts commits: operations with the same one come about together or not at all. */
  readonly group: number;
  readonly snapshots: SnapshotIndex;
  readonly #reader: StoreReader;
  readonly #ids: Ids;
  readonly #changes = new Map<Table, Map<string, Change>>();
  readonly #after: (() => void)[] = [];
  /** What mounts may have cached and what is now different. */
  readonly touched = {
    inos: new Set<Ino>(),
    contents: new Set<Ino>(),
    gone: new Set<Ino>(),
    entries: [] as { parent: Ino; name: Buffer }[],
  };

  constructor(options: {
    reader: StoreReader;
    snapshots: SnapshotIndex;
    ids: Ids;
    epoch: Epoch;
    nowNs: bigint;
    group: number;
  }) {
    this.#reader = options.reader;
    this.snapshots = options.snapshots;
    this.#ids = options.ids;
    this.epoch = options.epoch;
    this.nowNs = options.nowNs;
    this.group = options.group;
  }

  /** The state before this transaction; for ranges. */
  get before(): StoreReader {
    return this.#reader;
  }

  newIno(): Ino {
    return toIno(this.#ids.next("ino"));
  }

  newHandle(): ChunkHandle {
    return chunkHandle(this.#ids.next("handle"));
  }

  /** Runs `action` once the batch is committed; for what lives in memory. */
  afterCommit(action: () => void): void {
    this.#after.push(action);
  }

  get(table: Table, key: Buffer): Buffer | undefined {
    const change = this.#changes.get(table)?.get(keyText(key));
    return change ? change.value : this.#reader.get(table, key);
  }

  put(table: Table, key: Buffer, value: Buffer | undefined): void {
    let changes = this.#changes.get(table);
    if (!changes) this.#changes.set(table, (changes = new Map()));
    changes.set(keyText(key), { table, key, value });
  }

  // Inodes

  findInode(ino: Ino): Inode | undefined {
    const record = this.get("inode", numberKey(ino));
    return record && decodeInode(record);
  }

  /** The inode, or `stale`: the client knows it from before it was deleted. */
  inode(ino: Ino): Inode {
    const inode = this.findInode(ino);
    if (!inode) throw new StatusError("stale", `inode ${ino} does not exist any more`);
    return inode;
  }

  putInode(ino: Ino, inode: Fresh<Inode>): void {
    this.touched.inos.add(ino);
    this.putInodeUntold(ino, inode);
  }

  /** As `putInode`, for a change of which no mount need be told. */
  putInodeUntold(ino: Ino, inode: Fresh<Inode>): void {
    this.#replace("inode", ino, numberKey(ino), encodeInode({ ...inode, since: this.epoch }));
  }

  /**
   * Of what nobody can reach any more. A mount may still show it, removed as it is, to a process
   * that works in a directory without having it open.
   */
  removeInode(ino: Ino): void {
    this.touched.gone.add(ino);
    this.#replace("inode", ino, numberKey(ino), undefined);
  }

  // Entries

  findEntry(parent: Ino, name: Buffer): EntryRecord | undefined {
    const record = this.get("entry", nameKey(parent, name));
    return record && decodeEntry(record);
  }

  entry(parent: Ino, name: Buffer): EntryRecord {
    const entry = this.findEntry(parent, name);
    if (!entry) throw new StatusError("not-found", `no entry ${JSON.stringify(name.toString())}`);
    return entry;
  }

  putEntry(parent: Ino, name: Buffer, entry: Fresh<EntryRecord>): void {
    this.touched.contents.add(parent);
    this.touched.entries.push({ parent, name });
    const record = encodeEntry({ ...entry, since: this.epoch });
    this.#replace("entry", parent, nameKey(parent, name), record);
  }

  removeEntry(parent: Ino, name: Buffer): void {
    this.touched.contents.add(parent);
    this.touched.entries.push({ parent, name });
    this.#replace("entry", parent, nameKey(parent, name), undefined);
  }

  hasEntries(dir: Ino): boolean {
    for (const _row of rowsAt(this.#reader, "entry", { prefix: numberKey(dir), at: undefined })) {
      return true;
    }
    return false;
  }

  // Links: the parents of an inode beyond its first

  findLink(ino: Ino, parent: Ino): LinkRecord | undefined {
    const record = this.get("link", numberKey(ino, parent));
    return record && decodeLink(record);
  }

  putLink(ino: Ino, parent: Ino, count: number): void {
    const record = count > 0 ? encodeLink({ count, since: this.epoch }) : undefined;
    this.#replace("link", ino, numberKey(ino, parent), record);
  }

  // Chunks

  findChunkRef(ino: Ino, index: number): ChunkRef | undefined {
    const record = this.get("chunkmap", numberKey(ino, index));
    return record && decodeChunkRef(record);
  }

  /** True when chunk row `ref` of `ino` may be written in place: nothing else shows it. */
  isExclusive(ino: Ino, ref: ChunkRef): boolean {
    return this.chunk(ref.handle).refs === 1 && !this.snapshots.shows(this.#reader, ino, ref.since);
  }

  /** Points chunk `index` at `handle` (or makes it a hole), and drops the reference it had. */
  setChunkRef(ino: Ino, index: number, handle: ChunkHandle | undefined): void {
    const key = numberKey(ino, index);
    const old = this.findChunkRef(ino, index);
    const record = handle === undefined ? undefined : encodeChunkRef({ handle, since: this.epoch });
    this.touched.contents.add(ino);
    const kept = this.#replace("chunkmap", ino, key, record);
    if (old && !kept) this.dropReference(old.handle);
  }

  findChunk(handle: ChunkHandle): Chunk | undefined {
    const record = this.get("chunk", numberKey(handle));
    return record && decodeChunk(record);
  }

  chunk(handle: ChunkHandle): Chunk {
    const chunk = this.findChunk(handle);
    if (!chunk)
      throw new StatusError("io-error", `chunk ${handle} is referred to but not recorded`);
    return chunk;
  }

  putChunk(handle: ChunkHandle, chunk: Chunk): void {
    this.chunks.add(handle);
    this.put("chunk", numberKey(handle), encodeChunk(chunk));
  }

  addReference(handle: ChunkHandle): void {
    const chunk = this.chunk(handle);
    this.putChunk(handle, { ...chunk, refs: chunk.refs + 1 });
  }

  /** The last one makes the chunk garbage, which `onGarbage` tells those who hold it. */
  dropReference(handle: ChunkHandle): void {
    const chunk = this.chunk(handle);
    assert(chunk.refs > 0, "a referenced chunk counts its references");
    if (chunk.refs > 1) {
      this.unshares = true;
      return this.putChunk(handle, { ...chunk, refs: chunk.refs - 1 });
    }
    this.chunks.add(handle);
    this.put("chunk", numberKey(handle), undefined);
    this.garbage.push({ handle, servers: chunk.servers });
  }

  /**
   * True when something stopped showing chunks that others show: they may be written in place now,
   * but not before this is on the disk.
   */
  unshares = false;
  /** Chunks whose records are different now. */
  readonly chunks = new Set<ChunkHandle>();
  /** Chunks that lost their last reference here. */
  readonly garbage: { handle: ChunkHandle; servers: Chunk["servers"] }[] = [];

  // Extended attributes

  xattr(ino: Ino, name: Buffer): Buffer | undefined {
    return this.get("xattr", nameKey(ino, name));
  }

  /** `record` undefined removes it. */
  putXattr(ino: Ino, name: Buffer, record: Buffer | undefined): void {
    this.#replace("xattr", ino, nameKey(ino, name), record);
  }

  /** The rows of `table` that belong to `ino`, as they were before this transaction. */
  rows(table: VersionedTable, ino: Ino, from?: Buffer): Iterable<Row> {
    const prefix = numberKey(ino);
    return rowsAt(this.#reader, table, { prefix, at: undefined, ...(from ? { from } : {}) });
  }

  /** A record as it was in epoch `at`. */
  recordAt(table: VersionedTable, key: Buffer, at: Epoch | undefined): Buffer | undefined {
    return recordAt(this.#reader, table, key, at);
  }

  /** Returns true when the old record was kept for a snapshot. */
  #replace(table: VersionedTable, ino: Ino, key: Buffer, value: Buffer | undefined): boolean {
    const old = this.get(table, key);
    let kept = false;
    if (old) {
      const since = sinceOf(old);
      kept = since < this.epoch && this.snapshots.shows(this.#reader, ino, since);
      if (kept) this.put("history", historyKey(table, key, this.epoch), old);
    }
    this.put(table, key, value);
    return kept;
  }

  /** Writes the batch; what follows a commit is returned. */
  apply(writer: StoreWriter): readonly (() => void)[] {
    for (const changes of this.#changes.values()) {
      for (const { table, key, value } of changes.values()) {
        if (value === undefined) writer.remove(table, key);
        else writer.put(table, key, value);
      }
    }
    return this.#after;
  }
}
