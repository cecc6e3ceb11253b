import type { Clock } from "../../common/clock.ts";

/** A clock whose timers fire when the test says so, all that are set at once. */
export function handClock(): { clock: Clock; fire: () => void } {
  const timers = new Set<() => void>();
  const timer: Clock["timer"] = (_afterMs, fire) => {
    timers.add(fire);
    return { cancel: () => void timers.delete(fire) };
  };
  const fire = (): void => {
    for (const due of [...timers]) {
      timers.delete(due);
      due();
    }
  };
  return { clock: { nowMs: () => 0, wallNs: () => 0n, timer }, fire };
}
