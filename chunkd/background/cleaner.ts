import type { ChunkHandle } from "../../protocol/id.ts";
import { cleanAfterMs, cleansAtOnce, dirtyFilesMax, dirtySmallMax } from "../limits.ts";
import type { Store } from "../store/store.ts";
import { cleanChunk } from "../store/sync.ts";

/**
 * Cleans chunks that nobody writes to any more, and the longest silent ones when there are many.
 */
export class Cleaner {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** One round; runs every `cleanEveryMs`. */
  async tick(): Promise<void> {
    const { dirtyFiles, dirtySmall } = this.#store.table;
    await this.#cleanAll([
      ...this.#due(dirtyFiles, dirtyFilesMax),
      ...this.#due(dirtySmall, dirtySmallMax),
    ]);
  }

  /** Before a graceful stop. */
  async finish(): Promise<void> {
    const { dirtyFiles, dirtySmall } = this.#store.table;
    await this.#cleanAll([...dirtyFiles.keys(), ...dirtySmall.keys()]);
  }

  #due(dirty: ReadonlyMap<ChunkHandle, number>, most: number): ChunkHandle[] {
    const silentSince = this.#store.clock.nowMs() - cleanAfterMs;
    let tooMany = dirty.size - most;
    const due: ChunkHandle[] = [];
    for (const [handle, writtenMs] of dirty) {
      if (writtenMs > silentSince && tooMany <= 0) break;
      due.push(handle);
      tooMany -= 1;
    }
    return due;
  }

  async #cleanAll(handles: readonly ChunkHandle[]): Promise<void> {
    for (let at = 0; at < handles.length; at += cleansAtOnce) {
      const some = handles.slice(at, at + cleansAtOnce);
      const cleaned = await Promise.all(some.map((handle) => this.#clean(handle)));
      if (!cleaned.includes(true)) return; // A full or failing disk: the next round tries again.
    }
  }

  /** Resolves with false if it failed. */
  async #clean(handle: ChunkHandle): Promise<boolean> {
    try {
      await cleanChunk(this.#store, handle);
      return true;
    } catch (error) {
      this.#store.log.warn("clean.failed", { handle, error });
      return false;
    }
  }
}
