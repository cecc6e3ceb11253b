import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import yargs from "yargs";
import { UserError, runMain } from "../common/program.ts";
import { listMounts, probe } from "../cli/mounts.ts";
import type { Sizes } from "./bench-worker.ts";

/**
 * `npm run bench -- DIR [DIR2 …]`: what a directory's filesystem does, as a table. With more than
 * one the first is the control: the others get a ratio to it, measured in the same run, in turns
 * (A B A B), as a machine may well be twice as busy a minute later.
 *
 * Every measurement is a child process with a time limit: a mount that hangs is reported, and the
 * other directories go on.
 */

const full: Sizes = { fileMiB: 256, randomCount: 2_000, smallCount: 1_000, listCount: 10_000 };
const quick: Sizes = { fileMiB: 32, randomCount: 300, smallCount: 200, listCount: 1_000 };

/** In order: some use the files of those before. `cold`: the kernel's caches are dropped first. */
const measurements: readonly { name: string; unit: string; cold?: boolean }[] = [
  { name: "sequential write", unit: "MiB/s" },
  { name: "sequential read", unit: "MiB/s", cold: true },
  { name: "random read 4 KiB", unit: "/s", cold: true },
  { name: "random write 4 KiB", unit: "/s" },
  { name: "create 4 KiB files", unit: "/s" },
  { name: "stat files", unit: "/s" },
  { name: "read 4 KiB files", unit: "/s", cold: true },
  { name: "rename files", unit: "/s" },
  { name: "delete files", unit: "/s" },
  { name: "list a large directory", unit: "entries/s", cold: true },
];

interface Target {
  dir: string;
  work: string;
  /** Why it is measured no more. */
  failed: string | undefined;
  samples: Map<string, number[]>;
}

interface Options {
  dirs: string[];
  quick: boolean;
  json: boolean;
  rounds: number;
  limit: number;
}

async function main(): Promise<void> {
  const options = await parseOptions(process.argv.slice(2));
  const sizes = options.quick ? quick : full;
  const cold = process.getuid?.() === 0;
  const tell = (text: string): void => void process.stderr.write(`${text}\n`);
  const targets: Target[] = options.dirs.map((dir) => ({
    dir,
    work: path.join(dir, `gfs-bench-${process.pid}`),
    failed: undefined,
    samples: new Map(),
  }));
  const stopping = new AbortController();
  process.once("SIGINT", () => {
    stopping.abort();
    tell("stopping after this measurement");
  });
  for (const target of targets) await attempt(target, "prepare", sizes, options.limit);
  for (let round = 1; round <= options.rounds && !stopping.signal.aborted; round += 1) {
    tell(`round ${round} of ${options.rounds}`);
    for (const { name, cold: wantsCold } of measurements) {
      for (const target of targets) {
        if (stopping.signal.aborted || target.failed !== undefined) continue;
        if (wantsCold && cold) await attempt(target, "drop caches", sizes, options.limit);
        const rate = await attempt(target, name, sizes, options.limit);
        if (rate !== undefined) keep(target, name, rate);
      }
    }
  }
  for (const target of targets) await clean(target, sizes, options.limit, tell);
  process.stdout.write(options.json ? asJson(targets, sizes, cold) : asTable(targets, sizes, cold));
  if (targets.some(({ failed }) => failed !== undefined)) process.exitCode = 1;
}

async function parseOptions(args: string[]): Promise<Options> {
  const parsed = await yargs(args)
    .scriptName("npm run bench --")
    .usage("$0 DIR [DIR2 …]: measure directories; the first is the control of the others")
    .option("quick", { type: "boolean", default: false, describe: "smaller, for a first look" })
    .option("json", { type: "boolean", default: false, describe: "print JSON" })
    .option("rounds", { type: "number", describe: "how often each is measured [3, quick 1]" })
    .option("limit", { type: "number", default: 180, describe: "seconds for one measurement" })
    .demandCommand(1, "give a directory to measure")
    .strictOptions()
    .fail((message: string | null, error: Error | undefined) => {
      throw new UserError(message ?? error?.message ?? "wrong usage");
    })
    .parseAsync();
  const rounds = parsed.rounds ?? (parsed.quick ? 1 : 3);
  if (!(rounds >= 1) || !(parsed.limit > 0)) throw new UserError("--rounds and --limit are from 1");
  const dirs = parsed._.map((dir) => path.resolve(String(dir)));
  for (const dir of dirs) {
    const answer = await probe(dir, 5_000);
    if (answer.state !== "answers") throw new UserError(`${dir}: ${answer.why}`);
  }
  return { dirs, quick: parsed.quick, json: parsed.json, rounds, limit: parsed.limit };
}

/** Runs one step in a child; a failure is kept in the target. Returns the rate, if it has one. */
async function attempt(
  target: Target,
  name: string,
  sizes: Sizes,
  limit: number,
): Promise<number | undefined> {
  if (target.failed !== undefined) return undefined;
  const outcome = await runWorker([name, target.work, JSON.stringify(sizes)], limit * 1000);
  if (typeof outcome === "string") {
    target.failed = `${name}: ${outcome}`;
    return undefined;
  }
  return outcome.rate;
}

/** Resolves with what the worker printed, or with the reason why it failed. */
function runWorker(
  args: readonly string[],
  limitMs: number,
): Promise<{ rate: number | undefined } | string> {
  const script = fileURLToPath(new URL("./bench-worker.js", import.meta.url));
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [script, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      // Out of reach of ^C, which would leave the files behind.
      detached: true,
    });
    let output = "";
    let errors = "";
    const timer = setTimeout(() => {
      // Not waited for: a process in a dead mount may not even die.
      child.kill("SIGKILL");
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      resolve(`no answer in ${limitMs / 1000} s`);
    }, limitMs);
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      if (code !== 0) return resolve(errors.trim() || `ended by ${signal ?? code}`);
      const rate = output ? (JSON.parse(output) as { rate: number }).rate : undefined;
      resolve({ rate });
    });
  });
}

async function clean(
  target: Target,
  sizes: Sizes,
  limit: number,
  tell: (text: string) => void,
): Promise<void> {
  const outcome = await runWorker(["clean", target.work, JSON.stringify(sizes)], limit * 1000);
  if (typeof outcome === "string") tell(`left behind: ${target.work} (${outcome})`);
}

function keep({ samples }: Target, name: string, rate: number): void {
  samples.set(name, [...(samples.get(name) ?? []), rate]);
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

function medianOf(target: Target | undefined, name: string): number | undefined {
  const samples = target?.samples.get(name);
  return samples && median(samples);
}

/** Facts without which the numbers mean little. */
function surroundings(sizes: Sizes, cold: boolean): string[] {
  const allowed = /Cpus_allowed_list:\s*(\S+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return [
    `Linux ${os.release()}, Node ${process.versions.node}, CPUs ${allowed} of ${os.cpus().length}`,
    `file ${sizes.fileMiB} MiB in pieces of 1 MiB, written with fsync; ` +
      `${sizes.smallCount} small files; ${sizes.listCount} entries`,
    cold
      ? "cold: the kernel's caches were dropped before (not those of a filesystem's own programs)"
      : "cold: not so, dropping caches needs root; what was written may still be in memory",
  ];
}

function filesystemOf(dir: string): string {
  const entries = listMounts().filter(
    ({ mountpoint }) => mountpoint === "/" || `${dir}/`.startsWith(`${mountpoint}/`),
  );
  return entries.toSorted((a, b) => a.mountpoint.length - b.mountpoint.length).at(-1)?.type ?? "?";
}

function asTable(targets: readonly Target[], sizes: Sizes, cold: boolean): string {
  const [control] = targets;
  const heads = targets.flatMap((_, i) => (i === 0 ? ["A"] : [letter(i), `${letter(i)}/A`]));
  const rows = measurements.map(({ name, unit, cold: wantsCold }) => {
    const first = medianOf(control, name);
    const cells = targets.flatMap((target, i) => {
      const value = medianOf(target, name);
      const ratio = value !== undefined && first !== undefined ? value / first : undefined;
      return i === 0 ? [number(value)] : [number(value), ratio?.toFixed(2) ?? "-"];
    });
    return [`${name}${wantsCold ? ", cold" : ""}`, unit, ...cells];
  });
  const lines = [["", "", ...heads], ...rows];
  const widths = (lines[0] ?? []).map((_, column) =>
    Math.max(...lines.map((line) => line[column]?.length ?? 0)),
  );
  const table = lines.map((line) =>
    line
      .map((cell, i) => (i < 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
  const legend = targets.map(
    ({ dir, failed }, i) =>
      `${letter(i)} = ${dir} (${filesystemOf(dir)})${failed ? `; stopped at ${failed}` : ""}`,
  );
  return `${[...legend, ...surroundings(sizes, cold), "", ...table].join("\n")}\n`;
}

const letter = (i: number): string => String.fromCharCode(65 + i);

function number(value: number | undefined): string {
  if (value === undefined) return "-";
  return value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en-US");
}

function asJson(targets: readonly Target[], sizes: Sizes, cold: boolean): string {
  const results = targets.map((target, i) => ({
    dir: target.dir,
    filesystem: filesystemOf(target.dir),
    failed: target.failed,
    rates: measurements.map(({ name, unit }) => {
      const value = medianOf(target, name);
      const first = medianOf(targets[0], name);
      return {
        name,
        unit,
        median: value,
        samples: target.samples.get(name) ?? [],
        ratio: i > 0 && value !== undefined && first ? value / first : undefined,
      };
    }),
  }));
  return `${JSON.stringify({ sizes, droppedCaches: cold, results }, undefined, 2)}\n`;
}

await runMain("bench", main);
