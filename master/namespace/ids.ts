import { assert } from "../../common/assert.ts";
import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import type { Store, StoreReader } from "../store/store.ts";

export const counters = ["ino", "handle", "session", "server"] as const;
type Counter = (typeof counters)[number];

/** Ids are reserved on disk in blocks, and a new block well before the last one is used up. */
const blockIds = 16_384;
/** More than all operations of one group commit can take. */
const lowIds = 4_096;
/** Ino 1 is the root. */
const firstIds: Record<Counter, number> = { ino: 2, handle: 1, session: 1, server: 1 };

const metaKey = (counter: Counter): Buffer => Buffer.from(`next:${counter}`);

/**
 * Counters that never go back, so no id is given out twice, whatever is lost in a crash: memory
 * runs ahead inside a block whose end is on disk; after a restart the rest of the block is skipped.
 */
export class Ids {
  readonly #next = new Map<Counter, number>();
  readonly #reserved = new Map<Counter, number>();

  load(store: StoreReader): void {
    for (const counter of counters) {
      const stored = store.get("meta", metaKey(counter));
      const start = stored ? Number(decodeCbor(stored).value) : firstIds[counter];
      this.#next.set(counter, start);
      this.#reserved.set(counter, start);
    }
  }

  /** Every id given out so far is below this. */
  limit(counter: Counter): number {
    return this.#reserved.get(counter) ?? firstIds[counter];
  }

  next(counter: Counter): number {
    const id = this.#nextOf(counter);
    assert(id < this.limit(counter), "ids are reserved before they are used");
    this.#next.set(counter, id + 1);
    return id;
  }

  /**
   * Reserves further ids where they run low. An id is given out only when its block is on the disk:
   * whatever else is lost with the power, a chunk server or a mount may have heard of it.
   */
  reserve(store: Pick<Store, "write" | "syncNow">): void {
    const low = counters.filter((counter) => this.#nextOf(counter) + lowIds > this.limit(counter));
    if (low.length === 0) return;
    const ends = low.map((counter) => [counter, this.#nextOf(counter) + blockIds] as const);
    store.write((writer) => {
      for (const [counter, end] of ends) writer.put("meta", metaKey(counter), encodeCbor(end));
    });
    store.syncNow();
    for (const [counter, end] of ends) this.#reserved.set(counter, end);
  }

  #nextOf(counter: Counter): number {
    return this.#next.get(counter) ?? firstIds[counter];
  }
}
