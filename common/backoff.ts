/** Delays between attempts: doubling from `firstMs` to `mostMs`, each jittered to 50–100 %. */
export class Backoff {
  readonly #options: { firstMs: number; mostMs: number; random: () => number };
  #nextMs: number;

  constructor(options: { firstMs: number; mostMs: number; random: () => number }) {
    this.#options = options;
    this.#nextMs = options.firstMs;
  }

  /** The delay before the next attempt, in milliseconds. */
  next(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(this.#nextMs * 2, this.#options.mostMs);
    return ms * (0.5 + this.#options.random() / 2);
  }

  reset(): void {
    this.#nextMs = this.#options.firstMs;
  }
}
