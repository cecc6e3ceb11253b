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
  /** They wait for a run that others ask for. */
  #patient: { sequence: number; resolve: () => void; reject: (why: StatusError) => void }[] = [];

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

  /** As `synced`, with the next run that somebody else wants. */
  syncedSoon(): Promise<void> {
    const sequence = this.#work.begin();
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#done >= sequence) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#patient.push({ sequence, resolve, reject });
    });
  }

  /** Everything up to `sequence` is on the disk. */
  done(sequence: number): void {
    this.#done = Math.max(this.#done, sequence);
    const served = this.#patient.filter((waiting) => waiting.sequence <= this.#done);
    if (served.length === 0) return;
    this.#patient = this.#patient.filter((waiting) => waiting.sequence > this.#done);
    for (const { resolve } of served) resolve();
  }

  fail(failure: StatusError): StatusError {
    this.#failure ??= failure;
    for (const { reject } of this.#patient.splice(0)) reject(failure);
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
