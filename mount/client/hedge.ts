import { type Clock, sleep } from "../../common/clock.ts";

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
  const over = new AbortController();
  const inner = signal ? AbortSignal.any([signal, over.signal]) : over.signal;
  return new Promise<T | undefined>((resolve, reject) => {
    let started = 0;
    let running = 0;
    const failed = (error: unknown): void => {
      running -= 1;
      if (over.signal.aborted) return;
      if (isFinal(error)) return reject(error);
      onFailed(error);
      if (!startNext() && running === 0) resolve(undefined);
    };
    const startNext = (): boolean => {
      const index = started;
      const work = tries[index];
      if (!work) return false;
      started += 1;
      running += 1;
      const ended = new AbortController();
      work(inner)
        .finally(() => ended.abort())
        .then(resolve, failed);
      void waitFor(index, ended.signal);
      return true;
    };
    const waitFor = async (index: number, ended: AbortSignal): Promise<void> => {
      await sleep(clock, afterMs, AbortSignal.any([ended, over.signal]));
      if (ended.aborted || over.signal.aborted) return;
      onSlow(index);
      if (started === index + 1) startNext();
    };
    if (!startNext()) resolve(undefined);
  }).finally(() => over.abort());
}
