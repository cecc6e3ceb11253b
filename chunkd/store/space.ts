import type { Clock } from "../../common/clock.ts";
import { type Disk, errnoName } from "../../common/disk.ts";
import type { RequestOf } from "../../protocol/method.ts";
import type { heartbeat } from "../../protocol/methods/fleet.ts";
import { StatusError } from "../../protocol/status.ts";
import {
  diskCalmSeconds,
  diskReadErrorsMax,
  reserveBytesDefault,
  reserveShareMax,
  reserveShareUnseen,
} from "../limits.ts";
import type { ChunkIndex } from "./chunk-index.ts";

type DiskHealth = RequestOf<typeof heartbeat>["disk"];

/**
 * How much the disk still takes: an estimate between two looks, so that every write can ask. And
 * whether it can be trusted:
 *
 *   ok ──EIO on write or sync, or on the third read──> failing ──an hour without EIO──> ok
 *   ok ──EROFS──> read-only ──a probe is written──> ok
 *
 * One unreadable sector is a matter of a chunk, whose replica is replaced; several are one of the
 * disk. A disk that fails now and then is to be emptied, so a success in between changes nothing;
 * what is known of it is kept in the index over restarts.
 */
export class Space {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #index: Pick<ChunkIndex, "getNumber" | "putNumber">;
  readonly #path: string;
  readonly #reserveBytes: number | undefined;
  #freeBytes = 0;
  /** Given out since the disk was looked at, and how much may be before it is again. */
  #unseenBytes = 0;
  #unseenBytesMax = 0;
  #looking: Promise<void> | undefined;
  #readOnly = false;
  /** EIO since the disk was last calm; one of a write counts as many as make it fail. */
  #errors: number;
  /** When the last one was, in seconds since 1970. */
  #errorAt: number;

  constructor(options: {
    disk: Disk;
    clock: Clock;
    index: Pick<ChunkIndex, "getNumber" | "putNumber">;
    path: string;
    reserveBytes: number | undefined;
  }) {
    this.#disk = options.disk;
    this.#clock = options.clock;
    this.#index = options.index;
    this.#path = options.path;
    this.#reserveBytes = options.reserveBytes;
    this.#errors = this.#index.getNumber(errorsKey);
    this.#errorAt = this.#index.getNumber(errorAtKey);
  }

  /** What may still be used, the reserve taken off. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  get health(): DiskHealth {
    if (this.#readOnly) return "read-only";
    if (this.#fails) return "failing";
    return this.#freeBytes === 0 ? "full" : "ok";
  }

  /** A sentence when the disk is not `ok`. */
  get trouble(): string | undefined {
    const disk = `the disk of ${this.#path}`;
    switch (this.health) {
      case "ok":
        return undefined;
      case "full":
        return `${disk} is full`;
      case "read-only":
        return `${disk} is read-only`;
      case "failing":
        return `${disk} fails to read or write (EIO), last at ${isoTime(this.#errorAt)}`;
    }
  }

  get #fails(): boolean {
    if (this.#errors < diskReadErrorsMax) return false;
    return this.#nowSeconds() - this.#errorAt < diskCalmSeconds;
  }

  /** Looks at the disk, or waits for the look under way. */
  refresh(): Promise<void> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
    });
    return this.#looking;
  }

  async #look(): Promise<void> {
    this.#unseenBytes = 0;
    try {
      const { totalBytes, freeBytes } = await this.#disk.space("space.look", this.#path);
      const reserve =
        this.#reserveBytes ?? Math.min(reserveBytesDefault, totalBytes * reserveShareMax);
      this.#freeBytes = Math.max(0, Math.floor(freeBytes - reserve));
      this.#unseenBytesMax = reserve * reserveShareUnseen;
      if (this.#readOnly) await this.#probe();
    } catch (error) {
      this.writeFailed(error);
    }
  }

  /** Nobody writes to a server whose disk is read-only: it has to find out for itself. */
  async #probe(): Promise<void> {
    const probe = `${this.#path}/staging/probe`;
    await this.#disk.writeFile("space.probe", probe, Buffer.alloc(0));
    await this.#disk.remove("space.probed", probe);
    this.#readOnly = false;
  }

  /** Sets `bytes` aside for growth, or throws `no-space`. */
  take(bytes: number): void {
    if (bytes > this.#freeBytes) {
      const free = `${this.#freeBytes} bytes are free beyond the reserve`;
      throw new StatusError("no-space", `no room for ${bytes} more bytes: ${free}`);
    }
    this.#freeBytes -= bytes;
    this.#unseenBytes += bytes;
    if (this.#unseenBytes > this.#unseenBytesMax) void this.refresh();
  }

  /** The system refused a write or a sync: the master is told why. */
  writeFailed(error: unknown): void {
    const errno = errnoName(causeOf(error));
    if (errno === "EROFS") this.#readOnly = true;
    else if (errno === "EIO") this.#failed(diskReadErrorsMax);
    else if (errno === "ENOSPC" || errno === "EDQUOT") this.#freeBytes = 0;
  }

  /** The system refused a read. */
  readFailed(error: unknown): void {
    if (errnoName(causeOf(error)) === "EIO") this.#failed(1);
  }

  writeSucceeded(): void {
    this.#readOnly = false;
  }

  #failed(weight: number): void {
    const now = this.#nowSeconds();
    if (now - this.#errorAt >= diskCalmSeconds) this.#errors = 0;
    this.#errors += weight;
    this.#errorAt = now;
    // A disk that fails may not take that either; then it is known until the next restart.
    this.#index.putNumber(errorsKey, this.#errors);
    this.#index.putNumber(errorAtKey, now);
  }

  #nowSeconds(): number {
    return Number(this.#clock.wallNs() / 1_000_000_000n);
  }
}

const errorsKey = "disk-errors";
const errorAtKey = "disk-error-at";

function causeOf(error: unknown): unknown {
  return error instanceof StatusError && error.cause !== undefined ? error.cause : error;
}

function isoTime(seconds: number): string {
  return new Date(seconds * 1_000).toISOString();
}
