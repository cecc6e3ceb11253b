import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Clock } from "../../common/clock.ts";
import { UserError } from "../../common/program.ts";
import { StatusError } from "../../protocol/status.ts";
import { runCommand } from "./command.ts";
import { mountAt, readMountTable } from "./mount-table.ts";

/**
 * A directory that answers does so at once; a hung mount never does. Most of this is for the start
 * of the process that asks, on a busy machine.
 */
const probeMsMax = 30_000;
/** umount(8) of a mount in use answers at once; one with much to write back takes its time. */
const unmountMsMax = 60_000;

interface Mountpoint {
  /** Absolute, without symlinks: as it will stand in /proc/self/mountinfo. */
  path: string;
  nonEmpty: boolean;
  /** A dead driver's mount was there and has been taken away. */
  deadRemoved: boolean;
}

/**
 * Checks a mount point before mounting, and throws a `UserError` of one line for what is wrong with
 * it. What a dead driver left mounted there is taken away first. Never blocks on a hung mount.
 */
export async function prepareMountpoint(given: string, clock: Clock): Promise<Mountpoint> {
  const absolute = path.resolve(given);
  let probe = await probeDirectory(absolute, clock);
  const deadRemoved = probe.code === "ENOTCONN" && (await removeDeadMount(absolute, clock));
  if (deadRemoved) probe = await probeDirectory(absolute, clock);
  if (probe.code !== undefined) throw new UserError(refusal(given, probe.code));
  const there = mountAt(await readMountTable(), probe.path);
  if (there)
    throw new UserError(`${given}: already a mount point (${there.type}); unmount it first`);
  if (!probe.directory) throw new UserError(`${given}: not a directory`);
  return { path: probe.path, nonEmpty: probe.nonEmpty, deadRemoved };
}

/** Says early, and in one line, what fusermount would say too late or with a libfuse's words. */
export async function checkAllowOther(): Promise<void> {
  if (process.getuid?.() === 0) return;
  const configuration = await readFile("/etc/fuse.conf", "utf8").catch(() => "");
  if (!/^\s*user_allow_other\s*$/m.test(configuration))
    throw new UserError("allow_other needs root, or user_allow_other in /etc/fuse.conf");
}

/** Unmounts from outside, as anybody could. `busy` while it is in use, unless `lazy`. */
export async function unmountDirectory(
  mountpoint: string,
  { lazy, clock }: { lazy: boolean; clock: Clock },
): Promise<void> {
  const limits = { clock, limitMs: unmountMsMax };
  const root = process.getuid?.() === 0;
  let errors = "";
  for (const program of root ? ["umount"] : ["fusermount3", "fusermount"]) {
    const flags = root ? (lazy ? ["-l"] : []) : lazy ? ["-u", "-z"] : ["-u"];
    const result = await runCommand([program, ...flags, mountpoint], limits);
    if (result.exitCode === 0) return;
    if (!mountAt(await readMountTable(), mountpoint)) return; // Somebody else was faster.
    if (result.timedOut) throw new StatusError("deadline", `${program} ${mountpoint} hangs`);
    errors = result.errors.trim().split("\n")[0] ?? "";
    if (!result.missing) break;
  }
  throw new StatusError(/busy/i.test(errors) ? "busy" : "io-error", errors || "umount failed");
}

interface Probe {
  path: string;
  directory: boolean;
  nonEmpty: boolean;
  /** Why it cannot be used: an errno's name, `ETIMEDOUT` when there was no answer. */
  code?: string;
}

/** Runs in the child: prints what it found as JSON. */
const probeScript = `
  const fs = require("fs");
  const probe = { path: process.argv[1], directory: false, nonEmpty: false };
  try {
    probe.path = fs.realpathSync(process.argv[1]);
    probe.directory = fs.statSync(probe.path).isDirectory();
    if (probe.directory) probe.nonEmpty = fs.readdirSync(probe.path).length > 0;
  } catch (error) {
    probe.code = error.code;
  }
  process.stdout.write(JSON.stringify(probe));
`;

async function probeDirectory(absolute: string, clock: Clock): Promise<Probe> {
  const none = { path: absolute, directory: false, nonEmpty: false };
  const result = await runCommand([process.execPath, "-e", probeScript, absolute], {
    clock,
    limitMs: probeMsMax,
  });
  if (result.timedOut) return { ...none, code: "ETIMEDOUT" };
  if (result.exitCode !== 0) return { ...none, code: "EIO" };
  return JSON.parse(result.output) as Probe;
}

/** True when there was a dead FUSE mount at exactly this place, and it is gone now. */
async function removeDeadMount(absolute: string, clock: Clock): Promise<boolean> {
  const there = mountAt(await readMountTable(), absolute);
  if (!there?.type.startsWith("fuse")) return false;
  await unmountDirectory(absolute, { lazy: true, clock });
  return true;
}

function refusal(given: string, code: string): string {
  switch (code) {
    case "ENOENT":
      return `${given}: no such directory`;
    case "ENOTDIR":
      return `${given}: not a directory`;
    case "EACCES":
      return `${given}: permission denied`;
    case "ENOTCONN":
      return `${given}: lies under a mount whose driver died; unmount that one first`;
    case "ETIMEDOUT":
      return `${given}: does not answer within ${probeMsMax / 1000} s (a mount that hangs?)`;
    default:
      return `${given}: ${code}`;
  }
}
