import { assert } from "../../common/assert.ts";
import { blockBytes } from "../../common/crc32c.ts";
import type { Clock } from "../../common/clock.ts";
import type { Disk, OpenFile } from "../../common/disk.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { draftMsMax, draftsMax } from "../limits.ts";
import type { ChunkFiles } from "./files.ts";

/** A block's CRC together with its length: a short last block is no other's prefix by chance. */
type BlockSum = number;

export function blockSum(crc: number, bytes: number): BlockSum {
  assert(bytes <= blockBytes, "at most a block");
  return bytes * 2 ** 32 + crc;
}

/** A file in `staging/` on its way to become a replica. Forgotten, and removed, by a restart. */
export interface Draft {
  readonly path: string;
  readonly file: OpenFile;
  /** What is in it, by the block's number. */
  readonly sums: Map<number, BlockSum>;
  /** No draft any more: it is being made a replica, whatever comes of that, or its sync failed. */
  spent: boolean;
  /** When it was put aside, on the monotonic clock. */
  keptMs: number;
}

/** The drafts that wait for their final order; the oldest give way. */
export class Drafts {
  readonly #disk: Disk;
  readonly #files: ChunkFiles;
  readonly #clock: Clock;
  /** Not those in use. */
  readonly #kept = new Map<ChunkHandle, Draft>();

  constructor(options: { disk: Disk; files: ChunkFiles; clock: Clock }) {
    this.#disk = options.disk;
    this.#clock = options.clock;
    this.#files = options.files;
  }

  /**
   * Runs `work` with the chunk's draft, an empty one if there is none, by one who holds the chunk's
   * gate alone. What `work` fetched before it failed is kept for the next try.
   */
  async with<T>(handle: ChunkHandle, work: (draft: Draft) => Promise<T>): Promise<T> {
    const draft = this.#kept.get(handle) ?? (await this.#make(handle));
    this.#kept.delete(handle);
    let done = false;
    try {
      const result = await work(draft);
      done = true;
      return result;
    } finally {
      if (!draft.spent) await this.#keep(handle, draft);
      else if (done) await draft.file.close();
      else await this.#remove(draft);
    }
  }

  /** Nobody will finish it. */
  async discard(handle: ChunkHandle): Promise<void> {
    const draft = this.#kept.get(handle);
    if (!draft) return;
    this.#kept.delete(handle);
    await this.#remove(draft);
  }

  /** Those that have waited for too long: the master has made its copy elsewhere. */
  async expire(): Promise<void> {
    const before = this.#clock.nowMs() - draftMsMax;
    for (const [handle, { keptMs }] of this.#kept) if (keptMs < before) await this.discard(handle);
  }

  async close(): Promise<void> {
    const drafts = [...this.#kept.values()];
    this.#kept.clear();
    for (const { file } of drafts) await file.close();
  }

  async #make(handle: ChunkHandle): Promise<Draft> {
    const path = this.#files.staging(handle, "copy");
    await this.#disk.remove("copy.clear", path);
    const file = await this.#disk.open("copy.open", path, "create");
    return { path, file, sums: new Map(), spent: false, keptMs: 0 };
  }

  async #keep(handle: ChunkHandle, draft: Draft): Promise<void> {
    draft.keptMs = this.#clock.nowMs();
    this.#kept.set(handle, draft);
    for (const oldest of this.#kept.keys()) {
      if (this.#kept.size <= draftsMax) return;
      await this.discard(oldest);
    }
  }

  /** One that cannot be removed is cleared away by the next start. */
  async #remove({ path, file }: Draft): Promise<void> {
    await file.close();
    await this.#disk.remove("copy.undo", path).catch(() => false);
  }
}
