/**
 * Numbers by id, 0 unless set. Ids are counters, so the pages that exist are mostly full: a number
 * costs its 4 or 8 bytes, not the 50 to 100 of an entry in a Map.
 */

const pageBits = 12;
const pageIds = 2 ** pageBits;

export class SparseNumbers {
  readonly #pages = new Map<number, Uint32Array | Float64Array>();
  readonly #newPage: () => Uint32Array | Float64Array;

  /** `u32` wraps no number below 2^32; `u53` holds ids. */
  constructor(width: "u32" | "u53") {
    this.#newPage = () => (width === "u32" ? new Uint32Array(pageIds) : new Float64Array(pageIds));
  }

  get(id: number): number {
    return this.#pages.get(Math.floor(id / pageIds))?.[id % pageIds] ?? 0;
  }

  set(id: number, value: number): void {
    const number = Math.floor(id / pageIds);
    let page = this.#pages.get(number);
    if (!page) {
      if (value === 0) return;
      page = this.#newPage();
      this.#pages.set(number, page);
    }
    page[id % pageIds] = value;
  }

  add(id: number, change: number): void {
    this.set(id, this.get(id) + change);
  }

  /** The ids whose number is not 0, each with it; in no order of pages. */
  *entries(): Iterable<[id: number, value: number]> {
    for (const [number, page] of this.#pages) {
      for (let i = 0; i < pageIds; i += 1) {
        const value = page[i] ?? 0;
        if (value !== 0) yield [number * pageIds + i, value];
      }
    }
  }
}
