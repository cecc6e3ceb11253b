import type { Life } from "./world.ts";

export interface SimEvent {
  atMs: number;
  readonly order: number;
  readonly life: Life | undefined;
  /** undefined: cancelled. */
  run: (() => void) | undefined;
}

/** A binary heap: the earliest first, and of those at one time the one that was added first. */
export class EventQueue {
  readonly #heap: SimEvent[] = [];
  #added = 0;

  add(atMs: number, life: Life | undefined, run: () => void): SimEvent {
    this.#added += 1;
    const event: SimEvent = { atMs, order: this.#added, life, run };
    this.#push(event);
    return event;
  }

  /** Puts an event back that has been taken; such keep their order among each other. */
  hold(event: SimEvent, atMs: number): void {
    event.atMs = atMs;
    this.#push(event);
  }

  /** When the next event is; Infinity if there is none. */
  get nextMs(): number {
    return this.#heap[0]?.atMs ?? Infinity;
  }

  take(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first && last && first !== last) this.#sink(last);
    return first;
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const up = (at - 1) >> 1;
      const above = heap[up];
      if (!above || !isBefore(event, above)) break;
      heap[at] = above;
      at = up;
    }
    heap[at] = event;
  }

  #sink(event: SimEvent): void {
    const heap = this.#heap;
    let at = 0;
    for (;;) {
      let down = 2 * at + 1;
      let below = heap[down];
      const other = heap[down + 1];
      if (other && below && isBefore(other, below)) {
        below = other;
        down += 1;
      }
      if (!below || !isBefore(below, event)) break;
      heap[at] = below;
      at = down;
    }
    heap[at] = event;
  }
}

function isBefore(a: SimEvent, b: SimEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
