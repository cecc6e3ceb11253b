import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";

/** What takes a second takes many on a machine that does much else. */
const msMaxDefault = 60_000;
/** Looks after which it is a matter of time, and no more of turns of the event loop. */
const turnsMax = 100;
const pauseMsMax = 50;
/** A probe may be a process: looking takes a fifth of the time at most. */
const pausePerProbe = 4;

interface UntilOptions {
  msMax?: number | undefined;
  /** What is said of the last look when it was in vain. */
  shows?: (() => string | undefined) | undefined;
}

/** Polls until `probe` gives something true, and returns it; after `msMax` it throws. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  { msMax = msMaxDefault, shows }: UntilOptions = {},
): Promise<T> {
  const startMs = systemClock.nowMs();
  for (let looks = 1; ; looks += 1) {
    const beforeMs = systemClock.nowMs();
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    const nowMs = systemClock.nowMs();
    if (nowMs > startMs + msMax) {
      const last = shows?.() ?? "";
      throw new Error(`waited ${msMax} ms in vain until ${what}${last && `; last: ${last}`}`);
    }
    const turns = Math.max(0, looks - turnsMax);
    const pauseMs = Math.min(pauseMsMax, Math.max(turns, pausePerProbe * (nowMs - beforeMs)));
    if (pauseMs < 1) await new Promise(setImmediate);
    else await sleep(systemClock, pauseMs);
  }
}
