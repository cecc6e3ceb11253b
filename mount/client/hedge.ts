import type { Clock, Timer } from "../../common/clock.ts";

/** One way to get something; it ends early, with any error, when `signal` aborts. */
export type Try<T> = (signal: AbortSignal) => Promise<T>;

export interface HedgeOptions {
  /** How long one is waited for alone. */
  afterMs: number;
  clock: Clock;
  signal: AbortSignal | undefined;
  /** True for an error that is no reason to try another. */
  isFinal: (error: unknown) => boolean;
  onFailed: (error: unknown) => void;
  /** The one with this index has not answered in time. */
  onSlow: (index: number) => void;
}

/**
 * The first answer of several ways to get the same thing. The next is tried when one has failed, or
 * has not answered for `afterMs`; then both go on, and what is left is cancelled when one answers.
 * So a server that hangs costs `afterMs`, not its time-out. Resolves with undefined when all have
 * failed, rejects with a final error.
 */
export function firstAnswer<T>(
  tries: readonly Try<T>[],
  { afterMs, clock, signal, isFinal, onFailed, onSlow }: HedgeOptions,
): Promise<T | undefined> {
  // One for all tries, and no signals made of signals: that took longer than a local read.
  const cancel = new AbortController();
  const timers = new Set<Timer>();
  return new Promise<T | undefined>((resolve, reject) => {
    let started = 0;
    let running = 0;
    let isOver = false;
    const abort = (): void => cancel.abort(signal?.reason);
    const end = (settle: () => void): void => {
      isOver = true;
      for (const timer of timers) timer.cancel();
      signal?.removeEventListener("abort", abort);
      settle();
      if (running > 0) cancel.abort();
    };
    const failed = (error: unknown): void => {
      if (isFinal(error)) return end(() => reject(error));
      onFailed(error);
      if (!startNext() && running === 0) end(() => resolve(undefined));
    };
    const startNext = (): boolean => {
      const index = started;
      const work = tries[index];
      if (!work) return false;
      started += 1;
      running += 1;
      const timer = clock.timer(afterMs, () => {
        onSlow(index);
        if (started === index + 1) startNext();
      });
      timers.add(timer);
      const ended = (then: () => void): void => {
        timer.cancel();
        timers.delete(timer);
        running -= 1;
        if (!isOver) then();
      };
      work(cancel.signal).then(
        (answer) => ended(() => end(() => resolve(answer))),
        (error: unknown) => ended(() => failed(error)),
      );
      return true;
    };
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
    if (!startNext()) end(() => resolve(undefined));
  });
}
