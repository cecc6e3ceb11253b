import { getEventListeners } from "node:events";
import t from "tap";
import { firstAnswer, type HedgeOptions, type Try } from "../../../mount/client/hedge.ts";
import { handClock } from "../../support/hand-clock.ts";

interface Scene {
  fire: () => void;
  slow: number[];
  failures: unknown[];
  cancelled: number[];
  hangs: (index: number) => Try<string>;
  run: (
    tries: readonly Try<string>[],
    change?: Partial<HedgeOptions>,
  ) => Promise<string | undefined>;
}

function scene(): Scene {
  const { clock, fire } = handClock();
  const slow: number[] = [];
  const failures: unknown[] = [];
  const cancelled: number[] = [];
  const options: HedgeOptions = {
    ...{ afterMs: 1, clock, signal: undefined, isFinal: () => false },
    onFailed: (error) => failures.push(error),
    onSlow: (index) => slow.push(index),
  };
  const hangs =
    (index: number): Try<string> =>
    (signal) =>
      new Promise((_, reject) => {
        signal.addEventListener("abort", () => {
          cancelled.push(index);
          reject(new Error("cancelled"));
        });
      });
  const run: Scene["run"] = (tries, change) => firstAnswer(tries, { ...options, ...change });
  return { fire, slow, failures, cancelled, hangs, run };
}

const fails =
  (why: string): Try<string> =>
  () =>
    Promise.reject(new Error(why));
const answers =
  (text: string): Try<string> =>
  () =>
    Promise.resolve(text);

t.test(
  "one that hangs is not waited for when the next one answers, and is cancelled",
  async (t) => {
    const { fire, slow, cancelled, hangs, run } = scene();
    const first = run([hangs(0), answers("second")]);
    await new Promise(setImmediate);
    t.same(cancelled, [], "it has its time first");
    fire();
    t.equal(await first, "second");
    t.same(slow, [0]);
    t.same(cancelled, [0]);
  },
);

t.test("a slow one may still be the first to answer", async (t) => {
  const { fire, cancelled, hangs, run } = scene();
  let answer = (_text: string): void => undefined;
  const late: Try<string> = () => new Promise((resolve) => (answer = resolve));
  const first = run([late, hangs(1)]);
  fire();
  await new Promise(setImmediate);
  answer("late");
  t.equal(await first, "late");
  t.same(cancelled, [1]);
});

t.test("one that fails gives way at once; undefined when all have failed", async (t) => {
  const { failures, run } = scene();
  t.equal(await run([fails("a"), fails("b"), answers("third")]), "third");
  t.equal(failures.length, 2);
  t.equal(await run([fails("a"), fails("b")]), undefined);
  t.equal(await run([]), undefined);
});

t.test("a final error, or the caller's signal, ends all", async (t) => {
  const { fire, cancelled, hangs, run } = scene();
  const final = run([hangs(0), fails("over")], { isFinal: () => true });
  fire();
  await t.rejects(final, { message: "over" });
  t.same(cancelled, [0]);
  const asked = new AbortController();
  const waiting = run([hangs(7)], { signal: asked.signal });
  asked.abort();
  t.equal(await waiting, undefined);
  t.same(cancelled, [0, 7]);
  const before: Try<string> = async (signal) => String(signal.aborted);
  t.equal(await run([before], { signal: asked.signal }), "true", "also one from before");
});

t.test("nothing is left behind at the signal, nor a timer", async (t) => {
  const { fire, slow, hangs, run } = scene();
  const { signal } = new AbortController();
  await run([answers("at once")], { signal });
  await run([fails("a"), answers("second")], { signal });
  await run([fails("a")], { signal });
  const both = run([hangs(0), answers("second")], { signal });
  fire();
  await both;
  t.same(slow, [0]);
  fire();
  t.same(slow, [0]);
  t.equal(getEventListeners(signal, "abort").length, 0);
});
