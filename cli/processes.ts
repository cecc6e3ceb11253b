import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync, fstatSync } from "node:fs";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";

/**
 * Daemons by pid and start time: a pid alone may by now be another program's, so nothing here
 * signals a process unless it was started at the very moment that was written down.
 */
export interface ProcessId {
  pid: number;
  /** Clock ticks since boot, field 22 of /proc/PID/stat. */
  startTicks: number;
  /** Ticks count from the boot, so they name a process only together with it. */
  bootId: string;
}

function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}

/** State and start time of a process, or undefined if there is none of this pid. */
function processStat(pid: number): { state: string; startTicks: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold anything, so count from the last one.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { state: fields[0] ?? "", startTicks: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

export function isRunning(id: ProcessId | undefined): id is ProcessId {
  if (!id || id.bootId !== bootId()) return false;
  const stat = processStat(id.pid);
  return stat !== undefined && stat.state !== "Z" && stat.startTicks === id.startTicks;
}

export function processId(pid: number): ProcessId | undefined {
  const stat = processStat(pid);
  return stat && { pid, startTicks: stat.startTicks, bootId: bootId() };
}

/** Sends a signal to that very process; false if it is gone. */
export function signal(id: ProcessId, name: NodeJS.Signals): boolean {
  if (!isRunning(id)) return false;
  try {
    process.kill(id.pid, name);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ESRCH") return false;
    throw error;
  }
}

/** Resolves with true when the process has ended, false after `limitMs`. */
export async function waitForExit(id: ProcessId, limitMs: number): Promise<boolean> {
  const untilMs = systemClock.nowMs() + limitMs;
  while (isRunning(id)) {
    if (systemClock.nowMs() >= untilMs) return false;
    await sleep(systemClock, 50);
  }
  return true;
}

/** A daemon that this run started. */
export interface Daemon {
  id: ProcessId;
  /** "the mount", "chunk server 2". */
  what: string;
  log: string;
  /** Where its part of the log begins: the log is appended to by every start. */
  logOffset: number;
}

/** Starts a program of ours that goes on when this one ends, its output appended to `log`. */
export async function startDaemon(options: {
  what: string;
  script: string;
  args: readonly string[];
  log: string;
}): Promise<Daemon> {
  const fd = openSync(options.log, "a", 0o640);
  try {
    const logOffset = fstatSync(fd).size;
    const child = spawn(process.execPath, [options.script, ...options.args], {
      detached: true,
      stdio: ["ignore", fd, fd],
      // Not in a directory that somebody may want to unmount or delete.
      cwd: "/",
    });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.unref();
    const pid = child.pid ?? 0;
    // Gone already: an id that matches nothing, so that whoever waits for it sees it end.
    const id = processId(pid) ?? { pid, startTicks: -1, bootId: bootId() };
    return { id, what: options.what, log: options.log, logOffset };
  } finally {
    closeSync(fd);
  }
}

const logTailBytes = 16 * 1024;

/** Why a daemon ended, out of its log: the last lines that say something, in plain words. */
export function lastWords(log: string, fromOffset: number, lines = 3): string[] {
  let text = "";
  try {
    const fd = openSync(log, "r");
    try {
      const start = Math.max(fromOffset, fstatSync(fd).size - logTailBytes);
      const buffer = Buffer.alloc(logTailBytes);
      text = buffer.toString("utf8", 0, readSync(fd, buffer, 0, logTailBytes, start));
    } finally {
      closeSync(fd);
    }
  } catch {
    return [];
  }
  const said = text.split("\n").filter((line) => line.trim() !== "" && !/^\s+at /.test(line));
  // `gfs-chunkd: reason` is the one line a program ends with (common/program.ts).
  const last = said.findLast((line) => /^gfs-\w+: /.test(line));
  if (last !== undefined) return [last.replace(/^gfs-\w+: /, "")];
  return said.slice(-lines).map(plainLogLine);
}

/** A JSON log line as `event: reason`; other lines as they are. */
function plainLogLine(line: string): string {
  try {
    const parsed: unknown = JSON.parse(line);
    if (typeof parsed !== "object" || parsed === null || !("msg" in parsed)) return line;
    const { msg, ...facts } = parsed as Record<string, unknown>;
    const error = facts["error"];
    const why =
      typeof error === "object" && error !== null && "message" in error
        ? String(error.message)
        : Object.entries(facts)
            .filter(([key]) => !["level", "time", "program", "pid"].includes(key))
            .map(([key, value]) => `${key} ${JSON.stringify(value)}`)
            .join(", ");
    return why ? `${String(msg)}: ${why}` : String(msg);
  } catch {
    return line;
  }
}
