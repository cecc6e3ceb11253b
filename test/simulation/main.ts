#!/usr/bin/env node
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { runMain } from "../../common/program.ts";
import { type RunResult, simulate } from "./run.ts";

/** `npm run simulate`: many seeds, or one with its event log. */

const say = (line: string): void => void process.stdout.write(`${line}\n`);

function add(totals: Map<string, number>, counts: ReadonlyMap<string, number>): void {
  for (const [what, count] of counts) totals.set(what, (totals.get(what) ?? 0) + count);
}

function table(totals: ReadonlyMap<string, number>): string {
  return [...totals]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([what, count]) => `${String(count).padStart(12)}  ${what}`)
    .join("\n");
}

async function replay(options: {
  seed: number;
  forMs: number | undefined;
  messages: boolean;
}): Promise<boolean> {
  const { seed, forMs, messages } = options;
  const record = (line: string): void => say(line);
  const length = forMs === undefined ? {} : { forMs };
  const result = await simulate({ seed, record, messages, ...length });
  say(table(result.counts));
  say(summary(result));
  return result.violation === undefined;
}

function summary(result: RunResult): string {
  const { seed, violation, hash, events, virtualMs } = result;
  const length = `${(virtualMs / 1000).toFixed(0)} s, ${events} events, log ${hash}`;
  return `seed ${seed}: ${violation === undefined ? "clean" : "FAILED"} (${length})`;
}

async function many(options: {
  first: number;
  count: number;
  forMs: number | undefined;
  keepGoing: boolean;
}): Promise<boolean> {
  const { first, count, forMs, keepGoing } = options;
  const totals = new Map<string, number>();
  const startMs = performance.now();
  const failed: number[] = [];
  for (let seed = first; seed < first + count; seed += 1) {
    const result = await simulate({ seed, ...(forMs === undefined ? {} : { forMs }) });
    add(totals, result.counts);
    if (result.violation === undefined) continue;
    failed.push(seed);
    say(summary(result));
    say(`  ${result.violation}`);
    say(`  again, with its event log: npm run simulate -- --seed ${seed}`);
    if (!keepGoing) break;
  }
  say(table(totals));
  const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
  say(`${count} seeds from ${first} in ${seconds} s: ${failed.length} failed ${failed.join(" ")}`);
  return failed.length === 0;
}

await runMain("simulate", async () => {
  const parsed = yargs(hideBin(process.argv))
    .scriptName("simulate")
    .option("seeds", { type: "number", default: 100, describe: "how many seeds to run" })
    .option("from", { type: "number", default: 1, describe: "the first of them" })
    .option("seed", { type: "number", describe: "run this one, and print its event log" })
    .option("messages", { type: "boolean", default: false, describe: "with it, every message" })
    .option("for", { type: "number", describe: "seconds of virtual time with faults" })
    .option("keep-going", { type: "boolean", default: false, describe: "after a seed has failed" })
    .strict()
    .parseSync();
  const forMs = parsed.for === undefined ? undefined : parsed.for * 1000;
  const { seed, seeds: count, from: first, "keep-going": keepGoing } = parsed;
  const clean =
    seed === undefined
      ? await many({ first, count, forMs, keepGoing })
      : await replay({ seed, forMs, messages: parsed.messages });
  process.exit(clean ? 0 : 1);
});
