import { type Disk, errnoName } from "../../common/disk.ts";
import type { RequestOf } from "../../protocol/method.ts";
import type { heartbeat } from "../../protocol/methods/fleet.ts";
import { StatusError } from "../../protocol/status.ts";
import { reserveBytesDefault, reserveShareMax } from "../limits.ts";

export type DiskHealth = RequestOf<typeof heartbeat>["disk"];

/** How much the disk still takes: an estimate between two looks, so that every write can ask. */
export class Space {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #reserveBytes: number | undefined;
  #freeBytes = 0;
  #writeTrouble: { health: DiskHealth; sentence: string } | undefined;

  constructor(options: { disk: Disk; path: string; reserveBytes: number | undefined }) {
    this.#disk = options.disk;
    this.#path = options.path;
    this.#reserveBytes = options.reserveBytes;
  }

  /** What may still be used, the reserve taken off. */
  get freeBytes(): number {
    return this.#freeBytes;
  }

  get health(): DiskHealth {
    if (this.#writeTrouble) return this.#writeTrouble.health;
    return this.#freeBytes === 0 ? "full" : "ok";
  }

  /** A sentence when the disk takes nothing new. */
  get trouble(): string | undefined {
    if (this.#writeTrouble) return this.#writeTrouble.sentence;
    return this.#freeBytes === 0 ? `the disk of ${this.#path} is full` : undefined;
  }

  async refresh(): Promise<void> {
    try {
      const { totalBytes, freeBytes } = await this.#disk.space("space.look", this.#path);
      const reserve =
        this.#reserveBytes ?? Math.min(reserveBytesDefault, totalBytes * reserveShareMax);
      this.#freeBytes = Math.max(0, Math.floor(freeBytes - reserve));
    } catch (error) {
      this.writeFailed(error);
    }
  }

  /** Sets `bytes` aside for growth, or throws `no-space`. */
  take(bytes: number): void {
    if (bytes > this.#freeBytes) {
      const free = `${this.#freeBytes} bytes are free beyond the reserve`;
      throw new StatusError("no-space", `no room for ${bytes} more bytes: ${free}`);
    }
    this.#freeBytes -= bytes;
  }

  /** The system refused a write: the master is told why until one succeeds again. */
  writeFailed(error: unknown): void {
    const cause = error instanceof StatusError && error.cause !== undefined ? error.cause : error;
    const errno = errnoName(cause);
    const disk = `the disk of ${this.#path}`;
    if (errno === "EROFS") {
      this.#writeTrouble = { health: "read-only", sentence: `${disk} is read-only` };
    } else if (errno === "EIO") {
      this.#writeTrouble = { health: "failing", sentence: `${disk} fails to write` };
    } else if (errno === "ENOSPC" || errno === "EDQUOT") {
      this.#freeBytes = 0;
    }
  }

  writeSucceeded(): void {
    this.#writeTrouble = undefined;
  }
}
