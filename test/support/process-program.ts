import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** One program of a cluster under test: its process, its log, and what signals are sent to it. */

export type ProgramName = "master" | "chunkd" | "mount" | "cli";

export function programPath(name: ProgramName): string {
  return fileURLToPath(new URL(`../../${name}/main.js`, import.meta.url));
}

/** Lines of a log that are shown when a test fails. */
const logLinesShown = 40;

export class Program {
  /** For messages: "master", "chunkd 2", "mount 1". */
  readonly title: string;
  readonly logFile: string;
  readonly #script: string;
  #args: readonly string[];
  #child: ChildProcess | undefined;
  #exited: Promise<number | NodeJS.Signals> = Promise.resolve(0);
  #peakKiB = 0;

  constructor(options: {
    title: string;
    name: ProgramName;
    args: readonly string[];
    logFile: string;
  }) {
    this.title = options.title;
    this.logFile = options.logFile;
    this.#script = programPath(options.name);
    this.#args = options.args;
  }

  get pid(): number {
    const pid = this.#child?.pid;
    if (pid === undefined) throw new Error(`${this.title} has not been started`);
    return pid;
  }

  get running(): boolean {
    return this.#child !== undefined && !hasEnded(this.#child);
  }

  /** Settles with the exit status, or the signal that ended it. */
  get exited(): Promise<number | NodeJS.Signals> {
    return this.#exited;
  }

  /** Starts it, or starts it again as it was. */
  start(args: readonly string[] = this.#args): void {
    if (this.running) throw new Error(`${this.title} is running`);
    this.#args = args;
    const log = openSync(this.logFile, "a");
    const child = spawn(process.execPath, [this.#script, ...args], {
      stdio: ["ignore", log, log],
      cwd: "/",
    });
    closeSync(log);
    this.#child = child;
    started.add(child);
    this.#exited = new Promise((resolve) => {
      child.once("exit", (code, signal) => {
        started.delete(child);
        resolve(code ?? signal ?? 0);
      });
    });
  }

  /** Sends a signal to this process, and to no other. */
  signal(name: NodeJS.Signals): void {
    this.notePeak();
    if (this.running) this.#child?.kill(name);
  }

  /** kill -9, and waits until it is gone. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.#exited;
  }

  /** SIGTERM, and waits for it. Resolves with its exit status. */
  async stop(): Promise<number | NodeJS.Signals> {
    this.signal("SIGTERM");
    return this.#exited;
  }

  /** The most memory it has ever had resident (VmHWM), over all its runs. */
  peakMiB(): number {
    this.notePeak();
    return Math.round(this.#peakKiB / 1024);
  }

  log(): string {
    try {
      return readFileSync(this.logFile, "utf8");
    } catch {
      return "";
    }
  }

  logTail(): string {
    return this.log().trimEnd().split("\n").slice(-logLinesShown).join("\n");
  }

  async lastWords(): Promise<string> {
    return `${this.title} ended with ${await this.#exited}; its log ends with\n${this.logTail()}`;
  }

  notePeak(): void {
    if (!this.running) return;
    try {
      const text = readFileSync(`/proc/${this.pid}/status`, "utf8");
      const peak = Number(/^VmHWM:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
      this.#peakKiB = Math.max(this.#peakKiB, peak);
    } catch {
      // It has just ended.
    }
  }
}

/** Programs that run now, of all clusters of this test process. */
const started = new Set<ChildProcess>();

/** For the end of the test process, however it comes: nothing that it started stays. */
export function killStarted(): void {
  for (const child of started) child.kill("SIGKILL");
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}
