import { existsSync, lstatSync, mkdirSync, realpathSync } from "node:fs";
import path from "node:path";
import type { CommandModule } from "yargs";
import { type Address, formatAddress } from "../common/address.ts";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import { UserError } from "../common/program.ts";
import { listServers } from "../protocol/methods/admin.ts";
import { StatusError } from "../protocol/status.ts";
import { dialMaster } from "./admin.ts";
import {
  ClusterDir,
  type ClusterState,
  anyRunning,
  chooseAddress,
  dataDirDefault,
  mountpointDefault,
  programScript,
  reasonOf,
  serversDefault,
  serversMax,
} from "./cluster.ts";
import { mountAt, probe, unmount } from "./mounts.ts";
import {
  type Daemon,
  isRunning,
  lastWords,
  signal,
  startDaemon,
  waitForExit,
} from "./processes.ts";
import { type Progress, createProgress } from "./progress.ts";

/**
 * `gfs up`: a cluster on this machine. Every step first looks whether its part is there and
 * answers, so running it again mends what is missing, after a crash or a reboot too.
 */

/** A master opens its store and listens; a crash before costs it no time (LMDB). */
const masterLimitMs = 30_000;
/** A chunk server reads its index and reports what it holds. */
const serversLimitMs = 60_000;
const mountLimitMs = 30_000;
const probeLimitMs = 5_000;
const pollMs = 100;

interface UpOptions {
  mountpoint: string;
  data: string;
  listen: string | undefined;
  servers: number | undefined;
  binding: string | undefined;
}

export const upCommand: CommandModule<object, UpOptions> = {
  command: "up [mountpoint]",
  describe: "start a cluster on this machine and mount it, or mend one",
  builder: (yargs) =>
    yargs
      .positional("mountpoint", {
        type: "string",
        default: mountpointDefault,
        describe: "where to mount; made if it does not exist",
      })
      .option("data", {
        type: "string",
        default: dataDirDefault,
        requiresArg: true,
        describe: "directory for the data of all programs",
      })
      .option("listen", {
        type: "string",
        requiresArg: true,
        describe: "HOST:PORT of the master [GFS_MASTER or 127.0.0.1:9400]",
      })
      .option("servers", {
        type: "number",
        requiresArg: true,
        describe: `number of chunk servers [${serversDefault}, or as many as there were]`,
      })
      .option("binding", {
        type: "string",
        requiresArg: true,
        describe: "how the mount talks to the kernel, see gfs-mount --help",
      }),
  handler: async (options) => up(options),
};

interface Run {
  dir: ClusterDir;
  state: ClusterState;
  address: Address;
  progress: Progress;
  /** What this run has started, to be stopped again should a later step fail. */
  started: Daemon[];
}

async function up(options: UpOptions): Promise<void> {
  const dir = new ClusterDir(options.data);
  const known = dir.load();
  const address = chooseAddress(options.listen, known, dir);
  const servers = serverCount(options.servers, dir, known);
  const mountpoint = resolveMountpoint(options.mountpoint);
  dir.create();
  using _lock = dir.lock();
  const state = known ?? { version: 1, address: formatAddress(address), servers: [], mounts: [] };
  const ours = state.mounts.some(
    (mount) => mount.mountpoint === mountpoint && isRunning(mount.process),
  );
  if (!ours) await clearMountpoint(mountpoint);
  const progress = createProgress(servers + 2);
  state.address = formatAddress(address);
  const run: Run = { dir, state, address, progress, started: [] };
  try {
    await bringUpMaster(run);
    await bringUpServers(run, servers);
    await bringUpMount(run, mountpoint, options.binding);
  } catch (error) {
    progress.end();
    await stopStarted(run);
    // An address that never worked is not the cluster's.
    if (!known && !anyRunning(state)) dir.forget();
    throw error;
  }
  progress.end();
  if (run.started.length === 0) {
    process.stdout.write(`the cluster is up and mounted on ${mountpoint}: nothing to do\n`);
  }
  process.stdout.write(whatNext(run, mountpoint, options.data));
}

function serverCount(
  asked: number | undefined,
  dir: ClusterDir,
  state: ClusterState | undefined,
): number {
  const before = Math.max(dir.chunkDirs(), state?.servers.length ?? 0);
  const wanted = asked ?? (before || serversDefault);
  if (!Number.isInteger(wanted) || wanted < 1 || wanted > serversMax) {
    throw new UserError(`--servers: give a whole number from 1 to ${serversMax}`);
  }
  // Fewer than there were would leave chunks out of reach.
  return Math.max(wanted, before);
}

/** The absolute path as the mount table has it. Does not touch what is mounted there. */
function resolveMountpoint(text: string): string {
  let wanted = path.resolve(text);
  if (mountAt(wanted)) return wanted;
  try {
    if (!existsSync(wanted)) {
      mkdirSync(wanted, { recursive: true });
      process.stdout.write(`made the directory ${wanted}\n`);
    }
    wanted = realpathSync(wanted);
    if (!mountAt(wanted) && !lstatSync(wanted).isDirectory()) {
      throw new UserError(`${wanted} is not a directory: nothing can be mounted there`);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`cannot mount on ${wanted}: ${reasonOf(error)}`, { cause: error });
  }
  if (wanted === "/") throw new UserError("cannot mount on /: choose a directory");
  return wanted;
}

async function bringUpMaster(run: Run): Promise<void> {
  const { dir, state, address, progress } = run;
  const where = formatAddress(address);
  progress.step(`master on ${where}`);
  const running = isRunning(state.master);
  if (!running) {
    await refuseForeignMaster(address, dir);
    const daemon = await start(run, "the master", programScript("master"), dir.log("master"), [
      where,
      "--data",
      dir.masterDir,
    ]);
    state.master = daemon.id;
    dir.save(state);
  }
  await until(run, masterLimitMs, "the master does not answer", dir.log("master"), () =>
    reach(address),
  );
  progress.done(`master          ${running ? "was up" : "is up"}  ${where}`);
}

/** True if a gfs master listens there. */
async function reach(address: Address): Promise<boolean> {
  try {
    const { connection } = await dialMaster(address);
    connection.close("only looking");
    return true;
  } catch (error) {
    if (error instanceof StatusError) return false;
    throw error;
  }
}

/** Before a master is started. What else may be in its way it finds out and says itself. */
async function refuseForeignMaster(address: Address, dir: ClusterDir): Promise<void> {
  if (!(await reach(address))) return;
  throw new UserError(
    `another gfs cluster, not that of ${dir.path}, is on ${formatAddress(address)}: ` +
      "give --listen another port",
  );
}

async function bringUpServers(run: Run, wanted: number): Promise<void> {
  const { dir, state, address, progress } = run;
  const before = new Set(await addressesUp(run));
  const fresh: number[] = [];
  for (let number = 1; number <= wanted; number += 1) {
    if (isRunning(state.servers[number - 1] ?? undefined)) continue;
    progress.step(`chunk server ${number}`);
    const what = `chunk server ${number}`;
    const log = dir.log(`chunk${number}`);
    const daemon = await start(run, what, programScript("chunkd"), log, [
      ...["--master", formatAddress(address)],
      ...["--data", dir.chunkDir(number)],
      ...["--listen", "127.0.0.1:0"],
      ...["--rack", `rack${number}`],
    ]);
    while (state.servers.length < number) state.servers.push(null);
    state.servers[number - 1] = daemon.id;
    dir.save(state);
    fresh.push(number);
  }
  progress.step(`${wanted} chunk servers register with the master`);
  // A server that was killed a moment ago may still count as up: wait for the new ones' addresses.
  await until(
    run,
    serversLimitMs,
    "not all chunk servers registered",
    dir.log("master"),
    async () => {
      const now = await addressesUp(run);
      const added = now.filter((one) => !before.has(one)).length;
      return now.length >= wanted && added >= fresh.length;
    },
  );
  for (let number = 1; number <= wanted; number += 1) {
    progress.done(`chunk server ${number}  ${fresh.includes(number) ? "is up" : "was up"}`);
  }
}

async function addressesUp({ address }: Run): Promise<string[]> {
  try {
    const { connection } = await dialMaster(address);
    try {
      const { servers } = await connection.call(listServers, {});
      return servers.filter(({ state }) => state === "up").map((server) => server.address);
    } finally {
      connection.close("only looking");
    }
  } catch (error) {
    if (error instanceof StatusError) return [];
    throw error;
  }
}

async function bringUpMount(
  run: Run,
  mountpoint: string,
  binding: string | undefined,
): Promise<void> {
  const { dir, state, address, progress } = run;
  progress.step(`mount on ${mountpoint}`);
  const known = state.mounts.find((mount) => mount.mountpoint === mountpoint);
  if (known && isRunning(known.process)) {
    if (mountAt(mountpoint)) {
      const answer = await probe(mountpoint, probeLimitMs);
      if (answer.state === "answers") return progress.done(`mount           was up  ${mountpoint}`);
      const why = `does not answer (${answer.why})`;
      throw new UserError(`the mount on ${mountpoint} ${why}: see ${dir.log(mountpoint)}`);
    }
    // Unmounted by hand: its process is about to end.
    if (!(await stopDaemon(known.process))) {
      throw new UserError(`the mount of ${mountpoint} (pid ${known.process.pid}) does not end`);
    }
  }
  const log = dir.log(mountpoint);
  const daemon = await start(run, "the mount", programScript("mount"), log, [
    mountpoint,
    ...["--master", formatAddress(address), "-f"],
    ...(binding === undefined ? [] : ["--binding", binding]),
  ]);
  state.mounts = state.mounts.filter((mount) => mount.mountpoint !== mountpoint);
  state.mounts.push({ mountpoint, process: daemon.id });
  dir.save(state);
  await until(run, mountLimitMs, `${mountpoint} does not answer`, log, async () => {
    if (!mountAt(mountpoint)?.type.startsWith("fuse")) return false;
    return (await probe(mountpoint, probeLimitMs)).state === "answers";
  });
  progress.done(`mount           is up  ${mountpoint}`);
}

/** Takes away what a dead mount left at `mountpoint`; refuses a living one that is not ours. */
async function clearMountpoint(mountpoint: string): Promise<void> {
  for (let entry = mountAt(mountpoint); entry; entry = mountAt(mountpoint)) {
    const answer = await probe(mountpoint, probeLimitMs);
    if (answer.state !== "dead" || !entry.type.startsWith("fuse")) {
      const what = `${entry.type} ${entry.source}`.trim();
      throw new UserError(`${mountpoint} is taken by another mount (${what}): choose another one`);
    }
    const failed = await unmount(mountpoint, { lazy: true, limitMs: probeLimitMs });
    if (failed) {
      throw new UserError(`cannot take the dead mount off ${mountpoint}: ${failed.why}`);
    }
  }
}

async function start(
  run: Run,
  what: string,
  script: string,
  log: string,
  args: readonly string[],
): Promise<Daemon> {
  if (!existsSync(script)) throw new UserError(`${script} is missing: run npm run build`);
  try {
    const daemon = await startDaemon({ what, script, args, log });
    run.started.push(daemon);
    return daemon;
  } catch (error) {
    throw new UserError(`cannot start ${what}: ${reasonOf(error)}`, { cause: error });
  }
}

/** Polls until `reached`; fails early when a daemon of this run ends, with its last words. */
async function until(
  run: Run,
  limitMs: number,
  otherwise: string,
  log: string,
  reached: () => Promise<boolean>,
): Promise<void> {
  const untilMs = systemClock.nowMs() + limitMs;
  for (;;) {
    const done = await reached();
    for (const daemon of run.started) {
      if (isRunning(daemon.id)) continue;
      const words = lastWords(daemon.log, daemon.logOffset).join(" | ") || "without a word";
      throw new UserError(`${daemon.what} ended: ${words} (log: ${daemon.log})`);
    }
    if (done) return;
    if (systemClock.nowMs() > untilMs) {
      throw new UserError(`${otherwise} after ${limitMs / 1000} s: see ${log}`);
    }
    await sleep(systemClock, pollMs);
  }
}

async function stopDaemon(id: Daemon["id"]): Promise<boolean> {
  signal(id, "SIGTERM");
  return waitForExit(id, probeLimitMs);
}

/** A failed `up` leaves running only what ran before. The last started goes first. */
async function stopStarted({ dir, state, started }: Run): Promise<void> {
  for (const daemon of started.toReversed()) await stopDaemon(daemon.id);
  if (started.length === 0) return;
  if (!isRunning(state.master)) delete state.master;
  state.servers = state.servers.map((id) => (isRunning(id ?? undefined) ? id : null));
  state.mounts = state.mounts.filter((mount) => isRunning(mount.process));
  dir.save(state);
}

function whatNext({ dir, state }: Run, mountpoint: string, data: string): string {
  const onData = path.resolve(data) === dataDirDefault ? "" : ` --data ${dir.path}`;
  const master = state.address === "127.0.0.1:9400" ? "" : ` --master ${state.address}`;
  return [
    `data and logs: ${dir.path}, ${path.join(dir.path, "log")}`,
    "",
    "try:",
    `  cp -r /etc/skel ${mountpoint}/home && ls -la ${mountpoint}/home`,
    `  mkdir ${mountpoint}/home/.snapshots/first     take a snapshot of a directory`,
    `  cp -r ${mountpoint}/home/.snapshots/first ${mountpoint}/restored`,
    `  gfs status${master}`,
    `  gfs down ${mountpoint}${onData}`,
    "",
  ].join("\n");
}
