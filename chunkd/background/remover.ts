import type { ChunkHandle } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import { removalsAtOnce } from "../limits.ts";
import { removeChunk } from "../store/remove.ts";
import type { Store } from "../store/store.ts";

/**
 * Deletes what the master says, in the background, and remembers it for the next heartbeat. What
 * the master orders to be copied anew is none of that, although an answer from before it names it:
 * the order may be looked at first.
 */
export class Remover {
  readonly #store: Store;
  readonly #run: (work: () => Promise<void>) => void;
  /** Bounded by the chunks there are: the master names those that were reported to it. */
  readonly #wanted = new Set<ChunkHandle>();
  /** Those being deleted, unless what comes of it is not to be reported. */
  readonly #underWay = new Map<ChunkHandle, object>();
  readonly #removed = new Set<ChunkHandle>();
  /** For each question that is not answered yet: what was copied anew meanwhile. */
  readonly #cancelled = new Set<Set<ChunkHandle>>();
  #running = false;

  /** `run` runs work in the background. */
  constructor(options: { store: Store; run: (work: () => Promise<void>) => void }) {
    this.#store = options.store;
    this.#run = options.run;
  }

  /** Asks the master, and takes from its answer what is to be deleted. */
  async ask<Reply extends { remove: ChunkHandle[] }>(send: () => Promise<Reply>): Promise<Reply> {
    const cancelled = new Set<ChunkHandle>();
    this.#cancelled.add(cancelled);
    try {
      const reply = await send();
      this.add(reply.remove.filter((handle) => !cancelled.has(handle)));
      return reply;
    } finally {
      this.#cancelled.delete(cancelled);
    }
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
    this.#underWay.delete(handle);
    this.#removed.delete(handle);
    for (const cancelled of this.#cancelled) cancelled.add(handle);
  }

  /** What to report now. */
  removed(): ChunkHandle[] {
    return first(this.#removed, chunksPerPageMax);
  }

  /** The report has arrived. */
  reported(handles: readonly ChunkHandle[]): void {
    for (const handle of handles) this.#removed.delete(handle);
  }

  async #work(): Promise<void> {
    try {
      while (this.#wanted.size > 0) {
        let some: Promise<void>[] = [];
        for (const handle of this.#wanted) {
          this.#wanted.delete(handle);
          some.push(this.#remove(handle));
          if (some.length < removalsAtOnce) continue;
          await Promise.all(some);
          some = [];
        }
        await Promise.all(some);
      }
    } finally {
      this.#running = false;
    }
  }

  async #remove(handle: ChunkHandle): Promise<void> {
    const own = {};
    this.#underWay.set(handle, own);
    try {
      await removeChunk(this.#store, handle);
      if (this.#underWay.get(handle) === own) this.#removed.add(handle);
    } catch (error) {
      this.#store.log.warn("remove.failed", { handle, error }); // The master will ask again.
    } finally {
      if (this.#underWay.get(handle) === own) this.#underWay.delete(handle);
    }
  }
}

/** Up to `count` of them. A copy of a large set would take longer than all the rest. */
function first<T>(all: ReadonlySet<T>, count: number): T[] {
  const some: T[] = [];
  for (const item of all) if (some.push(item) >= count) break;
  return some;
}
