import t from "tap";
import { type RunResult, simulate } from "./run.ts";

/** A few seeds of what `npm run simulate` runs by the thousand. */

const seeds = [1, 2, 3];
/** Shorter than there: some seconds each. */
const forMs = 15_000;

async function run(seed: number): Promise<RunResult> {
  const result = await simulate({ seed, forMs });
  t.comment(`seed ${seed}: ${result.events} events, log ${result.hash}`);
  return result;
}

t.test("acknowledged data survives faults, and replicas become equal again", async (t) => {
  for (const seed of seeds) {
    const { violation } = await run(seed);
    t.equal(violation, undefined, `npm run simulate -- --seed ${seed} --for ${forMs / 1000}`);
  }
});

t.test("a seed replays exactly", async (t) => {
  const lines: string[][] = [[], []];
  for (const log of lines) {
    await simulate({ seed: 4, forMs: 4_000, record: (line) => log.push(line) });
  }
  t.ok((lines[0]?.length ?? 0) > 100, "there is something to compare");
  t.same(lines[0], lines[1]);
});
