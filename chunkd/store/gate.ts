/**
 * Who may work on a chunk, first come first served: any number of `shared` holders, or one
 * `exclusive`.
 *
 * `work` is started in the very moment it is let in, synchronously and in the order of the calls.
 * The write chain relies on it: what two shared holders do before their first `await` happens in
 * the order in which they came.
 */
type GateMode = "shared" | "exclusive";

export class Gate {
  #shared = 0;
  #exclusive = false;
  readonly #line: { mode: GateMode; start: () => void }[] = [];

  /** True when nobody is in and nobody waits. */
  get idle(): boolean {
    return this.#shared === 0 && !this.#exclusive && this.#line.length === 0;
  }

  /** Runs `work` when its turn comes and holds the gate until it has settled. */
  run<T>(mode: GateMode, work: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const start = (): void => {
        this.#enter(mode);
        work()
          .finally(() => this.#leave(mode))
          .then(resolve, reject);
      };
      if (this.#line.length === 0 && this.#open(mode)) start();
      else this.#line.push({ mode, start });
    });
  }

  #open(mode: GateMode): boolean {
    return !this.#exclusive && (mode === "shared" || this.#shared === 0);
  }

  #enter(mode: GateMode): void {
    if (mode === "shared") this.#shared += 1;
    else this.#exclusive = true;
  }

  #leave(mode: GateMode): void {
    if (mode === "shared") this.#shared -= 1;
    else this.#exclusive = false;
    for (let next = this.#line[0]; next && this.#open(next.mode); next = this.#line[0]) {
      this.#line.shift();
      next.start();
    }
  }
}
