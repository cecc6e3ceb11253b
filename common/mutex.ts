/** Waiting in line: one holder per key, first come first served. Lines vanish when empty. */
export class KeyedMutex<Key> {
  readonly #tails = new Map<Key, Promise<void>>();

  /** Runs `work` when all earlier work of the same key has settled. */
  async run<T>(key: Key, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key);
    let release = (): void => undefined;
    const tail = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.#tails.set(key, tail);
    try {
      if (before) await before;
      return await work();
    } finally {
      release();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** True when somebody holds or waits for `key`. */
  busy(key: Key): boolean {
    return this.#tails.has(key);
  }

  /** Resolves when everything that was in any line at the time of the call has settled. */
  async idle(): Promise<void> {
    await Promise.all(this.#tails.values());
  }
}

/** A counted resource (bytes, requests) with a line of waiters, first come first served. */
export class Semaphore {
  readonly #most: number;
  #free: number;
  readonly #line: { amount: number; grant: () => void }[] = [];

  constructor(most: number) {
    this.#most = most;
    this.#free = most;
  }

  get inUse(): number {
    return this.#most - this.#free;
  }

  /** Takes `amount`, waiting for it. More than the whole is taken as the whole. */
  async acquire(amount: number): Promise<void> {
    const wanted = Math.min(amount, this.#most);
    if (this.#line.length === 0 && this.#free >= wanted) {
      this.#free -= wanted;
      return;
    }
    await new Promise<void>((grant) => this.#line.push({ amount: wanted, grant }));
  }

  /** Takes `amount` if it is there and nobody waits for it. */
  tryAcquire(amount: number): boolean {
    const wanted = Math.min(amount, this.#most);
    if (this.#line.length > 0 || this.#free < wanted) return false;
    this.#free -= wanted;
    return true;
  }

  /** True when somebody waits. */
  get contended(): boolean {
    return this.#line.length > 0;
  }

  release(amount: number): void {
    this.#free += Math.min(amount, this.#most);
    for (let first = this.#line[0]; first && first.amount <= this.#free; first = this.#line[0]) {
      this.#line.shift();
      this.#free -= first.amount;
      first.grant();
    }
  }
}
