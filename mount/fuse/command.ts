import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import type { Clock } from "../../common/clock.ts";

export interface CommandResult {
  /** Undefined when it was killed or could not be started. */
  exitCode: number | undefined;
  output: string;
  errors: string;
  /** It did not end in time. It was killed, but may still hang in the kernel. */
  timedOut: boolean;
  /** The program is not there. */
  missing: boolean;
}

interface CommandOptions {
  clock: Clock;
  limitMs: number;
  /** A descriptor that the program gets as its number 3. */
  descriptor?: number;
  environment?: Readonly<Record<string, string>>;
}

/**
 * Runs a program in a child process with a time limit. Whatever may block on a mount must run so: a
 * system call on a hung mount would hang this process, on one's own mount it would wait for itself.
 */
export function runCommand(
  command: readonly [string, ...string[]],
  { clock, limitMs, descriptor, environment }: CommandOptions,
): Promise<CommandResult> {
  return new Promise((resolve) => {
    const [program, ...args] = command;
    const result: CommandResult = {
      exitCode: undefined,
      output: "",
      errors: "",
      timedOut: false,
      missing: false,
    };
    const env = { ...process.env, LC_ALL: "C", ...environment };
    const further = descriptor === undefined ? [] : [descriptor];
    const child = spawn(program, args, {
      stdio: ["ignore", "pipe", "pipe", ...further],
      cwd: "/",
      env,
    }) as ChildProcessByStdio<null, Readable, Readable>;
    child.stdout.setEncoding("utf8").on("data", (text: string) => (result.output += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (result.errors += text));
    const timer = clock.timer(limitMs, () => {
      result.timedOut = true;
      child.kill("SIGKILL");
      // A child that hangs in the kernel dies later, or never: nothing here waits for it.
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      resolve(result);
    });
    child.once("error", (error: NodeJS.ErrnoException) => {
      timer.cancel();
      resolve({ ...result, missing: error.code === "ENOENT", errors: error.message });
    });
    child.once("close", (code) => {
      timer.cancel();
      resolve({ ...result, exitCode: code ?? undefined });
    });
  });
}
