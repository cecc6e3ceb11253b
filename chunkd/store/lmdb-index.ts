import { type Database, open, type RootDatabase } from "lmdb";
import {
  commitFailure,
  handleLostRejections,
  lmdbFileFault,
  LmdbRoom,
  makeLockFile,
} from "../../common/os/lmdb-file.ts";
import { UserError } from "../../common/program.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ChunkIndex, Written } from "./chunk-index.ts";
import { decodeKey, encodeKey } from "./record.ts";

/**
 * The index on disk, and the one place that knows `lmdb`. Keys are handles; in `meta` they are
 * names, and `removal:` + handle for chunks whose files are being deleted. Transactions are written
 * by another thread.
 */

type Table = Database<Buffer, Buffer>;
type Flushable = Promise<boolean> & { flushed?: Promise<unknown> };

export class LmdbIndex implements ChunkIndex {
  readonly #root: RootDatabase<Buffer, Buffer>;
  readonly #chunks: Table;
  readonly #small: Table;
  readonly #meta: Table;
  readonly #room: LmdbRoom;
  #lastWrite: Flushable | undefined;
  /** Resolves when no commit under way is left to fail or to get to the disk. */
  #settled: Promise<unknown> = Promise.resolve();
  #closing: Promise<void> | undefined;

  /** Throws a `UserError` if what is at `path` is no index, or not a whole one. */
  constructor(path: string) {
    const fault = lmdbFileFault(`${path}/data.mdb`);
    if (fault) {
      throw new UserError(
        `${path}/data.mdb is damaged: ${fault}: start with an empty directory instead, and the ` +
          "cluster copies again what this server had",
      );
    }
    makeLockFile(path);
    const binary = { encoding: "binary", keyEncoding: "binary" } as const;
    this.#root = open<Buffer, Buffer>({ path, ...binary, noSubdir: false, separateFlushed: true });
    handleLostRejections(this.#root);
    this.#room = new LmdbRoom(`${path}/data.mdb`, this.#root);
    this.#chunks = this.#root.openDB({ name: "chunk", ...binary });
    this.#small = this.#root.openDB({ name: "small", ...binary });
    this.#meta = this.#root.openDB({ name: "meta", ...binary });
  }

  get(handle: ChunkHandle): Buffer | undefined {
    return this.#chunks.getBinary(encodeKey(handle));
  }

  getSmall(handle: ChunkHandle): Buffer | undefined {
    return this.#small.getBinary(encodeKey(handle));
  }

  has(handle: ChunkHandle): boolean {
    return this.#chunks.doesExist(encodeKey(handle));
  }

  /** `small`: the chunk's bytes, or "none" to delete them, or "as is". */
  put(handle: ChunkHandle, record: Buffer, small: Buffer | "none" | "as is"): Written {
    const key = encodeKey(handle);
    const rows = [record.length, typeof small === "string" ? undefined : small.length];
    return this.#write(rows, () => {
      if (small === "none") this.#lost(this.#small.remove(key));
      else if (small !== "as is") this.#lost(this.#small.put(key, small));
      return this.#chunks.put(key, record);
    });
  }

  /** `file`: the chunk has one, which is deleted afterwards; `removalEnded` then says so. */
  remove(handle: ChunkHandle, { file } = { file: false }): Written {
    const key = encodeKey(handle);
    // One with a file has no bytes here.
    return this.#write([undefined, undefined], () => {
      if (file) this.#lost(this.#meta.put(removalKey(key), none));
      this.#lost(this.#small.remove(key));
      return this.#chunks.remove(key);
    });
  }

  /** True between `remove` and `removalEnded`, across restarts. */
  isBeingRemoved(handle: ChunkHandle): boolean {
    return this.#meta.doesExist(removalKey(encodeKey(handle)));
  }

  removalEnded(handle: ChunkHandle): void {
    const key = removalKey(encodeKey(handle));
    this.#write([undefined], () => this.#meta.remove(key));
  }

  /** The chunks for which `isBeingRemoved`. */
  removals(): ChunkHandle[] {
    const start = removalKey(Buffer.alloc(8));
    const end = removalKey(Buffer.alloc(9, 0xff));
    return [...this.#meta.getKeys({ start, end })].map((key) =>
      decodeKey(key.subarray(removalPrefix.length)),
    );
  }

  /** Up to `count` records of handles above `after` (0: from the start), in order of handles. */
  scan(after: number, count: number): { handle: ChunkHandle; record: Buffer }[] {
    const start = Buffer.allocUnsafe(8);
    start.writeBigUInt64BE(BigInt(after + 1));
    const found: { handle: ChunkHandle; record: Buffer }[] = [];
    for (const { key, value } of this.#chunks.getRange({ start, limit: count })) {
      found.push({ handle: decodeKey(key), record: Buffer.from(value) });
    }
    return found;
  }

  /** A number that belongs to the whole directory, 0 if it was never put. */
  getNumber(name: string): number {
    const value = this.#meta.getBinary(Buffer.from(name));
    return value && value.length === 8 ? Number(value.readBigUInt64LE()) : 0;
  }

  putNumber(name: string, number: number): Written {
    const value = Buffer.alloc(8);
    value.writeBigUInt64LE(BigInt(number));
    return this.#write([value.length], () => this.#meta.put(Buffer.from(name), value));
  }

  /**
   * Resolves when everything that was committed so far is on the disk. What failed to be committed
   * was told to those who wrote it.
   */
  async flushed(): Promise<void> {
    await this.#settled;
  }

  /** Waits for what was written. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // lmdb-js waits for the flush of the last commit, which never comes if that failed. Removing
    // what is not there needs no room, so that the last commit is one that succeeds.
    const nothing = Buffer.from("closing");
    await this.#write([undefined], () => this.#meta.remove(nothing)).committed.catch(ignored);
    await this.#settled;
    await this.#root.close();
  }

  /** Writes rows with values of so many bytes (undefined: a deletion) if the disk has room. */
  #write(rows: readonly (number | undefined)[], work: () => Flushable): Written {
    let room: ReturnType<LmdbRoom["take"]>;
    try {
      room = this.#room.take(rows);
    } catch (error) {
      const refused = failed(error);
      refused.catch(ignored); // Whoever cares waits for it.
      return { committed: refused, flushed: () => refused };
    }
    const promise = work();
    room.until(promise);
    return this.#written(promise);
  }

  /** A row of the same transaction as one that somebody waits for. */
  #lost(promise: Flushable): void {
    this.#written(promise);
  }

  #written(promise: Flushable): Written {
    const committed = promise.then(() => undefined, failed);
    committed.catch(ignored); // Whoever cares waits for it; others must not end the process.
    const flushed = async (): Promise<void> => {
      await committed; // First: lmdb-js never settles the flush of a commit that failed.
      await promise.flushed;
    };
    if (promise !== this.#lastWrite) {
      this.#lastWrite = promise;
      this.#settled = Promise.allSettled([this.#settled, flushed()]);
    }
    return { committed, flushed };
  }
}

async function failed(error: unknown): Promise<never> {
  const cause = await commitFailure(error);
  const why = cause instanceof Error ? cause.message : String(cause);
  const status = /space|MAP_FULL/i.test(why) ? "no-space" : "io-error";
  throw new StatusError(status, `the chunk index could not be written: ${why}`, { cause });
}

const removalPrefix = Buffer.from("removal:");
const none = Buffer.alloc(0);

function removalKey(key: Buffer): Buffer {
  return Buffer.concat([removalPrefix, key]);
}

function ignored(): void {
  // Whoever waits for the same promise sees the failure.
}
