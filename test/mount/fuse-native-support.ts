/** Mounts for tests: served by a child process, touched only by further child processes. */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type t from "tap";
import { must } from "../../common/assert.ts";
import { type Case, cases } from "./fuse-native-cases.ts";

/** Everything here answers within milliseconds; this long means that it hangs. */
const limitMs = 30_000;

export const driverPath = fileURLToPath(new URL("fuse-native-driver.js", import.meta.url));

interface Outcome {
  code: number | string | undefined;
  output: string;
  errors: string;
}

/** What a test needs of tap's test object. */
export interface Test {
  teardown(work: () => Promise<void>): unknown;
}

/** Runs a program with a time limit; never throws. */
export function run(program: string, args: readonly string[], cwd = "/"): Promise<Outcome> {
  const options = { cwd, timeout: limitMs, killSignal: "SIGKILL", maxBuffer: 1 << 24 } as const;
  return new Promise((resolve) => {
    execFile(program, args, options, (error, output, errors) => {
      const code = error === null ? 0 : (error.code ?? error.signal ?? "failed");
      resolve({ code, output, errors });
    });
  });
}

/** Runs a script of bash; stops at its first error. */
export const bash = (script: string, cwd?: string): Promise<Outcome> =>
  run("bash", ["-euo", "pipefail", "-c", script], cwd);

interface DriverState {
  state: string;
  references: number;
  openFiles: number;
  inodes: number;
  readBytesMax: number;
  writeBytesMax: number;
}

export class TestMount {
  readonly directory: string;
  readonly child: ChildProcess;
  readonly exited: Promise<number | NodeJS.Signals | null>;
  readonly #states: AsyncIterator<string>;
  readonly #log: string;

  /** Its log goes to a file beside the mount point, as it does in the background. */
  constructor(directory: string, extra: readonly string[]) {
    this.directory = directory;
    this.#log = `${directory}.log`;
    const log = openSync(this.#log, "a");
    const child = spawn(process.execPath, [driverPath, directory, ...extra], {
      stdio: ["ignore", "pipe", log],
    });
    closeSync(log);
    this.child = child;
    this.exited = new Promise((resolve) => {
      child.once("exit", (code, signal) => resolve(code ?? signal));
    });
    this.#states = createInterface(must(child.stdout, "pipe"))[Symbol.asyncIterator]();
  }

  get errors(): string {
    return readFileSync(this.#log, "utf8");
  }

  /** The next state that the driver tells; it tells "mounted" first. */
  async state(): Promise<DriverState> {
    const { done, value } = await this.#states.next();
    if (done) throw new Error(`the driver ended: ${this.errors}`);
    return JSON.parse(value) as DriverState;
  }

  async ask(): Promise<DriverState> {
    this.child.kill("SIGUSR2");
    return this.state();
  }

  async end(): Promise<void> {
    await run("umount", ["-l", this.directory]);
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/**
 * A fresh directory; after the test, whatever is mounted on its sub-directory `m` is gone with it.
 */
export async function temporaryDirectory(test: Test): Promise<string> {
  const directory = await realpath(await mkdtemp(path.join(tmpdir(), "gfs-native-")));
  test.teardown(async () => {
    await run("umount", ["-l", path.join(directory, "m")]);
    await rm(directory, { recursive: true, force: true });
  });
  return directory;
}

/** Mounts an in-memory filesystem for the length of a test. */
export async function mountMemory(
  test: Test,
  directory: string,
  extra: readonly string[] = [],
): Promise<TestMount> {
  const mount = new TestMount(directory, extra);
  test.teardown(() => mount.end());
  await mount.state();
  return mount;
}

const nodeHead = `const fs = require("node:fs"), assert = require("node:assert");`;

/** Runs a script of the list in a directory. */
export function runCase({ program = "bash", script }: Case, directory: string) {
  if (program === "node") return run(process.execPath, ["-e", nodeHead + script], directory);
  if (program === "python3") return run("python3", ["-c", script], directory);
  return bash(script, directory);
}

const python = (await run("python3", ["--version"])).code === 0;

/** Runs the whole list, each case in a directory of its own. */
export async function runCases(test: typeof t, root: string): Promise<void> {
  for (const [index, one] of cases.entries()) {
    const skip = one.program === "python3" && !python ? "python3 is not installed" : false;
    await test.test(one.name, { skip }, async (tt) => {
      const directory = path.join(root, `case-${index}`);
      await bash(`mkdir ${directory}`);
      const { code, errors } = await runCase(one, directory);
      tt.equal(code, 0, `the script ends well\n${errors}`);
    });
  }
}
