/**
 * Runs the POSIX cases on a directory, and prints a line of JSON for each:
 *
 *   node build/test/posix/run.js DIR [NAME…] [--other DIR2] [--list] [--keep]
 *
 * NAME picks the cases whose "theme: name" contains it. `--other` is the same directory through
 * another mount; without it, cases for two mounts see DIR twice. `--keep` leaves the files of
 * cases that failed. Exits with 1 if a case failed.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { type Case, type Context, type Who, rootUser } from "./case.ts";
import { themes } from "./list.ts";
import { Helper, Process } from "./process.ts";

export interface Outcome {
  /** "theme: name". */
  name: string;
  result: "pass" | "fail" | "skip";
  /** What was wrong, or why it was skipped. */
  reason?: string;
  ms: number;
}

/** A case takes less than a second on a local disk; a slow mount on a busy machine, far longer. */
const secondsMaxDefault = 60;

/** Comparisons print the bytes that they compared: the start of these is enough. */
const reasonCharsMax = 1_000;

interface Place {
  directory: string;
  other: string;
}

/** The processes of all cases: kept, as starting one takes longer than most cases. */
class Processes {
  /** Where they start: outside the mount, which may hang. */
  readonly #home: string;
  readonly #idle: Helper[] = [];
  readonly #used = new Set<Process>();

  constructor(home: string) {
    this.#home = home;
  }

  async enter(directory: string, who: Who): Promise<Process> {
    const helper = this.#idle.pop() ?? new Helper(this.#home);
    const process = new Process(helper);
    this.#used.add(process);
    await helper.request("enter", directory, who.uid, who.gid, who.groups ?? []);
    return process;
  }

  /** Ends what they hold, so that the case's directory can be removed. */
  async leave(): Promise<void> {
    const used = [...this.#used].filter(({ helper }) => helper.running);
    await Promise.all(used.map((process) => process.leave()));
    this.#idle.push(...used.map(({ helper }) => helper));
    this.#used.clear();
  }

  /** Those that hang in the kernel do not go; nobody waits for them. */
  abandon(): void {
    for (const process of this.#used) process.signal("SIGKILL");
    this.#used.clear();
  }

  close(): void {
    this.abandon();
    for (const helper of this.#idle) helper.signal("SIGKILL");
  }
}

const isRoot = process.getuid?.() === 0;

/** Directories and processes are made as root where the runner is root. */
const runner: Who = isRoot ? rootUser : { uid: process.getuid?.() ?? 0, gid: 0 };

/**
 * A case that has failed leaves what it had started in parallel, which then fails too; one that
 * does so before its end has forgotten to wait.
 */
let endCase: (error: unknown) => void = () => undefined;
process.on("unhandledRejection", (error) => endCase(error));

async function runCase(name: string, test: Case, place: Place, processes: Processes) {
  const started = performance.now();
  const ended = (result: Outcome["result"], reason?: string): Outcome => {
    const ms = Math.round(performance.now() - started);
    return reason === undefined ? { name, result, ms } : { name, result, reason, ms };
  };
  if (test.needs === "root" && !isRoot) return ended("skip", "needs root");
  const limit = timeLimit(test.secondsMax ?? secondsMaxDefault);
  endCase = limit.end;
  try {
    await Promise.race([attempt(test, place, processes), limit.over]);
    return ended("pass");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return ended("fail", reason.slice(0, reasonCharsMax));
  } finally {
    // What a failed case left running may still wait for something.
    const left = timeLimit(5);
    await Promise.race([processes.leave(), left.over]).catch(() => processes.abandon());
    left.clear();
    limit.clear();
  }
}

async function attempt(test: Case, place: Place, processes: Processes): Promise<void> {
  const root = await processes.enter(place.directory, runner);
  const context: Context = {
    directory: place.directory,
    root,
    process: (who = runner) => processes.enter(place.directory, who),
    other: (who = runner) => processes.enter(place.other, who),
  };
  await test.run(context);
}

interface TimeLimit {
  /** Rejects when the time is over. */
  readonly over: Promise<never>;
  /** Ends it now. */
  end(error: unknown): void;
  clear(): void;
}

function timeLimit(seconds: number): TimeLimit {
  let end: (error: unknown) => void = () => undefined;
  const over = new Promise<never>((_, reject) => {
    end = reject;
  });
  over.catch(() => undefined);
  const late = (): void => end(new Error(`not done after ${seconds} s`));
  const timer = setTimeout(late, seconds * 1_000);
  return { over, end, clear: () => clearTimeout(timer) };
}

/** All cases whose names contain one of `picks`, or all. */
function pick(picks: readonly string[]): { name: string; test: Case }[] {
  const all = themes.flatMap(({ theme, cases }) =>
    cases.map((test) => ({ name: `${theme}: ${test.name}`, test })),
  );
  if (picks.length === 0) return all;
  return all.filter(({ name }) => picks.some((part) => name.includes(part)));
}

async function runAll(options: {
  directory: string;
  other: string;
  picks: readonly string[];
  keep: boolean;
}): Promise<boolean> {
  const { directory, other, picks, keep } = options;
  const home = mkdtempSync(path.join(tmpdir(), "gfs-posix-"));
  const processes = new Processes(home);
  const run = `posix-${process.pid}`;
  let passed = true;
  try {
    const janitor = await processes.enter(directory, runner);
    await janitor.mkdir(run, 0o755);
    await processes.leave();
    for (const [number, { name, test }] of pick(picks).entries()) {
      const own = `${run}/${number}`;
      await inDirectory(processes, directory, (janitor) => janitor.mkdir(own, 0o755));
      const place = { directory: path.join(directory, own), other: path.join(other, own) };
      const outcome = await runCase(name, test, place, processes);
      process.stdout.write(`${JSON.stringify(outcome)}\n`);
      if (outcome.result === "fail") passed = false;
      if (outcome.result === "fail" && keep) continue;
      await inDirectory(processes, directory, (janitor) => janitor.request("remove_tree", own))
        // A case that failed may have left what cannot be removed.
        .catch((error: unknown) => {
          if (outcome.result === "fail") return;
          passed = false;
          const reason = `its directory cannot be removed: ${String(error)}`;
          const line: Outcome = { name, result: "fail", reason, ms: 0 };
          process.stdout.write(`${JSON.stringify(line)}\n`);
        });
    }
    if (passed) {
      await inDirectory(processes, directory, (janitor) => janitor.request("remove_tree", run));
    }
  } finally {
    processes.close();
    rmSync(home, { recursive: true, force: true });
  }
  return passed;
}

async function inDirectory(
  processes: Processes,
  directory: string,
  work: (janitor: Process) => Promise<unknown>,
): Promise<void> {
  const limit = timeLimit(secondsMaxDefault);
  try {
    const janitor = await Promise.race([processes.enter(directory, runner), limit.over]);
    await Promise.race([work(janitor), limit.over]);
    await Promise.race([processes.leave(), limit.over]);
  } catch (error) {
    processes.abandon();
    throw error;
  } finally {
    limit.clear();
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    other: { type: "string" },
    list: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const [directory, ...picks] = positionals;
if (values.list) {
  for (const { name, test } of pick(positionals)) {
    process.stdout.write(`${name} (${test.source})\n`);
  }
} else if (directory === undefined) {
  process.stderr.write("run.js DIR [NAME…] [--other DIR2] [--list] [--keep]\n");
  process.exitCode = 2;
} else {
  const other = path.resolve(values.other ?? directory);
  const passed = await runAll({
    directory: path.resolve(directory),
    other,
    picks,
    keep: values.keep,
  });
  process.exit(passed ? 0 : 1);
}
