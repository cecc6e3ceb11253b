import { existsSync, readdirSync, readlinkSync } from "node:fs";
import path from "node:path";
import type { CommandModule } from "yargs";
import { UserError } from "../common/program.ts";
import {
  ClusterDir,
  type ClusterState,
  type MountState,
  anyRunning,
  dataDirDefault,
} from "./cluster.ts";
import { holdersOf, mountAt, probe, unmount } from "./mounts.ts";
import { type ProcessId, isRunning, signal, waitForExit } from "./processes.ts";

/**
 * `gfs down`: unmounts, which sends what is unwritten, and only then stops the chunk servers and
 * the master. Nothing is stopped under a mount that is in use.
 */

/** What a mount has unwritten is bounded, and goes to disks of this machine. */
const unmountLimitMs = 60_000;
const exitLimitMs = 20_000;
const probeLimitMs = 3_000;
const holdersShown = 3;

interface DownOptions {
  mountpoint: string | undefined;
  data: string | undefined;
  lazy: boolean;
  force: boolean;
}

export const downCommand: CommandModule<object, DownOptions> = {
  command: "down [mountpoint]",
  describe: "unmount and stop a cluster of this machine; its data stays",
  builder: (yargs) =>
    yargs
      .positional("mountpoint", {
        type: "string",
        describe: "unmount this; the cluster stops with its last mount [all mounts]",
      })
      .option("data", {
        type: "string",
        requiresArg: true,
        describe: `the cluster's data directory [${dataDirDefault}]`,
      })
      .option("lazy", {
        type: "boolean",
        default: false,
        describe: "unmount even if in use: open files there fail from then on",
      })
      .option("force", {
        type: "boolean",
        default: false,
        describe: "kill what does not end by itself",
      }),
  handler: async (options) => down(options),
};

const say = (text: string): void => void process.stdout.write(`${text}\n`);

async function down(options: DownOptions): Promise<void> {
  const mountpoint = options.mountpoint && path.resolve(options.mountpoint);
  const dir = new ClusterDir(options.data ?? (mountpoint && dataOf(mountpoint)) ?? dataDirDefault);
  const state = dir.load();
  if (!state || !anythingUp(state)) {
    if (mountpoint && mountAt(mountpoint)) throw notOurs(mountpoint, dir);
    return say(`nothing is running of ${dir.path}`);
  }
  using _lock = dir.lock();
  const wanted = state.mounts.filter((mount) => !mountpoint || mount.mountpoint === mountpoint);
  if (mountpoint && wanted.length === 0) {
    throw notOurs(mountpoint, dir);
  }
  for (const mount of wanted) {
    await takeDown(mount, options);
    state.mounts = state.mounts.filter((other) => other !== mount);
    dir.save(state);
  }
  if (state.mounts.length > 0) {
    const left = state.mounts.map((mount) => mount.mountpoint).join(", ");
    return say(`the cluster stays up for ${left}`);
  }
  const servers = state.servers.filter((id) => id !== null);
  await stop("chunk server", servers, options.force);
  state.servers = state.servers.map(() => null);
  dir.save(state);
  await stop("master", state.master ? [state.master] : [], options.force);
  delete state.master;
  dir.save(state);
  say(`the cluster is down; its data is in ${dir.path}`);
}

function notOurs(mountpoint: string, dir: ClusterDir): UserError {
  return new UserError(
    `${mountpoint} is not a mount of the cluster in ${dir.path}: give the --data that it has`,
  );
}

function anythingUp(state: ClusterState): boolean {
  return (
    anyRunning(state) ||
    state.mounts.some(({ mountpoint }) => mountAt(mountpoint)?.type.startsWith("fuse"))
  );
}

/**
 * The data directory of the cluster that has `mountpoint`, from the programs that are running: the
 * standard error of each is DIR/log/….log.
 */
function dataOf(mountpoint: string): string | undefined {
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    const log = standardErrorOf(name);
    if (!log?.endsWith(".log") || path.basename(path.dirname(log)) !== "log") continue;
    const data = path.dirname(path.dirname(log));
    if (!existsSync(path.join(data, "cluster.json"))) continue;
    const state = new ClusterDir(data).load();
    if (state?.mounts.some((mount) => mount.mountpoint === mountpoint)) return data;
  }
  return undefined;
}

function standardErrorOf(pid: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/2`);
  } catch {
    return undefined; // It ended, or is another user's.
  }
}

/** Unmounts and waits for the mount's process to end. */
async function takeDown(mount: MountState, options: DownOptions): Promise<void> {
  const { mountpoint } = mount;
  if (mountAt(mountpoint)?.type.startsWith("fuse")) {
    const dead = !isRunning(mount.process) && (await probe(mountpoint, probeLimitMs)).state;
    const lazy = options.lazy || dead === "dead";
    // A mount that is not this cluster's any more is left alone.
    if (dead === false || dead === "dead") await unmountOrSay(mountpoint, lazy, options);
  }
  await stop("mount", [mount.process], options.force);
  say(`unmounted ${mountpoint}`);
}

async function unmountOrSay(
  mountpoint: string,
  lazy: boolean,
  options: DownOptions,
): Promise<void> {
  const failed = await unmount(mountpoint, { lazy, limitMs: unmountLimitMs });
  if (!failed) return;
  if (failed.busy) {
    const holders = holdersOf(mountpoint);
    const shown = holders
      .slice(0, holdersShown)
      .map(({ pid, command, holds }) => `${command} (pid ${pid}) holds ${holds}`);
    if (holders.length > holdersShown) shown.push(`and ${holders.length - holdersShown} more`);
    const by = shown.length > 0 ? `: ${shown.join(", ")}` : "";
    throw new UserError(`${mountpoint} is in use${by}. End it, or use --lazy`);
  }
  if (failed.hung && !options.force) {
    throw new UserError(
      `${mountpoint} could not be unmounted in ${unmountLimitMs / 1000} s, as if its servers ` +
        "were away: gfs up brings them back; --force gives up what is unwritten",
    );
  }
  if (failed.hung) {
    await unmount(mountpoint, { lazy: true, limitMs: unmountLimitMs });
    return;
  }
  throw new UserError(`cannot unmount ${mountpoint}: ${failed.why}`);
}

/** Asks processes to end and waits, bounded; kills them only with `force`. */
async function stop(what: string, ids: readonly ProcessId[], force: boolean): Promise<void> {
  const running = ids.filter((id) => isRunning(id));
  for (const id of running) signal(id, "SIGTERM");
  const ended = await Promise.all(running.map((id) => waitForExit(id, exitLimitMs)));
  const left = running.filter((_, i) => !ended[i]);
  if (left.length > 0 && !force) {
    const pids = left.map(({ pid }) => pid).join(", ");
    throw new UserError(
      `${what} ${pids} did not end in ${exitLimitMs / 1000} s: use --force to kill`,
    );
  }
  for (const id of left) signal(id, "SIGKILL");
  await Promise.all(left.map((id) => waitForExit(id, exitLimitMs)));
  if (running.length > 0 && what !== "mount") {
    say(`stopped ${running.length === 1 ? `the ${what}` : `${running.length} ${what}s`}`);
  }
}
