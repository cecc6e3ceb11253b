import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type Clock, sleep } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { UserError } from "../common/program.ts";
import { StatusError } from "../protocol/status.ts";
import type { Mounted } from "./fuse/filesystem.ts";
import type { StandardError } from "./fuse/standard-error.ts";

/**
 * The driver in the background: the program starts itself again, detached and in the foreground
 * mode, and waits on an IPC channel for one message about how the mount went. Nothing that the
 * parent was given is passed on but the log file, so a shell that waits for the parent's output is
 * not held up.
 */
const backgroundVariable = "GFS_MOUNT_BACKGROUND";

/** What the background process tells its parent, once. */
type Report = { mounted: true } | { failed: string };

/** The master is waited for a few seconds and the mount answers at once; more is a fault. */
const startMsMax = 60_000;
/** After a lazy unmount: how long processes that still have files open may go on using them. */
const lingerMs = 2_000;

/** The log file of a background driver unless --log names another. */
export function defaultLogFile(mountpoint: string): string {
  const name =
    path
      .resolve(mountpoint)
      .slice(1)
      .replaceAll(/[^A-Za-z0-9_.-]/g, "-") || "root";
  if (process.getuid?.() === 0) return `/var/log/gfs/mount-${name}.log`;
  const state = process.env["XDG_STATE_HOME"] ?? path.join(os.homedir(), ".local/state");
  return path.join(state, `gfs/mount-${name}.log`);
}

/** True in the process that `startInBackground` started. */
export function inBackground(): boolean {
  return process.env[backgroundVariable] === "1" && process.send !== undefined;
}

/**
 * Starts `program args` in the background and resolves when it has mounted. A `UserError` with its
 * one line (and what libfuse said) when it has not.
 */
export async function startInBackground(options: {
  program: string;
  args: readonly string[];
  logFile: string;
  clock: Clock;
}): Promise<void> {
  const { program, args, logFile, clock } = options;
  const log = openLog(logFile);
  const logStart = statSync(logFile).size;
  const child = spawn(process.execPath, [program, ...args], {
    detached: true,
    stdio: ["ignore", log, log, "ipc"],
    env: { ...process.env, [backgroundVariable]: "1" },
  });
  closeSync(log);
  const stop = (): void => void child.kill("SIGTERM");
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const failed = await new Promise<string | undefined>((resolve) => {
    child.once("message", (outcome: Report) =>
      resolve("mounted" in outcome ? undefined : outcome.failed),
    );
    child.once("error", (error) => resolve(error.message));
    child.once("exit", (code, signal) =>
      resolve(`the driver ended at its start: ${signal ?? code}`),
    );
    const slow = `not mounted after ${startMsMax / 1000} s; the driver goes on trying`;
    clock.timer(startMsMax, () => resolve(slow));
  });
  if (child.connected) child.disconnect();
  child.unref();
  if (failed !== undefined) throw new UserError(`${failed}${libfuseLines(logFile, logStart)}`);
}

/** Tells the parent, in the background, that it may leave; says nothing in the foreground. */
export async function reportMounted(): Promise<void> {
  await report({ mounted: true });
}

/**
 * Tells the parent, in the background, why there is no mount, and throws what `main` is to print in
 * the foreground: a failed operation is no bug, so it becomes one line for the user.
 */
export async function reportFailure(error: unknown): Promise<never> {
  const message = error instanceof Error ? error.message : String(error);
  const known = error instanceof UserError || error instanceof StatusError;
  await report({ failed: known ? message : `internal error: ${message}` });
  throw error instanceof StatusError ? new UserError(message) : error;
}

async function report(outcome: Report): Promise<void> {
  if (!inBackground()) return;
  await new Promise((resolve) => process.send?.(outcome, undefined, {}, resolve));
  if (process.connected) process.disconnect();
}

/**
 * Serves a mount until it is unmounted by anybody, or a signal asks to end: then it unmounts,
 * lazily if it is in use. `close` is what flushes and leaves the servers; it runs in every case,
 * once the kernel sends nothing more.
 */
export async function serveUntilUnmounted(options: {
  mounted: Mounted;
  mountpoint: string;
  /** From before the mount: a signal between the two would leave a dead mount. */
  terminated: Promise<NodeJS.Signals>;
  standardError: StandardError;
  close: () => Promise<void>;
  clock: Clock;
  log: Log;
}): Promise<void> {
  const { mounted, mountpoint, terminated, standardError, close, clock, log } = options;
  standardError.silence(); // The mount has succeeded: libfuse has no more to say that matters.
  const signal = await Promise.race([terminated, mounted.unmounted]);
  if (signal !== undefined) await unmountOnSignal({ mounted, mountpoint, clock, log });
  await close();
  log.event("mount.ended", { mountpoint, by: signal ?? "unmount" });
}

async function unmountOnSignal(options: {
  mounted: Mounted;
  mountpoint: string;
  clock: Clock;
  log: Log;
}): Promise<void> {
  const { mounted, mountpoint, clock, log } = options;
  try {
    await mounted.unmount({ lazy: false });
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    log.warn("mount.unmounting-lazily", { mountpoint, why: error.message, lingerMs });
    await mounted
      .unmount({ lazy: true })
      .catch((again: unknown) => log.error("mount.unmount-failed", { mountpoint, error: again }));
    await Promise.race([mounted.unmounted, sleep(clock, lingerMs)]);
  }
}

function openLog(logFile: string): number {
  try {
    mkdirSync(path.dirname(logFile), { recursive: true });
    return openSync(logFile, "a", 0o640);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new UserError(`log file ${logFile} cannot be written (${reason}); choose one with --log`);
  }
}

/** What was printed that is not a log event: libfuse and fusermount write their reasons there. */
function libfuseLines(logFile: string, start: number): string {
  const added = readFileSync(logFile).subarray(start).toString();
  const lines = added.split("\n").filter((line) => /^(fuse|fusermount3?|mount): /.test(line));
  return lines.length === 0 ? "" : ` (${lines.join("; ")})`;
}
