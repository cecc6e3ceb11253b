import { assert } from "./assert.ts";

/** Integers from `start` to `end`, both included, that have `value`. */
export interface Interval<T> {
  readonly start: bigint;
  readonly end: bigint;
  readonly value: T;
}

export interface Range {
  readonly start: bigint;
  readonly end: bigint;
}

/**
 * A map from integers to values, kept as the fewest intervals that say it: sorted, disjoint, and
 * neighbours with the same value are one. Finding takes log n steps; changing moves what follows.
 */
export class Intervals<T> {
  readonly #list: Interval<T>[];

  constructor(sorted: readonly Interval<T>[] = []) {
    this.#list = [...sorted];
  }

  get size(): number {
    return this.#list.length;
  }

  [Symbol.iterator](): Iterator<Interval<T>> {
    return this.#list[Symbol.iterator]();
  }

  clone(): Intervals<T> {
    return new Intervals(this.#list);
  }

  /** Those that have a number in common with `range`, whole, in order. */
  *overlapping({ start, end }: Range): Generator<Interval<T>> {
    for (let i = this.#firstEndingAt(start); i < this.#list.length; i += 1) {
      const interval = this.#list[i];
      if (!interval || interval.start > end) return;
      yield interval;
    }
  }

  overlaps(range: Range): boolean {
    for (const _interval of this.overlapping(range)) return true;
    return false;
  }

  /** True when each number of `range` has a value that `suits`. */
  covers({ start, end }: Range, suits: (value: T) => boolean): boolean {
    let next = start;
    for (const interval of this.overlapping({ start, end })) {
      if (interval.start > next || !suits(interval.value)) return false;
      next = interval.end + 1n;
    }
    return next > end;
  }

  /** Gives each number of `range` the value; `undefined` takes theirs away. */
  set({ start, end }: Range, value: T | undefined): void {
    assert(start <= end, "a range has a number in it");
    // The neighbours that only touch the range take part, as they may become one with it.
    const first = this.#firstEndingAt(start - 1n);
    let last = first;
    const pieces: Interval<T>[] = [];
    const right: Interval<T>[] = [];
    for (; last < this.#list.length; last += 1) {
      const old = this.#list[last];
      if (!old || old.start > end + 1n) break;
      if (old.start < start) {
        pieces.push({ ...old, end: old.end < start ? old.end : start - 1n });
      }
      if (old.end > end) right.push({ ...old, start: old.start > end ? old.start : end + 1n });
    }
    if (value !== undefined) pieces.push({ start, end, value });
    this.#list.splice(first, last - first, ...joined([...pieces, ...right]));
  }

  clear(): void {
    this.#list.length = 0;
  }

  /** The index of the first interval that ends at `at` or later. */
  #firstEndingAt(at: bigint): number {
    let low = 0;
    let high = this.#list.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const interval = this.#list[middle];
      if (interval && interval.end < at) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Neighbours that touch and have the same value, made one. */
function joined<T>(pieces: readonly Interval<T>[]): Interval<T>[] {
  const result: Interval<T>[] = [];
  for (const piece of pieces) {
    const before = result.at(-1);
    if (before && before.value === piece.value && before.end + 1n === piece.start) {
      result[result.length - 1] = { ...before, end: piece.end };
    } else {
      result.push(piece);
    }
  }
  return result;
}
