import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { lastUsed } from "../../common/lru.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import type { ChunkHandle, Ino } from "../../protocol/id.ts";
import { fileBytesMax } from "../../protocol/limits.ts";
import { commit } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { type Status, StatusError, statusOf } from "../../protocol/status.ts";
import type { ChunkWriter } from "./chunk-writer.ts";
import { type Batch, DirtyFile, Unsynced } from "./dirty-file.ts";
import { FileSync } from "./file-sync.ts";
import { interrupted, interruptible } from "./interruptible.ts";
import type { MasterClient } from "./master-client.ts";
import { Outbox, pieceBytes } from "./outbox.ts";
import type { Tails } from "./tails.ts";
import { type ErrorCursor, WriteErrors } from "./write-errors.ts";

/**
 * Files without unsent data whose chunks an fsync would still have to sync. Chunk servers sync by
 * themselves within seconds, so what falls out of this list is long safe.
 */
const unsyncedFilesMax = 20_000;
/** Chunks remembered as ones that the master tells readers of. */
const listedMax = 10_000;
/** Chunks with data that the master has not heard of, before it is told in passing. */
const uncommittedChunksMax = 2;
/**
 * The master will never take such a commit: the file is gone, or its chunks were cut away by
 * somebody else. After any other failure it is told again.
 */
const commitLost: ReadonlySet<Status> = new Set(["stale", "not-found", "invalid", "too-large"]);

export interface WriteBackOptions {
  master: Pick<MasterClient, "mutate" | "read" | "chunkBytes">;
  writer: Pick<ChunkWriter, "write" | "sync">;
  clock: Clock;
  log: Log;
  unsentBytesMax?: number;
  tails: Pick<Tails, "get" | "take" | "placing" | "sized">;
  /** The size that the master has told of, if it is known. */
  sizeOf: (ino: Ino) => number | undefined;
  /** Before each attempt to send something of a file; may take time, and `abandon` it. */
  admit?: (ino: Ino) => Promise<void> | undefined;
  /**
   * A piece has reached the chunk servers, or failed, or the master tells of its chunk from now on:
   * what was read before may be out of date.
   */
  onSent: (ino: Ino) => void;
  /** The master knows nothing of the file's new chunks, nor ever will: what is cached is wrong. */
  onLost: (ino: Ino) => void;
  /** Before a commit: what it gives comes back with the answer. */
  ticket: () => number;
  /** The master's answer to a commit. */
  onCommitted: (attr: Attr, ticket: number) => void;
}

/** Where to write: an offset, or wherever the file ends. */
type Place = number | "end";

/** Who waits, and what he has been told of. */
interface Waiter {
  cursor: ErrorCursor;
  signal?: AbortSignal | undefined;
}

/**
 * Write-behind: writes are collected into large pieces and sent in the background; `flush` waits
 * for them, tells the master, and reports what went wrong.
 */
export class WriteBack {
  readonly errors = new WriteErrors();
  readonly #options: WriteBackOptions;
  readonly #files = new Map<Ino, DirtyFile>();
  /** Chunks that a later fsync has to sync, of files that are otherwise clean. */
  readonly #unsynced = lastUsed<Ino, Unsynced>(unsyncedFilesMax);
  /** Chunks that commits have named: a grant from before them still says that they are new. */
  readonly #listed = lastUsed<ChunkHandle, true>(listedMax);
  readonly #outbox: Outbox;
  readonly #fileSync: FileSync;
  readonly #locks = new KeyedMutex<Ino>();
  readonly #commits = new KeyedMutex<Ino>();

  constructor(options: WriteBackOptions) {
    this.#options = options;
    const { master, writer, log, unsentBytesMax, admit, onSent } = options;
    const { errors } = this;
    this.#outbox = new Outbox({
      ...{ master, writer, log, unsentBytesMax, errors, admit, onSent },
      files: this.#files,
      isListed: (handle) => this.#listed.has(handle),
    });
    this.#fileSync = new FileSync({
      ...{ master, writer, log, errors },
      settled: async (ino) => {
        const file = this.#file(ino);
        await this.#settle(ino, file);
        return file.unsynced;
      },
      onSynced: (ino, unsynced) => {
        if (this.#unsynced.get(ino) === unsynced) this.#unsynced.delete(ino);
      },
    });
  }

  /**
   * Takes a copy of `data` before it returns its promise. Waits while too much is unsent. Reports
   * an earlier failure instead, once. Resolves with where it was written.
   */
  write(ino: Ino, place: Place, data: Buffer, waiter: Waiter): Promise<number> {
    const waits = this.#locks.busy(ino) || this.#lacksTail(ino, place, data);
    // As many wait as the kernel sends at a time: that bounds these copies.
    const own = waits ? Buffer.from(data) : data;
    const work = this.#locks.run(ino, () => this.#take(ino, place, own, waiter));
    return interruptible(work, waiter.signal);
  }

  /** As `write`, for the work of `exclusively`: no other write comes between. */
  writeWithin(ino: Ino, place: Place, data: Buffer, waiter: Waiter): Promise<number> {
    return interruptible(this.#take(ino, place, data, waiter), waiter.signal);
  }

  #extends(ino: Ino, place: Place, data: Buffer): boolean {
    return place === "end" || place + data.length > (this.#options.sizeOf(ino) ?? 0);
  }

  #lacksTail(ino: Ino, place: Place, data: Buffer): boolean {
    return this.#extends(ino, place, data) && !this.#options.tails.get(ino);
  }

  async #take(ino: Ino, place: Place, data: Buffer, waiter: Waiter): Promise<number> {
    this.errors.report(ino, waiter.cursor, "written");
    checkSize(place, data);
    if (waiter.signal?.aborted) throw interrupted("interrupted before it began");
    const { tails } = this.#options;
    if (!this.#extends(ino, place, data)) {
      const offset = place === "end" ? 0 : place;
      await this.#put(ino, offset, data, waiter.signal);
      return offset;
    }
    // Between having the tail and choosing the place nothing is awaited: it may be called back.
    let tail = tails.get(ino);
    while (!tail) {
      // What lies beyond the end is cut off for a new holder: what is this mount's, as it had the
      // tail before the connection was lost, has to be committed first.
      await this.settle(ino, waiter.signal);
      await tails.take(ino, waiter.signal);
      tail = tails.get(ino);
    }
    const end = Math.max(tail.size, this.#files.get(ino)?.end ?? 0);
    const offset = place === "end" ? end : place;
    checkSize(offset, data);
    await tails.placing(tail, () => this.#put(ino, offset, data, waiter.signal));
    return offset;
  }

  async #put(
    ino: Ino,
    offset: number,
    data: Buffer,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const file = this.#file(ino);
    let rest = data;
    for (let at = offset; rest.length > 0;) {
      const part = rest.subarray(0, pieceBytes - (at % pieceBytes));
      if (!this.#outbox.collect(ino, file, at, part)) {
        rest = Buffer.from(rest);
        await this.#waitForMemory(ino, file, at, Math.min(rest.length, part.length), signal);
        continue;
      }
      at += part.length;
      rest = rest.subarray(part.length);
    }
    file.mtime = this.#options.clock.wallNs();
    file.lastWriteMs = this.#options.clock.nowMs();
    const { piece } = file;
    const full = piece && (piece.offset + piece.length) % pieceBytes === 0;
    // Others wait for memory: nothing is held back for the sake of larger pieces.
    if (full || this.#outbox.contended) this.#outbox.launch(ino, file);
  }

  async #waitForMemory(
    ino: Ino,
    file: DirtyFile,
    offset: number,
    bytes: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    try {
      await this.#outbox.waitForMemory(file, offset, bytes, signal);
    } catch (error) {
      this.#forgetIfClean(ino, file, true);
      throw error;
    }
  }

  #file(ino: Ino): DirtyFile {
    let file = this.#files.get(ino);
    if (!file) {
      file = new DirtyFile(this.#unsynced.get(ino) ?? new Unsynced());
      this.#files.set(ino, file);
    }
    return file;
  }

  /** The file may be others' now: what is not sent is lost, and its writers are told. */
  abandon(ino: Ino): void {
    const file = this.#files.get(ino);
    if (!file) return;
    this.#outbox.launch(ino, file);
    for (const flight of file.flights) flight.abandoned = true;
  }

  /** The size and time that the master does not know yet. */
  pending(ino: Ino): { end: number; mtime: bigint } | undefined {
    return this.#files.get(ino)?.pending;
  }

  /**
   * Resolves when a reader finds what has been written to the range: at the chunk servers, and in
   * chunks that the master knows of. Rejects with `io-error` if it has just failed to get there:
   * what was there before is not what the writer may expect.
   */
  async readable(ino: Ino, offset: number, length: number, signal?: AbortSignal): Promise<void> {
    const file = this.#files.get(ino);
    if (!file) return;
    const end = offset + length;
    if (file.overlaps(offset, end)) {
      this.#outbox.launch(ino, file);
      const flights = file.flightsOver(offset, end);
      await this.drain(ino, signal);
      if (flights.some(({ failed }) => failed)) {
        throw new StatusError("io-error", "what was written there could not be stored");
      }
    }
    const { chunkBytes } = this.#options.master;
    const first = Math.floor(offset / chunkBytes);
    const last = Math.floor((end - 1) / chunkBytes);
    if (file.isUnlisted(first, last)) await this.settle(ino, signal);
  }

  /** Resolves when everything written so far is at the chunk servers, or has failed. */
  async drain(ino: Ino, signal?: AbortSignal): Promise<void> {
    const file = this.#files.get(ino);
    if (!file) return;
    this.#outbox.launch(ino, file);
    const flights = [...file.flights].map((flight) => flight.done);
    await interruptible(Promise.all(flights), signal);
  }

  /** Sends everything and tells the master. Failures stay for those who wrote. */
  async settle(ino: Ino, signal?: AbortSignal): Promise<void> {
    const file = this.#files.get(ino);
    if (file) await interruptible(this.#settle(ino, file), signal);
  }

  /** As `settle`; rejects with a failure that the waiter has not been told of. */
  async flush(ino: Ino, waiter: Waiter): Promise<void> {
    await this.settle(ino, waiter.signal);
    this.#report(ino, waiter);
  }

  /** As `flush`, and on the disks of all replicas and of the master. */
  async fsync(ino: Ino, waiter: Waiter): Promise<void> {
    await interruptible(this.#fileSync.sync(ino), waiter.signal);
    this.#report(ino, waiter);
  }

  #report(ino: Ino, waiter: Waiter): void {
    const file = this.#files.get(ino);
    file?.acceptLosses();
    if (file) this.#forgetIfClean(ino, file);
    this.errors.report(ino, waiter.cursor, "synced");
  }

  #forgetIfClean(ino: Ino, file: DirtyFile, locked = false): void {
    if (!file.isClean || file.hasLosses) return;
    if ((!locked && this.#locks.busy(ino)) || this.#files.get(ino) !== file) return;
    this.#files.delete(ino);
    if (file.unsynced.size > 0) this.#unsynced.set(ino, file.unsynced);
    else this.#unsynced.delete(ino);
  }

  async #settle(ino: Ino, file: DirtyFile): Promise<void> {
    await this.drain(ino);
    await this.#commits.run(ino, () => this.#commit(ino, file));
    this.#forgetIfClean(ino, file);
  }

  async #commit(ino: Ino, file: DirtyFile): Promise<void> {
    for (let more = true; more;) {
      const batch = file.beginCommit();
      if (!batch) return;
      more = (await this.#commitBatch(ino, file, batch)) && batch.more;
    }
  }

  /** True if the master has taken it. */
  async #commitBatch(ino: Ino, file: DirtyFile, batch: Batch): Promise<boolean> {
    const { size, mtime } = batch;
    const written = [...batch.written].map(([index, handle]) => ({ index, handle }));
    const { master, ticket, onCommitted, log } = this.#options;
    const before = ticket();
    try {
      const { attr } = await master.mutate(commit, { ino, size, mtime, written });
      this.#options.tails.sized(ino, attr.size);
      onCommitted(attr, before);
      for (const { handle } of written) this.#listed.set(handle, true);
      if (file.committed(batch)) this.#options.onSent(ino);
      return true;
    } catch (cause) {
      const lost = commitLost.has(statusOf(cause));
      log.error("commit.failed", { ino, size, lost, error: cause });
      file.commitFailed(batch, lost);
      if (lost) this.#options.onLost(ino);
      this.errors.add(ino, cause);
      return false;
    }
  }

  /**
   * Runs `work`, which changes the size, with nothing of the file unsent and no write beginning.
   * `truncated` tells the outcome.
   */
  exclusively<T>(ino: Ino, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const waiting = this.#locks.run(ino, async () => {
      await this.settle(ino, signal);
      if (signal?.aborted) throw interrupted("interrupted before it began");
      return work();
    });
    return interruptible(waiting, signal);
  }

  /** The file now ends at `size`: nothing is left to be done for chunks beyond. */
  truncated(ino: Ino, size: number): void {
    this.#options.tails.sized(ino, size);
    const { chunkBytes } = this.#options.master;
    this.#files.get(ino)?.truncated(size, chunkBytes);
    this.#unsynced.get(ino)?.dropFrom(Math.ceil(size / chunkBytes));
  }

  /**
   * Background: sends what has been lying for a while, and keeps the master's size from lagging.
   * One promise for each file that has work begun, which never rejects: a file whose servers are
   * gone holds up no other.
   */
  tick(idleMs: number): Promise<void>[] {
    const { clock } = this.#options;
    const begun: Promise<void>[] = [];
    for (const [ino, file] of [...this.#files]) {
      const idle = clock.nowMs() - file.lastWriteMs >= idleMs;
      if (this.#outbox.contended) this.#outbox.launch(ino, file);
      if (file.settling || (!idle && file.written.size < uncommittedChunksMax)) continue;
      if (file.isClean) this.#forgetIfClean(ino, file);
      else begun.push(this.#settleBehind(ino, file));
    }
    return begun;
  }

  async #settleBehind(ino: Ino, file: DirtyFile): Promise<void> {
    file.settling = true;
    try {
      await this.#settle(ino, file);
    } finally {
      file.settling = false;
    }
  }

  /**
   * Everything of every file; failures stay for those who wrote. Rejects if there were any: a
   * snapshot then says that something of this mount may be missing.
   */
  async flushAll(): Promise<void> {
    const before = this.errors.count;
    await Promise.all([...this.#files].map(([ino, file]) => this.#settle(ino, file)));
    if (this.errors.count !== before) {
      throw new StatusError("io-error", "something could not be written");
    }
  }

  /** syncfs(2): as `flushAll`, and on the disks of all replicas and of the master. */
  async syncAll(): Promise<void> {
    const before = this.errors.count;
    await this.#fileSync.syncAll(new Set([...this.#files.keys(), ...this.#unsynced.keys()]));
    if (this.errors.count !== before) {
      throw new StatusError("io-error", "something could not be written");
    }
  }

  /** What is neither committed nor known to have failed. */
  unwritten(): { ino: Ino; end: number }[] {
    return [...this.#files].flatMap(([ino, { pending }]) =>
      pending ? [{ ino, end: pending.end }] : [],
    );
  }
}

function checkSize(place: Place, data: Buffer): void {
  const offset = place === "end" ? 0 : place;
  if (offset + data.length <= fileBytesMax) return;
  throw new StatusError("too-large", "the file would be too large");
}
