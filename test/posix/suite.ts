import { fileURLToPath } from "node:url";
import { describe, quote, shell } from "../support/process-shell.ts";
import { themes } from "./list.ts";
import type { Outcome } from "./run.ts";

/** Runs the POSIX cases in a process of their own and turns their outcomes into tap's. */

const runner = fileURLToPath(new URL("run.js", import.meta.url));

/** A whole run: half a minute on a local disk; a mount on a busy machine takes far longer. */
const runMsMax = 780_000;

/** What a suite needs of tap's test object. */
interface Test {
  pass(text: string): unknown;
  fail(text: string, extra: Record<string, unknown>): unknown;
  comment(text: string): unknown;
}

/** Runs the cases on a directory, and on the same directory through another mount if given. */
export async function runCases(directory: string, other = directory): Promise<Outcome[]> {
  const command = [process.execPath, runner, directory, "--other", other].map(quote).join(" ");
  const result = await shell(`exec ${command}`, { timeoutMs: runMsMax });
  const outcomes = result.out
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Outcome);
  const count = themes.reduce((sum, { cases }) => sum + cases.length, 0);
  const whole = new Set(outcomes.map(({ name }) => name)).size === count;
  if (!whole) throw new Error(`only ${outcomes.length} of ${count}: ${describe(command, result)}`);
  return outcomes;
}

/**
 * One assertion a case. What is expected to fail has to fail, with the reason told, so that the
 * table stays true; a name in it that is no case's is wrong too. What is in `races` may fail.
 */
export function report(
  t: Test,
  outcomes: readonly Outcome[],
  expectedFailures: ReadonlyMap<string, string> = new Map(),
  races: ReadonlyMap<string, string> = new Map(),
): void {
  const names = new Set(outcomes.map(({ name }) => name));
  for (const name of [...expectedFailures.keys(), ...races.keys()]) {
    if (!names.has(name))
      t.fail(name, { reason: "is expected to fail, but there is no such case" });
  }
  for (const { name, result, reason } of outcomes) {
    const expected = expectedFailures.get(name);
    const race = races.get(name);
    if (result === "skip") t.comment(`skipped: ${name}: ${reason}`);
    else if (race !== undefined) t.pass(`${name}: ${result} (may fail: ${race})`);
    else if (expected === undefined && result === "pass") t.pass(name);
    else if (expected === undefined) t.fail(name, { reason });
    else if (result === "fail") t.pass(`${name}: fails as expected: ${expected}`);
    else t.fail(name, { reason: `passes, but is expected to fail: ${expected}` });
  }
}
