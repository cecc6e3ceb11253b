import type { ChunkHandle } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import { removalsAtOnce } from "../limits.ts";
import { removeChunk } from "../store/remove.ts";
import type { Store } from "../store/store.ts";

/** Deletes what the master says, in the background, and remembers it for the next heartbeat. */
export class Remover {
  readonly #store: Store;
  readonly #run: (work: () => Promise<void>) => void;
  /** Bounded by the chunks there are: the master names those that were reported to it. */
  readonly #wanted = new Set<ChunkHandle>();
  readonly #removed = new Set<ChunkHandle>();
  #running = false;

  /** `run` runs work in the background. */
  constructor(options: { store: Store; run: (work: () => Promise<void>) => void }) {
    this.#store = options.store;
    this.#run = options.run;
  }

  add(handles: readonly ChunkHandle[]): void {
    for (const handle of handles) this.#wanted.add(handle);
    if (this.#running || this.#wanted.size === 0) return;
    this.#running = true;
    this.#run(() => this.#work());
  }

  /** The master has given the handle a meaning again (a copy under a new version). */
  cancel(handle: ChunkHandle): void {
    this.#wanted.delete(handle);
    this.#removed.delete(handle);
  }

  /** What to report now. */
  removed(): ChunkHandle[] {
    return [...this.#removed].slice(0, chunksPerPageMax);
  }

  /** The report has arrived. */
  reported(handles: readonly ChunkHandle[]): void {
    for (const handle of handles) this.#removed.delete(handle);
  }

  async #work(): Promise<void> {
    try {
      while (this.#wanted.size > 0) {
        const some = [...this.#wanted].slice(0, removalsAtOnce);
        for (const handle of some) this.#wanted.delete(handle);
        await Promise.all(some.map((handle) => this.#remove(handle)));
      }
    } finally {
      this.#running = false;
    }
  }

  async #remove(handle: ChunkHandle): Promise<void> {
    try {
      await removeChunk(this.#store, handle);
      this.#removed.add(handle);
    } catch (error) {
      this.#store.log.warn("remove.failed", { handle, error }); // The master will ask again.
    }
  }
}
