import type { Log } from "../../common/log.ts";
import { Semaphore } from "../../common/mutex.ts";
import type { ChunkHandle, Ino } from "../../protocol/id.ts";
import { payloadBytesMax } from "../../protocol/limits.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ChunkWriter } from "./chunk-writer.ts";
import type { DirtyFile, Flight, Piece } from "./dirty-file.ts";
import { interrupted } from "./interruptible.ts";
import type { MasterClient } from "./master-client.ts";
import type { WriteErrors } from "./write-errors.ts";

/**
 * Data is sent in pieces of at most this, cut at its multiples, so none crosses a chunk's border.
 */
export const pieceBytes = payloadBytesMax;
/** A piece starts small, for small files, and grows at once to its full size. */
const pieceStartBytes = 64 * 1024;
/** Unsent data of all files: beyond it, write(2) waits (P8). */
const unsentBytesMaxDefault = 48 * 1024 * 1024;

interface OutboxOptions {
  master: Pick<MasterClient, "chunkBytes">;
  writer: Pick<ChunkWriter, "write">;
  log: Log;
  unsentBytesMax: number | undefined;
  /** All that have something unsent, and others. */
  files: ReadonlyMap<Ino, DirtyFile>;
  errors: WriteErrors;
  /** The master tells readers of the chunk. */
  isListed: (handle: ChunkHandle) => boolean;
  admit: ((ino: Ino) => Promise<void> | undefined) | undefined;
  onSent: (ino: Ino) => void;
}

/** Collects writes into pieces, and sends those. */
export class Outbox {
  readonly #options: OutboxOptions;
  readonly #budget: Semaphore;

  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#budget = new Semaphore(options.unsentBytesMax ?? unsentBytesMaxDefault);
  }

  /** Somebody waits for memory. */
  get contended(): boolean {
    return this.#budget.contended;
  }

  /**
   * Adds `part`, which crosses no piece's border, to the open piece, or opens another. False: there
   * is no memory for it.
   */
  collect(ino: Ino, file: DirtyFile, offset: number, part: Buffer): boolean {
    const open = file.piece;
    const samePiece =
      open && Math.floor(open.offset / pieceBytes) === Math.floor(offset / pieceBytes);
    const touches = samePiece && offset >= open.offset && offset <= open.offset + open.length;
    if (touches && this.#grow(open, offset - open.offset + part.length)) {
      put(open, offset, part);
      return true;
    }
    this.launch(ino, file);
    const capacity = capacityFor(part.length);
    if (!this.#budget.tryAcquire(capacity)) return false;
    put(file.begin(offset, Buffer.allocUnsafe(capacity)), offset, part);
    return true;
  }

  /** Opens a piece at `offset` for `bytes` when there is memory for it. */
  async waitForMemory(
    file: DirtyFile,
    offset: number,
    bytes: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const capacity = capacityFor(bytes);
    const granted = this.#budget.acquire(capacity);
    // What others have collected is sent, so that the memory comes back.
    for (const [other, its] of this.#options.files) this.launch(other, its);
    await granted;
    if (signal?.aborted) {
      this.#budget.release(capacity);
      throw interrupted("interrupted while waiting for memory");
    }
    file.begin(offset, Buffer.allocUnsafe(capacity));
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
  launch(ino: Ino, file: DirtyFile): void {
    const { piece } = file;
    if (!piece || piece.length === 0) return;
    file.piece = undefined;
    const { offset, extendsFrom } = piece;
    const end = offset + piece.length;
    const before = file.flightsOver(offset, end);
    const flight: Flight = {
      offset,
      end,
      extendsFrom,
      abandoned: false,
      failed: false,
      done: Promise.resolve(),
    };
    flight.done = this.#send(ino, file, { piece, flight, before }).finally(() => {
      file.flights.delete(flight);
      this.#budget.release(piece.buffer.length);
      this.#options.onSent(ino);
    });
    file.flights.add(flight);
  }

  async #send(
    ino: Ino,
    file: DirtyFile,
    one: { piece: Piece; flight: Flight; before: readonly Flight[] },
  ): Promise<void> {
    const { master, writer, log } = this.#options;
    const { piece, flight, before } = one;
    await Promise.all(before.map((other) => other.done));
    await file.slots.acquire(1);
    try {
      const { handle, fresh, taking } = await writer.write(
        ino,
        piece.offset,
        piece.buffer.subarray(0, piece.length),
        () => this.#admit(ino, flight),
      );
      const listed = !fresh || this.#options.isListed(handle);
      const index = Math.floor(piece.offset / master.chunkBytes);
      file.arrived(flight, { index, handle, listed, taking });
    } catch (cause) {
      log.error("write.failed", { ino, offset: piece.offset, length: piece.length, error: cause });
      flight.failed = true;
      file.failed(flight);
      this.#options.errors.add(ino, cause);
    } finally {
      file.slots.release(1);
    }
  }

  async #admit(ino: Ino, flight: Flight): Promise<void> {
    const asked = this.#options.admit?.(ino);
    if (asked) await asked;
    if (flight.abandoned) throw new StatusError("io-error", "written under a lock that is lost");
  }
}

function capacityFor(bytes: number): number {
  return bytes > pieceStartBytes ? pieceBytes : pieceStartBytes;
}

function put(piece: Piece, offset: number, part: Buffer): void {
  const at = offset - piece.offset;
  part.copy(piece.buffer, at);
  piece.length = Math.max(piece.length, at + part.length);
}
