import { type Clock, sleep } from "./clock.ts";
import type { Log } from "./log.ts";
import { sharedAbort } from "./shared-abort.ts";

/**
 * The loops a program runs beside its requests. No promise floats: a loop's error is logged and the
 * loop goes on; `stop` ends them all and waits for them.
 */
export class Tasks {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #stopping = sharedAbort();
  readonly #running = new Set<Promise<void>>();

  constructor(options: { clock: Clock; log: Log }) {
    this.#clock = options.clock;
    this.#log = options.log;
  }

  get signal(): AbortSignal {
    return this.#stopping.signal;
  }

  /** Runs `work` once in the background. */
  run(name: string, work: () => Promise<void>): void {
    if (this.signal.aborted) return;
    const running = work()
      .catch((error: unknown) => this.#log.error("task.failed", { task: name, error }))
      .finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  /** Runs `work` every `everyMs`, counted from the end of the last run, until `stop`. */
  every(name: string, everyMs: number, work: () => Promise<void>): void {
    this.run(name, async () => {
      while (!this.signal.aborted) {
        await sleep(this.#clock, everyMs, this.signal);
        if (this.signal.aborted) return;
        await work().catch((error: unknown) =>
          this.#log.error("task.failed", { task: name, error }),
        );
      }
    });
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#running);
  }
}
