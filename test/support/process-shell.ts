import { spawn } from "node:child_process";

/**
 * Commands of the shell in a process of their own, with a time limit: a mount that hangs then costs
 * a test, not the whole run. The test's own process never touches a mount.
 */

export interface ShellResult {
  /** 0, another exit status, or the name of the signal that ended it. */
  code: number | NodeJS.Signals;
  out: string;
  err: string;
  timedOut: boolean;
  ms: number;
}

/** Most commands end within a second; on a busy machine, many seconds. */
const shellMsDefault = 60_000;
/** How long a killed command may take to be gone: one that hangs in the kernel never is. */
const killMs = 3_000;
/** What is kept of each stream: a listing of 10,000 names fits. */
const outputCharsMax = 8 * 1024 * 1024;

export interface ShellOptions {
  timeoutMs?: number;
  env?: Record<string, string>;
}

export interface ShellRun {
  readonly pid: number;
  readonly done: Promise<ShellResult>;
}

/** Starts `command` in bash, which ends at the first failure, also inside a pipe. */
export function startShell(command: string, options: ShellOptions = {}): ShellRun {
  const startedMs = performance.now();
  const child = spawn("bash", ["-euo", "pipefail", "-c", command], {
    cwd: "/",
    detached: true, // A group of its own, so that the time limit reaches all of it.
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, LC_ALL: "C.UTF-8", ...options.env },
  });
  const output = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => keep(output, "out", text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => keep(output, "err", text));
  const done = new Promise<ShellResult>((resolve, reject) => {
    let timedOut = false;
    const settle = (code: number | NodeJS.Signals): void => {
      clearTimeout(limit);
      const ms = Math.round(performance.now() - startedMs);
      resolve({ code, ...output, timedOut, ms });
    };
    const limit = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid);
      setTimeout(() => settle("SIGKILL"), killMs).unref();
    }, options.timeoutMs ?? shellMsDefault);
    child.once("error", reject);
    child.once("close", (code, signal) => settle(code ?? signal ?? "SIGKILL"));
  });
  return { pid: child.pid ?? 0, done };
}

export function shell(command: string, options: ShellOptions = {}): Promise<ShellResult> {
  return startShell(command, options).done;
}

/** As `shell`, but a failure is thrown. Returns what was printed, less the last newline. */
export async function shellOk(command: string, options: ShellOptions = {}): Promise<string> {
  const result = await shell(command, options);
  if (result.code !== 0 || result.timedOut) throw new Error(describe(command, result));
  return result.out.replace(/\n$/, "");
}

/** One argument of a command, whatever is in it. */
export const quote = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

export function describe(command: string, result: ShellResult): string {
  const how = result.timedOut ? `did not end in ${result.ms} ms` : `ended with ${result.code}`;
  const said = `${result.err.slice(-2_000)}\n${result.out.slice(-2_000)}`;
  return `${how}: ${command.slice(0, 1_000)}\n${said.trim()}`;
}

function keep(output: { out: string; err: string }, key: "out" | "err", text: string): void {
  if (output[key].length < outputCharsMax) output[key] += text;
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}
