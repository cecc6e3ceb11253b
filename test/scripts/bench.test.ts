import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";

const script = fileURLToPath(new URL("../../scripts/bench.js", import.meta.url));

function bench(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [script, ...args], { encoding: "utf8" });
}

t.test("bench compares directories in one run and leaves nothing behind", (t) => {
  const dir = t.testdir({ a: {}, b: {} });
  const [a, b] = [path.join(dir, "a"), path.join(dir, "b")];
  const { status, stdout } = bench(a, b, "--quick", "--json");
  t.equal(status, 0);
  const { results } = JSON.parse(stdout) as {
    results: { rates: { median?: number; ratio?: number }[] }[];
  };
  t.equal(results.length, 2);
  t.ok(results.every(({ rates }) => rates.every(({ median }) => (median ?? 0) > 0)));
  t.ok(results[1]?.rates.every(({ ratio }) => (ratio ?? 0) > 0));
  t.same([fs.readdirSync(a), fs.readdirSync(b)], [[], []]);
  t.end();
});

t.test("bench says what is wrong in one line", (t) => {
  t.match(bench("/nonexistent"), { status: 1, stderr: "bench: /nonexistent: No such file or dir" });
  t.match(bench(), { status: 1, stderr: "bench: give a directory to measure\n" });
  t.end();
});
