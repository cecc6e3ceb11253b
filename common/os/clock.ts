import type { Clock, Timer } from "../clock.ts";

/** The machine's clock. Wall time keeps its sub-millisecond part from the monotonic clock. */
export const systemClock: Clock = {
  nowMs(): number {
    return performance.now();
  },
  wallNs(): bigint {
    return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3)) * 1000n;
  },
  timer(afterMs: number, fire: () => void): Timer {
    const timeout = setTimeout(fire, afterMs);
    return { cancel: () => clearTimeout(timeout) };
  },
};
