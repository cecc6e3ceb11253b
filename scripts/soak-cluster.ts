import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { withMaster } from "../cli/admin.ts";
import { listMounts, probe, unmount } from "../cli/mounts.ts";
import type { Address } from "../common/address.ts";
import { formatAddress } from "../common/address.ts";
import { UserError } from "../common/program.ts";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import type { ReplyOf } from "../protocol/method.ts";
import { status } from "../protocol/methods/admin.ts";

/** The programs of a soak, on directories of their own: `master/ c1/ … m1/ … log/ shadow/`. */

type Status = ReplyOf<typeof status>;

const readyMsMax = 60_000;
/** Of a mount that was killed: the master may be stopped for longer than its leases meanwhile. */
const remountMsMax = 180_000;
/** MiB per second: a round must have ended soon after the last fault. */
const scrubRate = 32;

export const builtPath = (name: string): string =>
  fileURLToPath(new URL(`../${name}`, import.meta.url));

/** A program that can be killed, stopped and started again as it was. */
export class Program {
  readonly title: string;
  /** One fault at a time. */
  busy = false;
  /** How it ended when nobody had killed it. */
  readonly crashes: string[] = [];
  readonly #args: readonly string[];
  readonly #log: string;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #killed = false;

  constructor(title: string, args: readonly string[], log: string) {
    this.title = title;
    this.#args = args;
    this.#log = log;
  }

  get running(): boolean {
    const child = this.#child;
    return child !== undefined && child.exitCode === null && child.signalCode === null;
  }

  get exited(): Promise<void> {
    return this.#exited;
  }

  start(): void {
    if (this.running) return;
    const log = openSync(this.#log, "a");
    const child = spawn(process.execPath, this.#args, { stdio: ["ignore", log, log], cwd: "/" });
    closeSync(log);
    this.#child = child;
    this.#killed = false;
    child.once("exit", (code, by) => {
      if (code !== 0 && !this.#killed) this.crashes.push(`${this.title} ended: ${code ?? by}`);
    });
    this.#exited = new Promise((resolve) => {
      child.once("exit", () => resolve());
      child.once("error", () => resolve());
    });
  }

  /** Sends a signal to this process, and to no other. */
  signal(name: NodeJS.Signals): void {
    if (name === "SIGKILL") this.#killed = true;
    if (this.running) this.#child?.kill(name);
  }

  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.#exited;
  }

  async end(): Promise<void> {
    this.signal("SIGCONT");
    await this.kill();
  }
}

interface SoakOptions {
  directory: string;
  servers: number;
  mounts: number;
  minReplicas: number;
  port: number | undefined;
}

interface SoakMount {
  directory: string;
  program: Program;
  /** Of the one that is killed, too: where its load reads how often (`WorkerOptions.cuts`). */
  cuts: string | undefined;
}

export class SoakCluster {
  readonly directory: string;
  readonly master: Program;
  readonly servers: Program[] = [];
  readonly mounts: SoakMount[] = [];
  readonly address: Address;
  /** The last server's disk is a small one, where that can be had. */
  small: string | undefined;

  private constructor(address: Address, options: SoakOptions) {
    this.address = address;
    this.directory = options.directory;
    for (const name of ["log", "shadow"]) mkdirSync(path.join(this.directory, name));
    const main = [formatAddress(address), "--data", path.join(this.directory, "master")];
    const settings = ["--min-replicas", String(options.minReplicas)];
    this.master = this.#program("master", "master", [...main, ...settings]);
    const where = ["--master", formatAddress(address)];
    for (let i = 1; i <= options.servers; i += 1) {
      const data = ["--data", path.join(this.directory, `c${i}`)];
      data.push("--scrub-rate", String(scrubRate));
      this.servers.push(this.#program(`chunkd-${i}`, "chunkd", [...where, ...data]));
    }
    for (let i = 1; i <= options.mounts; i += 1) {
      const directory = path.join(this.directory, `m${i}`);
      mkdirSync(directory);
      const args = [directory, "-f", ...where];
      // One mount only has a load that is told that it was killed; never all of them.
      const cuts =
        i > 1 && i === options.mounts ? path.join(this.directory, "shadow", "cuts") : undefined;
      if (cuts !== undefined) writeFileSync(cuts, "0");
      this.mounts.push({ directory, program: this.#program(`mount-${i}`, "mount", args), cuts });
    }
  }

  /** A cluster that answers; one that does not is taken down again. */
  static async start(options: SoakOptions): Promise<SoakCluster> {
    const port = options.port ?? (await freePort());
    const cluster = new SoakCluster({ host: "127.0.0.1", port }, options);
    process.once("exit", () => cluster.#endNow());
    cluster.#makeSmall(options.servers);
    cluster.master.start();
    for (const server of cluster.servers) server.start();
    await cluster.until("all servers are up", (now) => isUp(now, options.servers), readyMsMax);
    for (const mount of cluster.mounts) await cluster.mount(mount);
    return cluster;
  }

  #program(title: string, name: string, args: string[]): Program {
    const log = path.join(this.directory, "log", `${title}.log`);
    return new Program(title, [builtPath(`${name}/main.js`), ...args], log);
  }

  get programs(): Program[] {
    return [this.master, ...this.servers, ...this.mounts.map(({ program }) => program)];
  }

  get crashes(): string[] {
    return this.programs.flatMap(({ crashes }) => crashes);
  }

  serverData(index: number): string {
    return path.join(this.directory, `c${index + 1}`);
  }

  #makeSmall(servers: number): void {
    const at = this.serverData(servers - 1);
    mkdirSync(at);
    const args = ["-t", "tmpfs", "-o", "size=1g", "gfs-soak", at];
    if (spawnSync("mount", args, { timeout: 10_000 }).status === 0) this.small = at;
  }

  /** Starts a mount's driver and waits until the mount answers. */
  async mount(mount: SoakMount, { again } = { again: false }): Promise<void> {
    mount.program.start();
    const msMax = again ? remountMsMax : readyMsMax;
    const patientMs = again ? systemClock.nowMs() + remountMsMax : 0;
    const endMs = systemClock.nowMs() + msMax;
    for (;;) {
      const isThere = listMounts().some(({ mountpoint }) => mountpoint === mount.directory);
      if (isThere && (await probe(mount.directory, 5_000)).state === "answers") return;
      if (!mount.program.running) {
        // One that finds no master says so and ends; here the master may be one that was stopped.
        if (systemClock.nowMs() > patientMs) {
          throw new UserError(`${mount.program.title} ended: see its log`);
        }
        mount.program.crashes.pop();
        await sleep(systemClock, 1_000);
        mount.program.start();
      }
      if (systemClock.nowMs() > endMs) throw new UserError(`${mount.directory} does not answer`);
      await sleep(systemClock, 100);
    }
  }

  /** Kills a mount's driver, and mounts again after `wait`. */
  async killMount(mount: SoakMount, count: number, wait: () => Promise<void>): Promise<void> {
    if (mount.cuts === undefined) throw new Error(`${mount.directory} is not one to kill`);
    writeFileSync(mount.cuts, String(count * 2 - 1));
    await mount.program.kill();
    await wait();
    const failed = await unmount(mount.directory, { lazy: true, limitMs: 60_000 });
    if (failed) throw new UserError(`${mount.directory} cannot be unmounted: ${failed.why}`);
    await this.mount(mount, { again: true });
    writeFileSync(mount.cuts, String(count * 2));
  }

  /** Unmounts and mounts again: nothing is cached any more. */
  async remount(): Promise<void> {
    for (const mount of this.mounts) {
      const failed = await unmount(mount.directory, { lazy: false, limitMs: 60_000 });
      if (failed) throw new UserError(`${mount.directory} cannot be unmounted: ${failed.why}`);
      await mount.program.exited;
      await this.mount(mount);
    }
  }

  status(): Promise<Status> {
    return withMaster(this.address, (connection) =>
      connection.call(status, {}, { deadlineMs: 10_000 }),
    );
  }

  /** Waits until the status is as wanted; resolves with the time it took, or throws. */
  async until(what: string, wanted: (now: Status) => boolean, msMax: number): Promise<number> {
    const startMs = systemClock.nowMs();
    for (;;) {
      const now = await this.status().catch(() => undefined);
      const tookMs = systemClock.nowMs() - startMs;
      if (now && wanted(now)) return tookMs;
      if (tookMs > msMax) {
        const last = now ? JSON.stringify({ chunks: now.chunks, servers: now.servers }) : "none";
        throw new UserError(`waited ${Math.round(tookMs / 1000)} s until ${what}; status: ${last}`);
      }
      await sleep(systemClock, 250);
    }
  }

  /** Ends everything and removes the directory, unless `keep`. */
  async end(keep: boolean): Promise<void> {
    for (const { directory } of this.mounts) {
      await unmount(directory, { lazy: true, limitMs: 10_000 });
    }
    for (const program of this.programs) await program.end();
    this.#endNow();
    const mounted = listMounts().some(({ mountpoint }) => mountpoint.startsWith(this.directory));
    if (!keep && !mounted) rmSync(this.directory, { recursive: true, force: true });
  }

  /** For the end of this process, however it comes. Idempotent. */
  #endNow(): void {
    for (const program of this.programs) program.signal("SIGKILL");
    for (const { mountpoint } of listMounts()) {
      if (!mountpoint.startsWith(`${this.directory}/`)) continue;
      spawnSync("umount", ["-l", mountpoint], { timeout: 5_000 });
    }
  }
}

export function isUp(now: Status, servers: number): boolean {
  return now.servers.filter(({ state }) => state === "up").length >= servers;
}

/** A port below those that the kernel gives to outgoing connections. */
function freePort(): Promise<number> {
  const port = 20_000 + Math.floor(Math.random() * 12_000);
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(freePort()));
    server.listen({ host: "127.0.0.1", port }, () => server.close(() => resolve(port)));
  });
}
