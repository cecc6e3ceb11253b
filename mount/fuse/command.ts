import { spawn } from "node:child_process";
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

/**
 * Runs a program in a child process with a time limit. Whatever may block on a mount must run so: a
 * system call on a hung mount would hang this process, on one's own mount it would wait for itself.
 */
export function runCommand(
  command: readonly [string, ...string[]],
  { clock, limitMs }: { clock: Clock; limitMs: number },
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
    const env = { ...process.env, LC_ALL: "C" };
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"], cwd: "/", env });
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
