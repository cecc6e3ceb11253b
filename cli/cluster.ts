import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type Address, formatAddress, masterAddressDefault } from "../common/address.ts";
import { UserError, addressFrom } from "../common/program.ts";
import { type ProcessId, isRunning, processId } from "./processes.ts";

/**
 * A local cluster is a directory:
 *
 *   cluster.json   its address and which processes were started for it
 *   cluster.lock   who is starting or stopping it
 *   master/        the master's data
 *   chunk1/ …      one directory per chunk server
 *   log/           one log per program, appended to
 */

export interface MountState {
  mountpoint: string;
  process: ProcessId;
}

export interface ClusterState {
  /** Of this file's form. */
  version: 1;
  address: string;
  master?: ProcessId;
  /** The chunk server of chunkN is at N - 1; null if it was never started or has been stopped. */
  servers: (ProcessId | null)[];
  mounts: MountState[];
}

export const dataDirDefault = path.join(
  process.env["XDG_DATA_HOME"] || path.join(os.homedir(), ".local", "share"),
  "gfs",
);
export const mountpointDefault = "/mnt/gfs";
export const serversDefault = 3;
/** Each is a process with its own data: past this, a mistyped number is more likely than a wish. */
export const serversMax = 64;

/** The programs of this build: `build/master/main.js` beside `build/cli/`. */
export function programScript(name: "master" | "chunkd" | "mount"): string {
  return fileURLToPath(new URL(`../${name}/main.js`, import.meta.url));
}

export class ClusterDir {
  readonly path: string;

  constructor(dir: string) {
    this.path = path.resolve(dir);
  }

  get masterDir(): string {
    return path.join(this.path, "master");
  }

  chunkDir(number: number): string {
    return path.join(this.path, `chunk${number}`);
  }

  /** `name` is "master", "chunk1" or a mount point. */
  log(name: string): string {
    const file = name.startsWith("/") ? `mount${name.replaceAll(/[^\w.-]+/g, "-")}` : name;
    return path.join(this.path, "log", `${file}.log`);
  }

  /** Makes the directories, or says why they cannot be made. */
  create(): void {
    try {
      mkdirSync(path.join(this.path, "log"), { recursive: true, mode: 0o750 });
    } catch (error) {
      throw new UserError(`cannot use ${this.path} for data: ${reasonOf(error)}`, { cause: error });
    }
  }

  /** How many chunk servers have left data here: all of them are needed to read it. */
  chunkDirs(): number {
    if (!existsSync(this.path)) return 0;
    const numbers = readdirSync(this.path).map((name) => /^chunk(\d+)$/.exec(name)?.[1] ?? "0");
    return Math.max(0, ...numbers.map(Number));
  }

  /** Undefined if there never was a cluster here. */
  load(): ClusterState | undefined {
    const file = path.join(this.path, "cluster.json");
    let text: string;
    try {
      text = readFileSync(file, "utf8");
    } catch (error) {
      if (errnoOf(error) === "ENOENT" || errnoOf(error) === "ENOTDIR") return undefined;
      throw new UserError(`cannot read ${file}: ${reasonOf(error)}`, { cause: error });
    }
    try {
      const state = JSON.parse(text) as ClusterState;
      if (state.version === 1 && Array.isArray(state.servers) && Array.isArray(state.mounts)) {
        return state;
      }
    } catch {
      // Falls through to the same message.
    }
    throw new UserError(`${file} is not of this release of gfs: move it away and try again`);
  }

  /** Replaces the state in one step, so that a crash leaves the old or the new one. */
  save(state: ClusterState): void {
    const file = path.join(this.path, "cluster.json");
    const staging = `${file}.new`;
    const fd = openSync(staging, "w", 0o640);
    try {
      writeSync(fd, `${JSON.stringify(state, undefined, 2)}\n`);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(staging, file);
  }

  /** As if there never had been a cluster; the data stays. */
  forget(): void {
    removeIfPresent(path.join(this.path, "cluster.json"));
  }

  /** Keeps a second `gfs up` or `gfs down` out; what a killed one left is taken over. */
  lock(): Disposable {
    const file = path.join(this.path, "cluster.lock");
    for (;;) {
      try {
        const fd = openSync(file, "wx", 0o640);
        writeSync(fd, JSON.stringify(processId(process.pid)));
        closeSync(fd);
        return { [Symbol.dispose]: () => removeIfPresent(file) };
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") {
          const why = `cannot write in ${this.path}: ${reasonOf(error)}`;
          throw new UserError(why, { cause: error });
        }
      }
      const holder = lockHolder(file);
      if (holder) {
        const who = `another gfs up or down (pid ${holder.pid})`;
        throw new UserError(`${who} is at work on ${this.path}: wait for it to end`);
      }
      removeIfPresent(file);
    }
  }
}

function lockHolder(file: string): ProcessId | undefined {
  try {
    const holder = JSON.parse(readFileSync(file, "utf8")) as ProcessId;
    return isRunning(holder) ? holder : undefined;
  } catch {
    return undefined;
  }
}

function removeIfPresent(file: string): void {
  try {
    unlinkSync(file);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}

/** A system error in the words that people know. */
export function reasonOf(error: unknown): string {
  const words: Record<string, string> = {
    EACCES: "permission denied",
    EPERM: "not permitted",
    EROFS: "the disk is read-only",
    ENOSPC: "no space left on the disk",
    ENOTDIR: "a part of the path is not a directory",
    EEXIST: "it exists and is not a directory",
  };
  return words[errnoOf(error) ?? ""] ?? (error instanceof Error ? error.message : String(error));
}

/**
 * The master's address: what was asked for by flag or GFS_MASTER, else what this cluster had
 * before, else the default. A cluster that runs keeps it: its programs look for it there.
 */
export function chooseAddress(
  asked: string | undefined,
  state: ClusterState | undefined,
  dir: ClusterDir,
): Address {
  const text = asked ?? process.env["GFS_MASTER"] ?? state?.address ?? masterAddressDefault;
  const address = addressFrom(text, asked === undefined ? "GFS_MASTER" : "--listen");
  const wanted = formatAddress(address);
  if (address.port === 0) throw new UserError(`--listen: give a port other than 0 in '${wanted}'`);
  if (state && state.address !== wanted && anyRunning(state)) {
    throw new UserError(
      `${dir.path} belongs to a cluster on ${state.address}, not ${wanted}: ` +
        `give --listen ${state.address}, or another --data`,
    );
  }
  return address;
}

/** True if any program of the cluster is running. */
export function anyRunning(state: ClusterState): boolean {
  const mounts = state.mounts.map((mount) => mount.process);
  return [state.master, ...state.servers, ...mounts].some((id) => isRunning(id ?? undefined));
}
