import { LRUCache } from "lru-cache";
import { assert } from "../../common/assert.ts";
import type { Clock } from "../../common/clock.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { cachedBytesMax } from "../limits.ts";
import type { ChunkIndex } from "./chunk-index.ts";
import { Gate } from "./gate.ts";
import { type ChunkRecord, decodeRecord } from "./record.ts";

/** A record in memory. For a dirty file chunk only this one has the length and the CRCs. */
export interface LiveRecord extends ChunkRecord {
  /** A small chunk's bytes. Replaced as a whole, never changed: the index may still be reading. */
  bytes: Buffer | undefined;
  /** Made a moment ago: the index does not have it yet. */
  fresh: boolean;
}

/**
 * A chunk somebody works on. Locks, in the order in which they are taken:
 *
 *   gate      shared by writes, in the order in which all replicas apply them; exclusive for what
 *             changes the chunk as a whole (raise, clone, copy, remove)
 *   applying  exclusive for each change of the record and the file on this server
 *
 * Reads take neither, see read.ts.
 */
export interface Chunk {
  readonly handle: ChunkHandle;
  readonly gate: Gate;
  readonly applying: Gate;
  /** Undefined: no such chunk here. */
  record: LiveRecord | undefined;
  /** Why the record, or the chunk, cannot be used. */
  unusable: string | undefined;
  /** Why bytes that were written may not be on the disk, and never will be: see sync.ts. */
  unsafe: string | undefined;
  /** Its length when all writes that have been let in are applied. */
  plannedLength: number;
  users: number;
  /** Changes of the file that have begun, and that have ended. */
  begun: number;
  ended: number;
  /** `ended` as it was before the last completed fdatasync. */
  synced: number;
  /** The file's name may not be on the disk. */
  nameUnsynced: boolean;
  /** The fdatasync under way, and the one that those who came later wait for. */
  syncing: Promise<void> | undefined;
  syncNext: Promise<void> | undefined;
}

/**
 * The chunks in memory: those in use, dirty file chunks, and as many others as there is room for.
 */
export class ChunkTable {
  readonly #index: ChunkIndex;
  readonly #clock: Clock;
  readonly #live = new Map<ChunkHandle, Chunk>();
  readonly #idle = new LRUCache<ChunkHandle, Chunk>({
    maxSize: cachedBytesMax,
    sizeCalculation: (chunk) => 512 + memoryBytes(chunk),
  });
  /** Dirty chunks and when they were last written to, the longest ago first. */
  readonly #dirtyFiles = new Map<ChunkHandle, number>();
  readonly #dirtySmall = new Map<ChunkHandle, number>();
  #count = 0;
  #usedBytes = 0;

  constructor(options: { index: ChunkIndex; clock: Clock }) {
    this.#index = options.index;
    this.#clock = options.clock;
  }

  get count(): number {
    return this.#count;
  }

  /** The chunks' lengths together. */
  get usedBytes(): number {
    return this.#usedBytes;
  }

  get dirtyFiles(): ReadonlyMap<ChunkHandle, number> {
    return this.#dirtyFiles;
  }

  get dirtySmall(): ReadonlyMap<ChunkHandle, number> {
    return this.#dirtySmall;
  }

  /** Counts what the index held at the start. */
  countStored(record: ChunkRecord): void {
    this.#count += 1;
    this.#usedBytes += record.length;
  }

  /** Runs `work` with the chunk, which stays in memory as long. `work` starts synchronously. */
  async with<T>(handle: ChunkHandle, work: (chunk: Chunk) => Promise<T>): Promise<T> {
    const chunk = this.#pin(handle);
    try {
      return await work(chunk);
    } finally {
      this.#unpin(chunk);
    }
  }

  /** The record of a chunk that is in memory, which is newer than the index's. */
  peek(handle: ChunkHandle): LiveRecord | undefined {
    return (this.#live.get(handle) ?? this.#idle.peek(handle))?.record;
  }

  /** Gives the chunk another record, or none. The index is the caller's business. */
  replace(chunk: Chunk, record: LiveRecord | undefined): void {
    this.#count += (record ? 1 : 0) - (chunk.record ? 1 : 0);
    this.#usedBytes += (record?.length ?? 0) - (chunk.record?.length ?? 0);
    chunk.record = record;
    if (chunk.gate.idle || !record) chunk.plannedLength = record?.length ?? 0;
    if (record?.dirty) this.noteDirty(chunk);
    else this.noteClean(chunk.handle);
  }

  /** As `replace`, by one who holds the gate alone: no write that was let in is still to come. */
  replaceWhole(chunk: Chunk, record: LiveRecord): void {
    this.replace(chunk, record);
    chunk.plannedLength = record.length;
  }

  /** The record changed in place from `lengthBefore`. */
  resized(record: LiveRecord, lengthBefore: number): void {
    this.#usedBytes += record.length - lengthBefore;
  }

  noteDirty(chunk: Chunk): void {
    const small = chunk.record?.bytes !== undefined;
    this.noteClean(chunk.handle);
    (small ? this.#dirtySmall : this.#dirtyFiles).set(chunk.handle, this.#clock.nowMs());
  }

  noteClean(handle: ChunkHandle): void {
    this.#dirtyFiles.delete(handle);
    this.#dirtySmall.delete(handle);
  }

  #pin(handle: ChunkHandle): Chunk {
    let chunk = this.#live.get(handle);
    if (!chunk) {
      chunk = this.#idle.get(handle);
      if (chunk) this.#idle.delete(handle);
      else chunk = this.#load(handle);
      this.#live.set(handle, chunk);
    }
    chunk.users += 1;
    return chunk;
  }

  #unpin(chunk: Chunk): void {
    chunk.users -= 1;
    assert(chunk.users >= 0, "a chunk is given back once");
    const { handle, record } = chunk;
    if (chunk.users > 0 || (record?.dirty && record.bytes === undefined)) return;
    this.#live.delete(handle);
    if (record) this.#idle.set(handle, chunk);
  }

  #load(handle: ChunkHandle): Chunk {
    const chunk: Chunk = {
      handle,
      gate: new Gate(),
      applying: new Gate(),
      record: undefined,
      unusable: undefined,
      unsafe: undefined,
      plannedLength: 0,
      users: 0,
      begun: 0,
      ended: 0,
      synced: 0,
      nameUnsynced: false,
      syncing: undefined,
      syncNext: undefined,
    };
    const stored = this.#index.get(handle);
    if (!stored) return chunk;
    const record = decodeRecord(handle, stored);
    if (typeof record === "string") {
      chunk.unusable = `its index record ${record}`;
      return chunk;
    }
    const bytes = record.small ? this.#index.getSmall(handle) : undefined;
    if (record.small && bytes?.length !== record.length) {
      chunk.unusable = "its bytes are missing from the index";
      return chunk;
    }
    chunk.record = { ...record, bytes, fresh: false };
    chunk.plannedLength = record.length;
    return chunk;
  }
}

function memoryBytes(chunk: Chunk): number {
  const { record } = chunk;
  return record ? (record.bytes?.length ?? 0) + 8 * record.crcs.length : 0;
}

/** As `expectChunk`, under `version`, or throws `stale-version`. */
export function expectVersion(chunk: Chunk, version: ChunkVersion): LiveRecord {
  const record = expectChunk(chunk);
  if (record.version !== version) {
    const message = `chunk ${chunk.handle}: version ${record.version} here, ${version} asked for`;
    throw new StatusError("stale-version", message);
  }
  return record;
}

/** Throws `interrupted` if whoever asked does not wait any more: for what had to wait its turn. */
export function expectWanted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw new StatusError("interrupted", "it was cancelled before its turn came");
}

/** The chunk's record, or throws `no-chunk`, `corrupt` or `io-error`. */
export function expectChunk(chunk: Chunk): LiveRecord {
  if (chunk.unusable !== undefined) {
    throw new StatusError("corrupt", `chunk ${chunk.handle}: ${chunk.unusable}`);
  }
  if (chunk.unsafe !== undefined) {
    throw new StatusError("io-error", `chunk ${chunk.handle}: ${chunk.unsafe}`);
  }
  if (!chunk.record) throw new StatusError("no-chunk", `chunk ${chunk.handle} is not here`);
  return chunk.record;
}
