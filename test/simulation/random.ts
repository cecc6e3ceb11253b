/** Chance that a seed decides: xorshift-multiply on 32 bits (splitmix32), the same everywhere. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1). A function, to be passed on as `random`. */
  readonly next = (): number => this.#word() / 2 ** 32;

  /** A whole number in [0, below). */
  below(below: number): number {
    return Math.floor(this.next() * below);
  }

  /** A whole number from `first` to `last`. */
  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }

  /** Around `ms`: most are shorter, few are much longer. */
  about(ms: number): number {
    return -Math.log(1 - this.next()) * ms;
  }

  /** Another source, which this one's later use does not change. */
  fork(): Random {
    return new Random(this.#word());
  }

  #word(): number {
    this.#state = (this.#state + 0x9e3779b9) >>> 0;
    let word = this.#state ^ (this.#state >>> 16);
    word = Math.imul(word, 0x21f0aaad);
    word ^= word >>> 15;
    word = Math.imul(word, 0x735a2d97);
    return (word ^ (word >>> 15)) >>> 0;
  }
}
