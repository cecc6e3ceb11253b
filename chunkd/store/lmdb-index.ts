import { type Database, open, type RootDatabase } from "lmdb";
import { commitFailure, handleLostRejections, lmdbFileFault } from "../../common/os/lmdb-file.ts";
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
    const binary = { encoding: "binary", keyEncoding: "binary" } as const;
    this.#root = open<Buffer, Buffer>({ path, ...binary, noSubdir: false, separateFlushed: true });
    handleLostRejections(this.#root);
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

  put(handle: ChunkHandle, record: Buffer, small: Buffer | "none" | "as is"): Written {
    const key = encodeKey(handle);
    if (small === "none") void this.#written(this.#small.remove(key)).committed.catch(ignored);
    else if (small !== "as is") {
      void this.#written(this.#small.put(key, small)).committed.catch(ignored);
    }
    return this.#written(this.#chunks.put(key, record));
  }

  remove(handle: ChunkHandle, { file } = { file: false }): Written {
    const key = encodeKey(handle);
    if (file) {
      void this.#written(this.#meta.put(removalKey(key), none)).committed.catch(ignored);
    }
    void this.#written(this.#small.remove(key)).committed.catch(ignored);
    return this.#written(this.#chunks.remove(key));
  }

  isBeingRemoved(handle: ChunkHandle): boolean {
    return this.#meta.doesExist(removalKey(encodeKey(handle)));
  }

  removalEnded(handle: ChunkHandle): void {
    const written = this.#written(this.#meta.remove(removalKey(encodeKey(handle))));
    void written.committed.catch(ignored);
  }

  removals(): ChunkHandle[] {
    const start = removalKey(Buffer.alloc(8));
    const end = removalKey(Buffer.alloc(9, 0xff));
    return [...this.#meta.getKeys({ start, end })].map((key) =>
      decodeKey(key.subarray(removalPrefix.length)),
    );
  }

  scan(after: number, count: number): { handle: ChunkHandle; record: Buffer }[] {
    const start = Buffer.allocUnsafe(8);
    start.writeBigUInt64BE(BigInt(after + 1));
    const found: { handle: ChunkHandle; record: Buffer }[] = [];
    for (const { key, value } of this.#chunks.getRange({ start, limit: count })) {
      found.push({ handle: decodeKey(key), record: Buffer.from(value) });
    }
    return found;
  }

  getNumber(name: string): number {
    const value = this.#meta.getBinary(Buffer.from(name));
    return value && value.length === 8 ? Number(value.readBigUInt64LE()) : 0;
  }

  putNumber(name: string, number: number): Written {
    const value = Buffer.alloc(8);
    value.writeBigUInt64LE(BigInt(number));
    return this.#written(this.#meta.put(Buffer.from(name), value));
  }

  async flushed(): Promise<void> {
    await this.#settled;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    // lmdb-js waits for the flush of the last commit, which never comes if that failed. Removing
    // what is not there needs no room, so that the last commit is one that succeeds.
    await this.#written(this.#meta.remove(Buffer.from("closing"))).committed.catch(ignored);
    await this.#settled;
    await this.#root.close();
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
