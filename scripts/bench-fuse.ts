/**
 * `npm run bench:fuse`: what the way through FUSE itself costs. The same filesystem, which answers
 * at once from memory, is mounted by either binding, and tmpfs through bindfs, a pass-through in C;
 * nothing may be cached in the kernel. Measured in turns, as a machine may well be twice as busy a
 * minute later. Needs root, and bindfs (Debian: apt install bindfs) for its column.
 *
 * Where the programs run matters more than anything: on one CPU a request is a switch of processes,
 * on two it wakes up the other. `--cpus` says where, for all of them; the table repeats it.
 */

import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmdirSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import yargs from "yargs";
import { UserError, runMain } from "../common/program.ts";

/** A measurement takes seconds; a mount that hangs never ends. */
const limitMs = 120_000;
const startMsMax = 30_000;

const rows = [
  { name: "lookup", label: "stat of a name (LOOKUP, GETATTR)", unit: "µs", count: 5000 },
  { name: "absent", label: "stat of no name (LOOKUP)", unit: "µs", count: 5000 },
  { name: "getattr", label: "fstat (GETATTR)", unit: "µs", count: 10_000 },
  { name: "create", label: "create and close a file", unit: "µs", count: 1500 },
  { name: "write", label: "write 1 MiB, O_DIRECT", unit: "MB/s", count: 256 },
  { name: "read", label: "read 1 MiB, O_DIRECT", unit: "MB/s", count: 256 },
] as const;

interface Target {
  name: string;
  directory: string;
  samples: Map<string, number[]>;
  end(): void;
}

interface Placing {
  /** As for taskset -c; "" leaves it to the scheduler. */
  cpus: string;
}

async function main(): Promise<void> {
  const args = await yargs(process.argv.slice(2))
    .scriptName("npm run bench:fuse --")
    .option("cpus", { type: "string", default: "0", describe: 'for taskset -c; "" for any' })
    .option("rounds", { type: "number", default: 5, describe: "how often each is measured" })
    .option("quick", { type: "boolean", default: false, describe: "a tenth of it" })
    .strictOptions()
    .fail((message: string | null, error: Error | undefined) => {
      throw new UserError(message ?? error?.message ?? "wrong usage");
    })
    .parseAsync();
  if (process.getuid?.() !== 0) throw new UserError("mounting all of them needs root");
  const root = mkdtempSync(path.join(os.tmpdir(), "gfs-bench-fuse-"));
  const targets: Target[] = [];
  try {
    for (const start of [bindfs, device, fuseNative]) {
      const target = await start(root, args);
      if (target) targets.push(target);
    }
    const scale = args.quick ? 10 : 1;
    for (let round = 1; round <= args.rounds; round += 1) {
      process.stderr.write(`round ${round} of ${args.rounds}\n`);
      for (const { name, count } of rows)
        for (const target of targets) {
          const value = await measure(name, target.directory, Math.ceil(count / scale), args);
          target.samples.set(name, [...(target.samples.get(name) ?? []), value]);
        }
    }
    process.stdout.write(table(targets, args, args.rounds));
  } finally {
    for (const target of targets) target.end();
    rmdirSync(root, { recursive: false });
  }
}

/** The program and its arguments, placed. */
function placed({ cpus }: Placing, command: readonly string[]): [string, string[]] {
  const [program = "", ...args] = cpus === "" ? command : ["taskset", "-c", cpus, ...command];
  return [program, args];
}

const device = (root: string, placing: Placing): Promise<Target> =>
  mountMemory(root, placing, "device");
const fuseNative = (root: string, placing: Placing): Promise<Target> =>
  mountMemory(root, placing, "fuse-native");

/** The driver that the tests use, with its filesystem in memory. */
async function mountMemory(root: string, placing: Placing, binding: string): Promise<Target> {
  const directory = path.join(root, binding);
  mkdirSync(directory);
  const driver = fileURLToPath(new URL("../test/mount/fuse-native-driver.js", import.meta.url));
  const command = [process.execPath, driver, directory, "--binding", binding];
  const child = spawn(...placed(placing, command), { stdio: ["ignore", "pipe", "ignore"] });
  const end = (): void => {
    unmount(directory);
    child.kill("SIGKILL");
  };
  await started(child, binding);
  return { name: binding, directory, samples: new Map(), end };
}

/** Resolves with the first line that the driver prints. */
function started(child: ChildProcess, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (): void => reject(new UserError(`${name} does not mount`));
    const timer = setTimeout(fail, startMsMax);
    child.once("exit", fail);
    child.stdout?.once("data", () => {
      clearTimeout(timer);
      child.off("exit", fail);
      resolve();
    });
  });
}

async function bindfs(root: string, placing: Placing): Promise<Target | undefined> {
  if (spawnSync("bindfs", ["--version"]).error) {
    process.stderr.write("bindfs is not installed: no column for it\n");
    return undefined;
  }
  const [source, directory] = [path.join(root, "tmpfs"), path.join(root, "bindfs")];
  for (const one of [source, directory]) mkdirSync(one);
  must(spawnSync("mount", ["-t", "tmpfs", "gfs-bench", source]));
  const options = "attr_timeout=0,entry_timeout=0,negative_timeout=0";
  must(spawnSync(...placed(placing, ["bindfs", "-o", options, source, directory])));
  const end = (): void => {
    unmount(directory);
    unmount(source);
  };
  return { name: "bindfs", directory, samples: new Map(), end };
}

function must({ status, stderr }: { status: number | null; stderr: Buffer }): void {
  if (status !== 0) throw new UserError(stderr.toString().trim());
}

function unmount(directory: string): void {
  spawnSync("umount", ["-l", directory], { timeout: limitMs });
  rmdirSync(directory);
}

function measure(name: string, directory: string, count: number, placing: Placing) {
  const worker = fileURLToPath(new URL("bench-fuse-worker.js", import.meta.url));
  const command = [process.execPath, worker, name, directory, String(count)];
  const options = { timeout: limitMs, killSignal: "SIGKILL" } as const;
  return new Promise<number>((resolve, reject) => {
    execFile(...placed(placing, command), options, (error, output, errors) => {
      if (error) reject(new UserError(`${name} in ${directory}: ${errors || error.message}`));
      else resolve(Number(output));
    });
  });
}

function table(targets: readonly Target[], { cpus }: Placing, rounds: number): string {
  const control = targets[0];
  const lines = [
    ["", "", ...targets.flatMap(({ name }, i) => (i === 0 ? [name] : [name, "/"]))],
    ...rows.map(({ name, label, unit }) => {
      const first = median(control?.samples.get(name));
      const cells = targets.flatMap(({ samples }, i) => {
        const value = median(samples.get(name));
        // Above 1 is better than the first column, for times as for rates.
        const ratio = unit === "µs" ? first / value : value / first;
        const shown = value < 100 ? value.toFixed(1) : value.toFixed(0);
        return i === 0 ? [shown] : [shown, `${ratio.toFixed(2)}x`];
      });
      return [label, unit, ...cells];
    }),
  ];
  const widths = lines[0]?.map((_, i) => Math.max(...lines.map((line) => line[i]?.length ?? 0)));
  const text = lines.map((line) =>
    line
      .map((cell, i) => (i < 2 ? cell.padEnd(widths?.[i] ?? 0) : cell.padStart(widths?.[i] ?? 0)))
      .join("  ")
      .trimEnd(),
  );
  const load = readFileSync("/proc/loadavg", "utf8").split(" ").slice(0, 3).join(" ");
  const where = cpus === "" ? "placed by the scheduler" : `all programs on CPU ${cpus} (taskset)`;
  const machine = `Linux ${os.release()}, Node ${process.versions.node}, ${os.cpus().length} CPUs`;
  const head = [`${machine}, load ${load}; ${where}`, `medians of ${rounds} rounds, in turns`];
  return `${[...head, "", ...text].join("\n")}\n`;
}

function median(values: readonly number[] = []): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

await runMain("bench-fuse", main);
