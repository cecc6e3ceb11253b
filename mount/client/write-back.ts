import { LRUCache } from "lru-cache";
import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { KeyedMutex, Semaphore } from "../../common/mutex.ts";
import type { Ino } from "../../protocol/id.ts";
import { payloadBytesMax } from "../../protocol/limits.ts";
import { commit } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import type { ChunkWriter } from "./chunk-writer.ts";
import type { MasterClient } from "./master-client.ts";

/**
 * Data is sent in pieces of at most this, cut at its multiples, so none crosses a chunk's border.
 */
const pieceBytes = payloadBytesMax;
/** A piece starts small, for small files, and grows at once to its full size. */
const pieceStartBytes = 64 * 1024;
/** Unsent data of all files: beyond it, write(2) waits (P8). */
const unsentBytesMax = 48 * 1024 * 1024;
/** Pieces of one file under way: enough to keep a chain of servers busy. */
const flightsPerFileMax = 6;
/**
 * Files without unsent data whose chunks an fsync would still have to sync. Chunk servers sync by
 * themselves within seconds, so what falls out of this list is long safe.
 */
const unsyncedFilesMax = 20_000;
/** Chunks with data that the master has not heard of, before it is told in passing. */
const uncommittedChunksMax = 2;

interface Piece {
  /** In the file. */
  offset: number;
  length: number;
  buffer: Buffer;
}

interface Flight {
  offset: number;
  end: number;
  done: Promise<void>;
}

/** What one file has that is not yet safe. */
interface Dirty {
  piece: Piece | undefined;
  readonly flights: Set<Flight>;
  readonly slots: Semaphore;
  /** Chunks written since the last commit, and since the last fsync. */
  written: Set<number>;
  unsynced: Set<number>;
  /** The end of what was written: the file is at least that long. */
  end: number;
  mtime: bigint;
  uncommitted: boolean;
  lastWriteMs: number;
  /** The first failure of a write behind: kept until a flush or fsync has reported it. */
  error: { cause: unknown } | undefined;
}

export interface WriteBackOptions {
  master: MasterClient;
  writer: ChunkWriter;
  clock: Clock;
  log: Log;
  /** The master's answer to a commit. */
  onCommitted: (attr: Attr) => void;
}

/**
 * Write-behind: writes are collected into large pieces and sent in the background; `flush` waits
 * for them, tells the master, and reports what went wrong.
 */
export class WriteBack {
  readonly #options: WriteBackOptions;
  readonly #files = new Map<Ino, Dirty>();
  /** Chunks that a later fsync has to sync, of files that are otherwise clean. */
  readonly #unsynced = new LRUCache<Ino, Set<number>>({ max: unsyncedFilesMax });
  readonly #budget = new Semaphore(unsentBytesMax);
  readonly #locks = new KeyedMutex<Ino>();
  readonly #commits = new KeyedMutex<Ino>();

  constructor(options: WriteBackOptions) {
    this.#options = options;
  }

  /** Takes a copy of `data`. Waits while too much is unsent. */
  write(ino: Ino, offset: number, data: Buffer): Promise<void> {
    return this.#locks.run(ino, async () => {
      const file = this.#file(ino);
      if (file.error) throw file.error.cause;
      for (let at = 0; at < data.length;) {
        const start = offset + at;
        const room = pieceBytes - (start % pieceBytes);
        const part = data.subarray(at, at + room);
        await this.#collect(ino, file, start, part);
        at += part.length;
      }
      file.end = Math.max(file.end, offset + data.length);
      file.mtime = this.#options.clock.wallNs();
      file.uncommitted = true;
      file.lastWriteMs = this.#options.clock.nowMs();
      if (file.piece && (file.piece.offset + file.piece.length) % pieceBytes === 0) {
        this.#launch(ino, file);
      }
    });
  }

  #file(ino: Ino): Dirty {
    let file = this.#files.get(ino);
    if (!file) {
      file = {
        piece: undefined,
        flights: new Set(),
        slots: new Semaphore(flightsPerFileMax),
        written: new Set(),
        unsynced: this.#unsynced.get(ino) ?? new Set(),
        end: 0,
        mtime: 0n,
        uncommitted: false,
        lastWriteMs: 0,
        error: undefined,
      };
      this.#files.set(ino, file);
    }
    return file;
  }

  /** Adds `part`, which crosses no piece's border, to the open piece, or opens another. */
  async #collect(ino: Ino, file: Dirty, offset: number, part: Buffer): Promise<void> {
    const open = file.piece;
    const samePiece =
      open && Math.floor(open.offset / pieceBytes) === Math.floor(offset / pieceBytes);
    const touches = samePiece && offset >= open.offset && offset <= open.offset + open.length;
    if (touches && this.#grow(open, offset - open.offset + part.length)) {
      return put(open, offset, part);
    }
    this.#launch(ino, file);
    const capacity = part.length > pieceStartBytes ? pieceBytes : pieceStartBytes;
    if (!this.#budget.tryAcquire(capacity)) {
      // What others have collected is sent, so that the memory comes back.
      for (const [other, its] of this.#files) this.#launch(other, its);
      await this.#budget.acquire(capacity);
    }
    file.piece = { offset, length: 0, buffer: Buffer.allocUnsafe(capacity) };
    put(file.piece, offset, part);
  }

  /** Makes room for `bytes` in a piece, if there is memory for it. */
  #grow(piece: Piece, bytes: number): boolean {
    if (bytes <= piece.buffer.length) return true;
    if (!this.#budget.tryAcquire(pieceBytes - piece.buffer.length)) return false;
    const larger = Buffer.allocUnsafe(pieceBytes);
    piece.buffer.copy(larger, 0, 0, piece.length);
    piece.buffer = larger;
    return true;
  }

  /** Sends the open piece, after those under way that it overlaps. */
  #launch(ino: Ino, file: Dirty): void {
    const { piece } = file;
    if (!piece) return;
    file.piece = undefined;
    const flight: Flight = {
      offset: piece.offset,
      end: piece.offset + piece.length,
      done: Promise.resolve(),
    };
    const before = [...file.flights].filter((f) => f.offset < flight.end && flight.offset < f.end);
    flight.done = this.#send(ino, file, piece, before).finally(() => {
      file.flights.delete(flight);
      this.#budget.release(piece.buffer.length);
    });
    file.flights.add(flight);
  }

  async #send(ino: Ino, file: Dirty, piece: Piece, before: readonly Flight[]): Promise<void> {
    const { master, writer, log } = this.#options;
    await Promise.all(before.map((flight) => flight.done));
    await file.slots.acquire(1);
    try {
      await writer.write(ino, piece.offset, piece.buffer.subarray(0, piece.length));
      const index = Math.floor(piece.offset / master.chunkBytes);
      file.written.add(index);
      file.unsynced.add(index);
    } catch (cause) {
      log.error("write.failed", { ino, offset: piece.offset, length: piece.length, error: cause });
      file.error ??= { cause };
    } finally {
      file.slots.release(1);
    }
  }

  /** The size and time that the master does not know yet. */
  pending(ino: Ino): { end: number; mtime: bigint } | undefined {
    const file = this.#files.get(ino);
    return file?.uncommitted ? { end: file.end, mtime: file.mtime } : undefined;
  }

  /** True when part of the range is on its way and not at the chunk servers. */
  overlaps(ino: Ino, offset: number, length: number): boolean {
    const file = this.#files.get(ino);
    if (!file) return false;
    const end = offset + length;
    const { piece } = file;
    if (piece && piece.offset < end && offset < piece.offset + piece.length) return true;
    for (const flight of file.flights) if (flight.offset < end && offset < flight.end) return true;
    return false;
  }

  /** Resolves when everything written so far is at the chunk servers, or has failed. */
  async drain(ino: Ino): Promise<void> {
    const file = this.#files.get(ino);
    if (!file) return;
    this.#launch(ino, file);
    await Promise.all([...file.flights].map((flight) => flight.done));
  }

  /**
   * Sends everything and tells the master; rejects with the first failure since the last report.
   */
  async flush(ino: Ino): Promise<void> {
    const file = this.#files.get(ino);
    if (!file) return;
    await this.#settle(ino, file, false);
    this.#report(file);
    this.#forgetIfClean(ino, file);
  }

  /** As `flush`, and on the disks of all replicas and of the master. */
  async fsync(ino: Ino): Promise<void> {
    if (!this.#files.has(ino) && !this.#unsynced.has(ino)) return;
    const file = this.#file(ino);
    await this.drain(ino);
    const unsynced = [...file.unsynced];
    try {
      await this.#options.writer.sync(ino, unsynced);
      for (const index of unsynced) file.unsynced.delete(index);
    } catch (cause) {
      file.error ??= { cause };
    }
    await this.#settle(ino, file, true);
    this.#report(file);
    this.#forgetIfClean(ino, file);
  }

  #report(file: Dirty): void {
    const { error } = file;
    file.error = undefined;
    if (error) throw error.cause;
  }

  #forgetIfClean(ino: Ino, file: Dirty): void {
    if (file.piece || file.error || file.flights.size > 0 || file.uncommitted) return;
    if (this.#locks.busy(ino) || this.#files.get(ino) !== file) return;
    this.#files.delete(ino);
    if (file.unsynced.size > 0) this.#unsynced.set(ino, file.unsynced);
    else this.#unsynced.delete(ino);
  }

  async #settle(ino: Ino, file: Dirty, sync: boolean): Promise<void> {
    await this.drain(ino);
    await this.#commits.run(ino, () => this.#commit(ino, file, sync));
  }

  async #commit(ino: Ino, file: Dirty, sync: boolean): Promise<void> {
    if (!file.uncommitted && file.written.size === 0) return;
    const { end, mtime } = file;
    const written = [...file.written].slice(0, 4096);
    file.uncommitted = file.piece !== undefined || file.flights.size > 0;
    for (const index of written) file.written.delete(index);
    // What failed to be written does not make the file longer.
    if (file.error && written.length === 0) return;
    try {
      const reply = await this.#options.master.mutate(commit, {
        ino,
        size: end,
        mtime,
        written,
        sync,
      });
      if (!file.uncommitted) file.end = 0;
      this.#options.onCommitted(reply.attr);
    } catch (cause) {
      file.error ??= { cause };
      for (const index of written) file.written.add(index);
    }
  }

  /**
   * Background: sends what has been lying for a while, and keeps the master's size from lagging.
   */
  async tick(idleMs: number): Promise<void> {
    const { clock, log } = this.#options;
    for (const [ino, file] of [...this.#files]) {
      const idle = clock.nowMs() - file.lastWriteMs >= idleMs;
      if (!file.uncommitted && !file.piece) continue;
      if (!idle && file.written.size < uncommittedChunksMax) continue;
      await this.#settle(ino, file, false).catch((error: unknown) =>
        log.warn("write-back.failed", { ino, error }),
      );
      this.#forgetIfClean(ino, file);
    }
  }

  /** Everything of every file; failures stay with their files. */
  async flushAll(): Promise<void> {
    await Promise.all([...this.#files].map(([ino, file]) => this.#settle(ino, file, false)));
  }
}

function put(piece: Piece, offset: number, part: Buffer): void {
  const at = offset - piece.offset;
  part.copy(piece.buffer, at);
  piece.length = Math.max(piece.length, at + part.length);
}
