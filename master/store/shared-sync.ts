import type { StatusError } from "../../protocol/status.ts";

/**
 * Runs of a sync, shared by all who wait. Commits are numbered; a run that began after commit n
 * serves everybody who waits for n or less; who comes later shares the next one.
 */
export class SharedSync {
  readonly #work: { begin: () => number; sync: () => Promise<void> };
  /** Commits up to this one are on the disk. */
  #done: number;
  #running: { upTo: number; ended: Promise<void> } | undefined;
  #next: Promise<void> | undefined;
  #failure: StatusError | undefined;

  /** `begin`: the last commit at this moment. `sync` puts everything up to it on the disk. */
  constructor(done: number, work: { begin: () => number; sync: () => Promise<void> }) {
    this.#done = done;
    this.#work = work;
  }

  /** Why nothing can be said to be on the disk any more. */
  get failure(): StatusError | undefined {
    return this.#failure;
  }

  /** Resolves when what is committed now is on the disk. */
  synced(): Promise<void> {
    return this.syncedTo(this.#work.begin());
  }

  syncedTo(sequence: number): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#done >= sequence) return Promise.resolve();
    if (!this.#running) return this.#run();
    if (this.#running.upTo >= sequence) return this.#running.ended;
    this.#next ??= this.#running.ended.then(() => {
      this.#next = undefined;
      return this.#run();
    });
    return this.#next;
  }

  /** Everything up to `sequence` has got to the disk in another way. */
  done(sequence: number): void {
    this.#done = Math.max(this.#done, sequence);
  }

  fail(failure: StatusError): StatusError {
    this.#failure ??= failure;
    return failure;
  }

  #run(): Promise<void> {
    const upTo = this.#work.begin();
    const ended = this.#sync(upTo);
    this.#running = { upTo, ended };
    return ended;
  }

  async #sync(upTo: number): Promise<void> {
    try {
      await this.#work.sync();
    } catch (error) {
      throw this.fail(error as StatusError);
    } finally {
      this.#running = undefined;
    }
    this.done(upTo);
  }
}
