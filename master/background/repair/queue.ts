import { assert } from "../../../common/assert.ts";
import type { ChunkHandle } from "../../../protocol/id.ts";
import { prioritiesCount } from "./need.ts";

/**
 * Chunks to be looked at, the most urgent first and each once. Bounded: what does not fit is
 * forgotten, the least urgent first, which `overflowed` tells: it has to be looked for again.
 */
export class RepairQueue {
  readonly #most: number;
  readonly #lines: Set<ChunkHandle>[] = Array.from({ length: prioritiesCount }, () => new Set());
  #size = 0;
  overflowed = false;

  constructor(most: number) {
    this.#most = most;
  }

  get size(): number {
    return this.#size;
  }

  get full(): boolean {
    return this.#size >= this.#most;
  }

  /** A chunk that waits already keeps its place, unless it has become more urgent. */
  put(handle: ChunkHandle, priority: number): void {
    const line = this.#lines[priority];
    assert(line !== undefined, "the priority is known");
    if (line.has(handle)) return;
    const before = this.#lines.findIndex((other) => other.has(handle));
    if (before >= 0 && before < priority) return;
    if (before >= 0) this.remove(handle);
    if (this.full && !this.#makeRoom(priority)) return;
    line.add(handle);
    this.#size += 1;
  }

  remove(handle: ChunkHandle): void {
    for (const line of this.#lines) if (line.delete(handle)) this.#size -= 1;
  }

  /** In order of urgency, then of arrival. What is removed meanwhile is left out. */
  *inOrder(): IterableIterator<ChunkHandle> {
    for (const line of this.#lines) yield* line;
  }

  #makeRoom(priority: number): boolean {
    this.overflowed = true;
    const victims = this.#lines.slice(priority + 1).findLast((line) => line.size > 0);
    const [victim] = victims ?? [];
    if (victim === undefined) return false;
    this.remove(victim);
    return true;
  }
}
