import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createWriteStream, mkdirSync, mkdtempSync, realpathSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import yargs from "yargs";
import { UserError, runMain } from "../common/program.ts";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import { builtPath, isUp, SoakCluster } from "./soak-cluster.ts";
import { Faults } from "./soak-faults.ts";
import { seededRandom } from "./soak-random.ts";
import type { WorkerOptions, WorkerResult } from "./soak-worker.ts";

/**
 * `npm run soak -- --minutes 20 --seed S`: a cluster of real programs under load on two mounts,
 * while a driver kills, stops and damages them. In the end everything is started again, and every
 * acknowledged byte is compared with what the local disk remembers. Prints what happened; exit code
 * 1 if any operation failed, any byte was wrong or lost, or not all goals were met.
 *
 * The same seed chooses the same operations and faults; how they meet is up to the machine.
 */

/** What an operation may take while all servers are away and back. */
const endMsMax = 180_000;
const goalsMsMax = 300_000;
/** A round of scrub over one server, and the copies. */
const mendMsMax = 180_000;
const verifyMsMax = 600_000;

interface Options {
  minutes: number;
  seed: number;
  servers: number;
  mounts: number;
  loops: number;
  minReplicas: number;
  port: number | undefined;
  faults: boolean;
  fio: boolean;
  keep: boolean;
}

async function parseOptions(args: readonly string[]): Promise<Options> {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const parsed = await yargs([...args])
    .scriptName("npm run soak --")
    .usage("$0 [options]\n\nRuns a cluster under load and faults, and checks what it kept.")
    .option("minutes", { type: "number", default: 20, describe: "how long faults go on" })
    .option("seed", { type: "number", default: seed, describe: "chooses operations and faults" })
    .option("servers", { type: "number", default: 5, describe: "chunk servers" })
    .option("mounts", { type: "number", default: 3, describe: "mounts; the last is killed, too" })
    .option("loops", { type: "number", default: 6, describe: "operations at a time per mount" })
    .option("min-replicas", { type: "number", default: 2, describe: "as for gfs-master" })
    .option("port", { type: "number", describe: "the master's; default: a free one" })
    .option("faults", { type: "boolean", default: true, describe: "--no-faults: load alone" })
    .option("fio", { type: "boolean", default: true, describe: "--no-fio: without fio" })
    .option("keep", { type: "boolean", default: false, describe: "keep the directory at the end" })
    .strict()
    .fail((message, error) => {
      throw error ?? new UserError(`${message} (see npm run soak -- --help)`);
    })
    .parseAsync();
  const { minutes, servers, mounts, loops } = parsed;
  if (!(minutes > 0)) throw new UserError("--minutes: more than 0");
  for (const [name, value] of Object.entries({ servers, mounts, loops })) {
    if (!Number.isInteger(value) || value < 1) throw new UserError(`--${name}: at least 1`);
  }
  return { ...parsed, minReplicas: Math.min(parsed.minReplicas, servers) };
}

/** A child that works on a mount: this process never touches one. */
class Worker {
  readonly #child: ChildProcess;
  readonly #done: Promise<WorkerResult | undefined>;

  constructor(options: WorkerOptions, log: string) {
    const child = spawn(
      process.execPath,
      [builtPath("scripts/soak-worker.js"), JSON.stringify(options)],
      {
        cwd: "/",
        stdio: ["pipe", "pipe", "pipe"],
        // An operation that waits for a server holds a thread: the others need theirs.
        env: { ...process.env, UV_THREADPOOL_SIZE: "32" },
      },
    );
    this.#child = child;
    child.stdin.on("error", () => undefined);
    child.stderr.pipe(createWriteStream(log, { flags: "a" }));
    let out = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
    this.#done = new Promise((resolve) => {
      child.once("error", () => resolve(undefined));
      child.once("close", () => resolve(parseResult(out)));
    });
    const kill = (): void => void child.kill("SIGKILL");
    process.once("exit", kill);
    child.once("close", () => process.off("exit", kill));
  }

  /** Lets it come to its end; undefined if it does not in time: something hangs. */
  async end(msMax: number): Promise<WorkerResult | undefined> {
    this.#child.stdin?.end();
    const timer = setTimeout(() => giveUp(this.#child), msMax);
    try {
      const given = sleep(systemClock, msMax + 5_000).then(() => undefined);
      return await Promise.race([this.#done, given]);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Says where in the kernel a child waits, and kills it. */
function giveUp(child: ChildProcess): void {
  const { stdout } = spawnSync("bash", ["-c", whereItWaits, "bash", String(child.pid)], {
    timeout: 10_000,
    encoding: "utf8",
  });
  process.stderr.write(stdout);
  child.kill("SIGKILL");
}

const whereItWaits = `for pid in $1 $(pgrep -P $1); do for task in /proc/$pid/task/*; do
  echo "$(cat $task/comm) $task: $(cat $task/wchan) $(head -3 $task/stack | tr '\\n' ' ')"
done; done 2>/dev/null | grep -i fuse`;

function parseResult(text: string): WorkerResult | undefined {
  try {
    return JSON.parse(text) as WorkerResult;
  } catch {
    return undefined;
  }
}

/** fio's own verification of what it writes, again and again. */
class Fio {
  runs = 0;
  readonly failures: string[] = [];
  readonly #ended: Promise<void>;
  #child: ChildProcess | undefined;

  constructor(directory: string, signal: AbortSignal) {
    this.#ended = this.#loop(directory, signal);
  }

  async end(msMax: number): Promise<void> {
    const inTime = this.#ended.then(() => true);
    const given = sleep(systemClock, msMax).then(() => false);
    if (await Promise.race([inTime, given])) return;
    this.failures.push("it hangs");
    if (this.#child) giveUp(this.#child);
    await this.#ended;
  }

  async #loop(directory: string, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const failure = await this.#run(directory);
      if (failure !== undefined) this.failures.push(failure);
      this.runs += 1;
      if (failure !== undefined) await sleep(systemClock, 5_000, signal);
    }
  }

  /** Resolves with why it failed, if it did. */
  #run(directory: string): Promise<string | undefined> {
    const args = ["--name=soak", `--directory=${directory}`, "--rw=randwrite", "--bs=16k"];
    args.push("--size=24m", "--numjobs=2", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1");
    args.push("--end_fsync=1", "--group_reporting", "--output-format=terse");
    const child = spawn("fio", args, { cwd: "/", stdio: ["ignore", "ignore", "pipe"] });
    this.#child = child;
    const kill = (): void => void child.kill("SIGKILL");
    process.once("exit", kill);
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
    return new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("close", (code, by) => {
        process.off("exit", kill);
        resolve(code === 0 ? undefined : `${code ?? by}: ${said.trim().split("\n")[0]}`);
      });
    });
  }
}

interface Report {
  faults: Record<string, number>;
  faultsFailed: string[];
  /** Programs that ended by themselves. */
  crashes: string[];
  load: WorkerResult[];
  hung: number;
  fio: { runs: number; failures: string[] };
  goalsMs: number | undefined;
  /** Chunks with a flipped byte that was not mended. */
  stillFlipped: string[];
  /** Undefined: it could not be done. */
  verified: WorkerResult[] | undefined;
}

class Soak {
  readonly #options: Options;
  readonly #cluster: SoakCluster;
  readonly #stop = new AbortController();
  readonly #startMs = systemClock.nowMs();

  constructor(options: Options, cluster: SoakCluster) {
    this.#options = options;
    this.#cluster = cluster;
  }

  #tell(text: string): void {
    const seconds = Math.round((systemClock.nowMs() - this.#startMs) / 1000);
    process.stderr.write(`${String(seconds).padStart(5)} s  ${text}\n`);
  }

  #log(name: string): string {
    return path.join(this.#cluster.directory, "log", `${name}.log`);
  }

  #worker(mount: number, tree: number, verify: boolean): Worker {
    const on = this.#cluster.mounts[mount];
    const options: WorkerOptions = {
      directory: path.join(on?.directory ?? "", `w${tree + 1}`),
      ...(on?.cuts === undefined || verify ? {} : { cuts: on.cuts }),
      shadow: path.join(this.#cluster.directory, "shadow", `w${tree + 1}`),
      seed: this.#options.seed + tree,
      loops: this.#options.loops,
      verify,
    };
    return new Worker(options, this.#log(`worker-${mount + 1}`));
  }

  #fios(): Fio[] {
    const wanted = this.#options.fio;
    if (!wanted || spawnSync("fio", ["--version"], { timeout: 10_000 }).status !== 0) {
      this.#tell(wanted ? "without fio: it is not installed" : "without fio");
      return [];
    }
    return this.#cluster.mounts.flatMap(({ directory, cuts }, i) => {
      if (cuts !== undefined) return [];
      const work = path.join(directory, `fio${i + 1}`);
      const made = spawnSync("mkdir", ["-p", work], { timeout: 30_000 });
      return made.status === 0 ? [new Fio(work, this.#stop.signal)] : [];
    });
  }

  async run(): Promise<Report> {
    const cluster = this.#cluster;
    const { minutes, seed } = this.#options;
    this.#tell(`seed ${seed}, ${cluster.directory}`);
    if (cluster.small === undefined) this.#tell("no disk is filled: a tmpfs cannot be mounted");
    const workers = cluster.mounts.map((_, i) => this.#worker(i, i, false));
    const fios = this.#fios();
    const faults = new Faults({
      cluster,
      random: seededRandom(seed),
      tell: (text) => this.#tell(text),
      signal: this.#stop.signal,
    });
    const broken = this.#options.faults ? faults.run() : Promise.resolve();
    await Promise.race([sleep(systemClock, minutes * 60_000), signalled()]);
    this.#tell("no more faults");
    this.#stop.abort();
    await broken;
    faults.mend();
    const results = await Promise.all(workers.map((worker) => worker.end(endMsMax)));
    await Promise.all(fios.map((fio) => fio.end(endMsMax)));
    this.#tell("the load has ended");
    const goalsMs = await this.#goals();
    const stillFlipped = await this.#mended(faults);
    const verified = await this.#verify().catch((error: unknown) => {
      this.#tell(`no comparison: ${error instanceof Error ? error.message : String(error)}`);
      return undefined;
    });
    const load = results.filter((result) => result !== undefined);
    const fio = {
      runs: fios.reduce((sum, { runs }) => sum + runs, 0),
      failures: fios.flatMap(({ failures }) => failures),
    };
    const hung = results.length - load.length;
    const faultsFailed = faults.failures;
    const { crashes } = cluster;
    return {
      faults: faults.counts,
      faultsFailed,
      crashes,
      load,
      hung,
      fio,
      goalsMs,
      stillFlipped,
      verified,
    };
  }

  /** Time from the end of the load until every chunk has all its replicas. */
  async #goals(): Promise<number | undefined> {
    try {
      const goalsMs = await this.#cluster.until(
        "all goals are met",
        (now) =>
          isUp(now, this.#options.servers) && now.chunks.belowGoal === 0 && now.chunks.lost === 0,
        goalsMsMax,
      );
      this.#tell(`all goals are met after ${Math.round(goalsMs / 1000)} s`);
      return goalsMs;
    } catch (error) {
      this.#tell(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  /** Waits until every flipped byte is as the other servers have it; resolves with what is not. */
  async #mended(faults: Faults): Promise<string[]> {
    await faults.restartFlipped();
    const endMs = systemClock.nowMs() + mendMsMax;
    for (;;) {
      const left = faults.stillFlipped();
      if (left.length === 0 || systemClock.nowMs() > endMs) return left;
      await sleep(systemClock, 1_000);
    }
  }

  /** Every tree through every mount, with nothing cached. */
  async #verify(): Promise<WorkerResult[]> {
    await this.#cluster.remount();
    const verified: WorkerResult[] = [];
    for (const mount of this.#cluster.mounts.keys()) {
      for (const tree of this.#cluster.mounts.keys()) {
        const result = await this.#worker(mount, tree, true).end(verifyMsMax);
        if (!result) throw new UserError(`the comparison through mount ${mount + 1} hangs`);
        verified.push(result);
      }
    }
    return verified;
  }
}

function signalled(): Promise<void> {
  return new Promise((resolve) => {
    process.once("SIGINT", () => resolve());
    process.once("SIGTERM", () => resolve());
  });
}

function summed(counts: readonly Record<string, number>[]): Record<string, number> {
  const sum: Record<string, number> = {};
  for (const one of counts) {
    for (const [name, count] of Object.entries(one)) sum[name] = (sum[name] ?? 0) + count;
  }
  return sum;
}

const listed = (counts: Record<string, number>): string =>
  Object.entries(counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ") || "none";

/** Prints what happened; true if it was clean. */
function tellReport({
  faults,
  faultsFailed,
  crashes,
  load,
  hung,
  fio,
  goalsMs,
  stillFlipped,
  ...report
}: Report): boolean {
  const verified = report.verified ?? [];
  const all = [...load, ...verified];
  const errors = summed(all.map((result) => result.errors));
  const wrong = all.flatMap((result) => result.wrong);
  const lost = verified.flatMap((result) => result.lost);
  const extra = verified.flatMap((result) => result.extra);
  const [slowest] = load.map((result) => result.slowest).toSorted((a, b) => b.ms - a.ms);
  const files = verified.reduce((sum, result) => sum + result.files, 0);
  const bytes = verified.reduce((sum, result) => sum + result.bytes, 0);
  const lines = [
    `faults: ${listed(faults)}`,
    `faults that failed: ${faultsFailed.length} ${faultsFailed.join("; ")}`.trimEnd(),
    `crashed: ${crashes.length} ${crashes.join("; ")}`.trimEnd(),
    `operations: ${listed(summed(load.map((result) => result.operations)))}`,
    `errors: ${listed(errors)}`,
    `failed because the mount was killed: ${listed(summed(load.map(({ cut }) => cut)))}`,
    `hung: ${hung}`,
    `fio: ${fio.runs} runs, ${fio.failures.length} failed ${fio.failures.join("; ")}`.trimEnd(),
    `slowest operation: ${slowest?.operation} ${slowest?.ms} ms`,
    goalsMs === undefined ? "goals: not met" : `goals: all met in ${Math.round(goalsMs)} ms`,
    `flipped bytes not mended: ${stillFlipped.length} ${stillFlipped.join(" ")}`.trimEnd(),
    `compared: ${files} files, ${Math.round(bytes / 1024 / 1024)} MiB`,
    `wrong: ${wrong.length}${["", ...wrong].join("\n  ")}`,
    `lost: ${lost.length}${["", ...lost].join("\n  ")}`,
    `extra: ${extra.length}${["", ...extra].join("\n  ")}`,
  ];
  process.stdout.write(`${lines.join("\n")}\n`);
  const faulty = [Object.keys(errors), crashes, wrong, lost, extra, fio.failures, stillFlipped];
  const bad = faulty.some((list) => list.length > 0);
  return (
    !bad &&
    faultsFailed.length === 0 &&
    hung === 0 &&
    goalsMs !== undefined &&
    report.verified !== undefined
  );
}

await runMain("soak", async () => {
  const options = await parseOptions(process.argv.slice(2));
  const directory = realpathSync(mkdtempSync(path.join(os.tmpdir(), "gfs-soak-")));
  mkdirSync(directory, { recursive: true });
  const cluster = await SoakCluster.start({ ...options, directory });
  let clean = false;
  try {
    clean = tellReport(await new Soak(options, cluster).run());
  } finally {
    await cluster.end(options.keep || !clean);
    if (options.keep || !clean) process.stderr.write(`logs: ${directory}/log\n`);
  }
  process.exit(clean ? 0 : 1);
});
