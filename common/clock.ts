/**
 * Time comes in through this interface, so that a test can make its own.
 * `nowMs` is monotonic and only good for differences; `wallNs` is what goes into file times.
 */

export interface Timer {
  /** Idempotent; a timer that has fired may be cancelled too. */
  cancel(): void;
}

export interface Clock {
  /** Monotonic milliseconds, from an arbitrary start. */
  nowMs(): number;
  /** Nanoseconds since 1970-01-01 UTC. */
  wallNs(): bigint;
  /** Calls `fire` once, `afterMs` from now. Does not keep the process alive by itself. */
  timer(afterMs: number, fire: () => void): Timer;
}

/** Resolves after `ms`, or at once when `signal` aborts (it never rejects). */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const timer = clock.timer(ms, done);
    signal?.addEventListener("abort", done, { once: true });
    function done(): void {
      timer.cancel();
      signal?.removeEventListener("abort", done);
      resolve();
    }
  });
}
