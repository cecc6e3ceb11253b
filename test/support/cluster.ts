import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { dialMaster, withMaster } from "../../cli/admin.ts";
import { listMounts } from "../../cli/mounts.ts";
import { NamespaceSession } from "../../cli/session.ts";
import type { Address } from "../../common/address.ts";
import { must } from "../../common/assert.ts";
import type { Connection } from "../../protocol/connection.ts";
import type { ReplyOf } from "../../protocol/method.ts";
import { status } from "../../protocol/methods/admin.ts";
import { Program, killStarted, programPath } from "./process-program.ts";
import {
  type ShellOptions,
  type ShellResult,
  type ShellRun,
  quote,
  shell,
  shellOk,
  startShell,
} from "./process-shell.ts";
import { until } from "./until.ts";

/**
 * A cluster of real processes in a temporary directory, for the length of a test file:
 *
 *   master/ c1/ c2/ c3/   data          log/   one log per program
 *   m1/ …                 mounts        work/  for the test's own files
 */

export type Status = ReplyOf<typeof status>;

/** What a cluster needs of tap's test object. */
interface Test {
  teardown(work: () => Promise<void>): unknown;
  comment(text: string): unknown;
  passing(): boolean;
}

interface ClusterOptions {
  servers?: number;
  /** MiB per chunk. Small ones make many chunks of little data. */
  chunkMiB?: number;
  /** Mounts made at the start. */
  mounts?: number;
}

/** Below the range that the kernel takes ports of outgoing connections from. */
const ports = { first: 20_000, count: 12_000 };

interface Mount {
  readonly directory: string;
  readonly program: Program;
}

export class Cluster {
  readonly directory: string;
  /** For the test's own files, outside any mount. */
  readonly work: string;
  readonly address: Address;
  readonly master: Program;
  readonly servers: Program[] = [];
  readonly mounts: Mount[] = [];
  readonly #test: Test;

  private constructor(test: Test, address: Address, options: ClusterOptions) {
    this.#test = test;
    this.address = address;
    this.directory = realpathSync(mkdtempSync(path.join(tmpdir(), "gfs-process-")));
    this.work = path.join(this.directory, "work");
    mkdirSync(this.work);
    mkdirSync(path.join(this.directory, "log"));
    const args = [this.masterAddress, "--data", path.join(this.directory, "master")];
    if (options.chunkMiB !== undefined) args.push("--chunk-size", String(options.chunkMiB));
    this.master = this.#program("master", "master", args);
  }

  /** A cluster that is ready: all servers are up, all mounts answer. */
  static async start(test: Test, options: ClusterOptions = {}): Promise<Cluster> {
    const address = { host: "127.0.0.1", port: await freePort() };
    const cluster = new Cluster(test, address, options);
    cleanUpAtExit(cluster.directory);
    test.teardown(() => cluster.#end());
    cluster.master.start();
    for (let i = 0; i < (options.servers ?? 3); i += 1) cluster.addServer().start();
    await cluster.ready();
    for (let i = 0; i < (options.mounts ?? 1); i += 1) await cluster.mount();
    return cluster;
  }

  get masterAddress(): string {
    return `${this.address.host}:${this.address.port}`;
  }

  /** The first mount's directory, for commands. */
  get m(): string {
    return must(this.mounts[0], "there is a mount").directory;
  }

  get programs(): Program[] {
    return [this.master, ...this.servers, ...this.mounts.map(({ program }) => program)];
  }

  /** The data directory of a chunk server: 0 is the first. */
  serverData(index: number): string {
    return path.join(this.directory, `c${index + 1}`);
  }

  server(index: number): Program {
    return must(this.servers[index], `there is a chunk server ${index}`);
  }

  /** A further chunk server, not started yet. */
  addServer(): Program {
    const data = this.serverData(this.servers.length);
    const title = `chunkd ${this.servers.length + 1}`;
    const args = ["--master", this.masterAddress, "--data", data];
    const program = this.#program(title, "chunkd", args);
    this.servers.push(program);
    return program;
  }

  /** Mounts once more, with `-f`, and waits until the mount answers. */
  async mount(extra: readonly string[] = []): Promise<Mount> {
    const number = this.mounts.length + 1;
    const directory = path.join(this.directory, `m${number}`);
    mkdirSync(directory);
    const args = [directory, "-f", "--master", this.masterAddress, ...extra];
    const mount = { directory, program: this.#program(`mount ${number}`, "mount", args) };
    this.mounts.push(mount);
    await this.remount(mount);
    return mount;
  }

  /** Starts the driver of a mount (again), and waits until the mount answers. */
  async remount(mount: Mount): Promise<void> {
    mount.program.start();
    // Another device than above it: a killed driver's mount stays in the table for a while.
    const where = quote(mount.directory);
    // And statfs(2): of a dead mount the kernel still knows the attributes.
    const answers = `own=$(stat -c %d ${where}/.); above=$(stat -c %d ${where}/..)
      test $own != $above && stat -f ${where}/. >/dev/null`;
    await until(`${mount.directory} is mounted`, async () => {
      if (!mount.program.running) throw new Error(await mount.program.lastWords());
      if (!isMounted(mount.directory)) return false;
      return (await shell(answers, { timeoutMs: 10_000 })).code === 0;
    });
  }

  /** Unmounts, waits for the driver to leave, and mounts again: nothing is cached any more. */
  async freshMount(mount: Mount): Promise<void> {
    await shellOk(`umount ${quote(mount.directory)}`);
    await mount.program.exited;
    await this.remount(mount);
  }

  /** Waits until the master answers and all chunk servers that run are up. */
  async ready(): Promise<Status> {
    const expected = this.servers.filter(({ running }) => running).length;
    return this.awaitStatus(`the master and ${expected} servers are up`, (now) => {
      return now.servers.filter(({ state }) => state === "up").length >= expected;
    });
  }

  /** Waits until a status of the cluster is as wanted. */
  awaitStatus(what: string, wanted: (now: Status) => boolean, msMax?: number): Promise<Status> {
    let last: Status | undefined;
    const probe = async (): Promise<Status | undefined> => {
      last = await this.status().catch(() => undefined);
      return last && wanted(last) ? last : undefined;
    };
    return until(what, probe, { msMax, shows: () => JSON.stringify(last) });
  }

  /** Every chunk has all its copies, and none is lost. */
  healthy(msMax?: number): Promise<Status> {
    const healthy = ({ chunks }: Status): boolean => chunks.belowGoal === 0 && chunks.lost === 0;
    return this.awaitStatus("all chunks have their copies", healthy, msMax);
  }

  async status(): Promise<Status> {
    return withMaster(this.address, (connection) =>
      connection.call(status, {}, { deadlineMs: 10_000 }),
    );
  }

  /** Work on the namespace past the mount. */
  async session<T>(work: (session: NamespaceSession) => Promise<T>): Promise<T> {
    const { connection }: { connection: Connection } = await dialMaster(this.address);
    try {
      const session = await NamespaceSession.open(connection);
      return await work(session);
    } finally {
      connection.close("done");
    }
  }

  /** Runs a command; `$M` is the first mount, `$M2` the second, `$W` the work directory. */
  sh(command: string, options: ShellOptions = {}): Promise<ShellResult> {
    return shell(command, this.#withNames(options));
  }

  /** As `sh`, but a failure is thrown. Returns what was printed. */
  ok(command: string, options: ShellOptions = {}): Promise<string> {
    return shellOk(command, this.#withNames(options));
  }

  startShell(command: string, options: ShellOptions = {}): ShellRun {
    return startShell(command, this.#withNames(options));
  }

  /** The operator's command, on this cluster. */
  gfs(args: string, options: ShellOptions = {}): Promise<ShellResult> {
    const command = `${quote(process.execPath)} ${quote(programPath("cli"))} ${args}`;
    return this.sh(command, { ...options, env: { GFS_MASTER: this.masterAddress } });
  }

  /** Prints the most memory that each program has had, and returns it. */
  peaks(): { title: string; peakMiB: number }[] {
    const peaks = this.programs.map((program) => ({
      title: program.title,
      peakMiB: program.peakMiB(),
    }));
    const text = peaks.map(({ title, peakMiB }) => `${title} ${peakMiB} MiB`).join(", ");
    this.#test.comment(`peak memory: ${text}`);
    return peaks;
  }

  #withNames(options: ShellOptions): ShellOptions {
    const names: Record<string, string> = { W: this.work, MASTER: this.masterAddress };
    for (const [i, { directory }] of this.mounts.entries()) {
      names[i === 0 ? "M" : `M${i + 1}`] = directory;
    }
    return { ...options, env: { ...names, ...options.env } };
  }

  #program(title: string, name: "master" | "chunkd" | "mount", args: string[]): Program {
    const logFile = path.join(this.directory, "log", `${title.replace(" ", "-")}.log`);
    return new Program({ title, name, args, logFile });
  }

  async #end(): Promise<void> {
    for (const program of this.programs) program.signal("SIGCONT");
    if (!this.#test.passing()) this.#showLogs();
    for (const { program } of this.mounts) program.signal("SIGKILL");
    for (const { directory } of this.mounts) {
      await shell(`umount -l ${quote(directory)}`, { timeoutMs: 10_000 });
    }
    for (const program of this.programs) await program.kill();
    if (removeUnlessMounted(this.directory)) return;
    this.#test.comment(`still mounted, so not removed: ${this.directory}`);
  }

  #showLogs(): void {
    for (const program of this.programs) {
      const state = program.running ? "running" : "ended";
      this.#test.comment(`--- ${program.title} (${state}), end of its log\n${program.logTail()}`);
    }
  }
}

function isMounted(directory: string): boolean {
  const mounts = listMounts(readFileSync("/proc/self/mountinfo", "utf8"));
  return mounts.some(({ mountpoint }) => mountpoint === directory);
}

/** A port that a program can have now, and after a restart too: the kernel gives it to nobody. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = ports.first + Math.floor(Math.random() * ports.count);
    const free = await new Promise<boolean>((resolve) => {
      const server = createServer();
      server.once("error", () => resolve(false));
      server.listen({ host: "127.0.0.1", port }, () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

/** Directories of clusters that have not been torn down. */
const live = new Set<string>();

/** Teardown does this in order; this is for a test process that is stopped before it. */
function cleanUpAtExit(directory: string): void {
  live.add(directory);
  if (live.size > 1 || process.listenerCount("exit", onExit) > 0) return;
  process.once("SIGTERM", () => process.exit(143));
  process.once("SIGINT", () => process.exit(130));
  process.once("exit", onExit);
}

function onExit(): void {
  killStarted();
  for (const { mountpoint } of listMounts()) {
    if (!live.has(path.dirname(mountpoint))) continue;
    spawnSync("umount", ["-l", mountpoint], { timeout: 5_000 });
  }
  for (const directory of live) removeUnlessMounted(directory);
}

/** True when it is gone: with a mount left in it, removing it would empty the filesystem. */
function removeUnlessMounted(directory: string): boolean {
  if (listMounts().some(({ mountpoint }) => mountpoint.startsWith(`${directory}/`))) return false;
  rmSync(directory, { recursive: true, force: true });
  live.delete(directory);
  return true;
}
