import type { ChunkHandle } from "../../protocol/id.ts";

/**
 * Chunks that a server has to delete: told with its next heartbeat when they are due. The others
 * wait for the disk to have the reason. One that is due is told until the server says it is done.
 */
export class Removals {
  readonly #waiting = new Set<ChunkHandle>();
  readonly #due = new Set<ChunkHandle>();

  get size(): number {
    return this.#waiting.size + this.#due.size;
  }

  has(handle: ChunkHandle): boolean {
    return this.#waiting.has(handle) || this.#due.has(handle);
  }

  /** Not due yet, unless it is. */
  announce(handle: ChunkHandle): void {
    if (!this.#due.has(handle)) this.#waiting.add(handle);
  }

  order(handle: ChunkHandle): void {
    this.#waiting.delete(handle);
    this.#due.add(handle);
  }

  /** It is deleted, or wanted after all. */
  end(handle: ChunkHandle): void {
    this.#waiting.delete(handle);
    this.#due.delete(handle);
  }

  /** The first `count` that are due. */
  next(count: number): ChunkHandle[] {
    const handles: ChunkHandle[] = [];
    for (const handle of this.#due) {
      if (handles.length === count) break;
      handles.push(handle);
    }
    return handles;
  }
}
