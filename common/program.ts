/** What every program's main shares: usage errors in one line, exit codes, signals. */

import { type Address, parseAddress } from "./address.ts";

/** Something the user can mend: printed as one line; exit code 1 unless the command has another. */
export class UserError extends Error {
  override readonly name = "UserError";
  readonly exitCode: number;

  constructor(message: string, options: { cause?: unknown; exitCode?: number } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.exitCode = options.exitCode ?? 1;
  }
}

/**
 * What yargs has to say of a wrong command line, as one line that ends with the way to more. What
 * is no matter of the command line is thrown as it is.
 */
export function usageError(
  program: string,
  message: string | null,
  error?: Error,
  exitCode = 1,
): Error {
  if (error && error.name !== "YError") return error;
  const why = (message ?? error?.message ?? "wrong usage").trim().replaceAll(/\s*\n\s*/g, " ");
  return new UserError(`${why} (see ${program} --help)`, { exitCode });
}

/** Parses HOST:PORT from a flag or the environment; a `UserError` names where it came from. */
export function addressFrom(text: string, from: string): Address {
  const address = parseAddress(text);
  if (typeof address === "string") throw new UserError(`${from}: ${address}`);
  return address;
}

/**
 * Runs a program's `main`; ends the process with 0, 1 (user error) or 70 (a bug, EX_SOFTWARE):
 * whatever is thrown that is not for the user.
 */
export async function runMain(program: string, main: () => Promise<void>): Promise<void> {
  const fail = (error: unknown): never => {
    if (error instanceof UserError) {
      process.stderr.write(`${program}: ${error.message}\n`);
      process.exit(error.exitCode);
    }
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    process.stderr.write(`${program}: internal error: ${text}\n`);
    process.exit(70);
  };
  // A full disk that has the log is no reason to end, whatever wants to say something there.
  process.stderr.on("error", () => undefined);
  process.on("uncaughtException", fail);
  process.on("unhandledRejection", fail);
  try {
    await main();
  } catch (error) {
    fail(error);
  }
}

/** Resolves with the first of SIGTERM, SIGINT or SIGHUP that arrives. A second one ends at once. */
export function terminationSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    let first = true;
    for (const name of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
      process.on(name, () => {
        if (!first && name !== "SIGHUP") process.exit(130);
        first = false;
        resolve(name);
      });
    }
  });
}
