import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { waitsIn } from "../support/blocked.ts";

/** A process that makes system calls for a case: syscalls.py, typed. */

/** Python finds its own files there; the sources are not built. */
const helperPath = fileURLToPath(new URL("../../../test/posix/syscalls.py", import.meta.url));

/** A sequence of bytes, one character (U+0000 to U+00FF) each: file names and data. */
export type Bytes = string;
/** An open file, or a path that is relative to the case's directory. */
export type Place = number | Bytes;
/** Names of the system's flags, joined by "|". */
type Flags = string;
/** ns since 1970 in decimal, or what utimensat(2) has instead. */
type Time = "UTIME_NOW" | "UTIME_OMIT" | bigint;

/** The bytes of a text in UTF-8. */
export const utf8 = (text: string): Bytes => Buffer.from(text, "utf8").toString("latin1");

interface RawStat {
  kind: "file" | "directory" | "symlink" | "fifo" | "socket" | "char" | "block";
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  size: number;
  blocks: number;
  blksize: number;
  ino: number;
  dev: number;
  major: number;
  minor: number;
  atime: string;
  mtime: string;
  ctime: string;
}

/** struct stat: `mode` without the type; times in ns since 1970. */
export interface Stat extends Omit<RawStat, "atime" | "mtime" | "ctime"> {
  atime: bigint;
  mtime: bigint;
  ctime: bigint;
}

interface RecordLock {
  kind: "F_RDLCK" | "F_WRLCK" | "F_UNLCK";
  start: number;
  length: number;
  pid: number;
}

interface Statvfs {
  bsize: number;
  frsize: number;
  blocks: number;
  bfree: number;
  bavail: number;
  files: number;
  ffree: number;
  namemax: number;
}

interface Ran {
  code: number;
  out: Bytes;
  err: Bytes;
}

/** What a call came to in a child process: for those that may kill it. */
type Forked = { value: unknown } | { errno: string } | { signal: string };

/** [name, inode, type, offset] */
export type Dirent = [Bytes, number, number, string];

type Answer = { value: unknown } | { errno: string } | { fault: string };

/** A system call failed. `errno` is its name. */
export class SyscallError extends Error {
  readonly errno: string;

  constructor(call: string, errno: string) {
    super(`${call}: ${errno}`);
    this.name = "SyscallError";
    this.errno = errno;
  }
}

/** A process that runs syscalls.py. */
export class Helper {
  readonly #child: ChildProcess;
  readonly #waiting: { call: string; settle: (answer: Answer) => void }[] = [];
  readonly exited: Promise<void>;
  #running = true;

  constructor(directory: string) {
    const child = spawn("python3", ["-u", helperPath], {
      stdio: ["pipe", "pipe", "inherit"],
      cwd: directory,
    });
    this.#child = child;
    createInterface(child.stdout).on("line", (line) => {
      this.#waiting.shift()?.settle(JSON.parse(line) as Answer);
    });
    child.stdin.on("error", () => undefined); // It was killed; what waits is told below.
    this.exited = new Promise((resolve) => {
      const end = (): void => {
        this.#running = false;
        for (const { settle } of this.#waiting.splice(0)) settle({ fault: "the process ended" });
        resolve();
      };
      child.once("error", end).once("close", end);
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get running(): boolean {
    return this.#running;
  }

  signal(name: NodeJS.Signals): void {
    if (this.#running) this.#child.kill(name);
  }

  /** One call of syscalls.py. A `SyscallError` if the kernel refuses, an Error if it is wrong. */
  request<T>(call: string, ...args: readonly unknown[]): Promise<T> {
    const shown = `${call}(${args.map((arg) => shorten(arg)).join(", ")})`;
    return new Promise((resolve, reject) => {
      if (!this.#running) return reject(new Error(`${shown}: the process has ended`));
      const settle = (answer: Answer): void => {
        if ("errno" in answer) reject(new SyscallError(shown, answer.errno));
        else if ("fault" in answer) reject(new Error(`${shown}: ${answer.fault}`));
        else resolve(answer.value as T);
      };
      this.#waiting.push({ call: shown, settle });
      const write = (_: string, value: unknown): unknown =>
        typeof value === "bigint" ? String(value) : value;
      this.#child.stdin?.write(`${JSON.stringify([call, ...args], write)}\n`);
    });
  }
}

/** A helper as one case has it: in the case's directory, with credentials, until the case ends. */
export class Process {
  readonly helper: Helper;
  #left = false;

  constructor(helper: Helper) {
    this.helper = helper;
  }

  get pid(): number {
    return this.helper.pid;
  }

  signal(name: NodeJS.Signals): void {
    this.helper.signal(name);
  }

  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.helper.exited;
  }

  /** After this a case that is still at work reaches nothing: its paths lead elsewhere now. */
  leave(): Promise<null> {
    this.#left = true;
    return this.helper.request("leave");
  }

  /** Whether it waits in the system call of this name now: "fcntl" or "flock". */
  waitsIn(call: "fcntl" | "flock"): boolean {
    return waitsIn(this.pid, call);
  }

  /** A call that has no method of its own here. */
  request<T>(call: string, ...args: readonly unknown[]): Promise<T> {
    if (this.#left) return Promise.reject(new Error(`${call}: the case is over`));
    return this.helper.request(call, ...args);
  }

  // --- files ---

  open(path: Bytes, flags: Flags, mode = 0o666): Promise<number> {
    return this.request("open", path, flags, mode);
  }
  close(fd: number): Promise<null> {
    return this.request("close", fd);
  }
  async stat(place: Place): Promise<Stat> {
    return toStat(await this.request<RawStat>("stat", place));
  }
  async lstat(path: Bytes): Promise<Stat> {
    return toStat(await this.request<RawStat>("lstat", path));
  }
  read(fd: number, length: number): Promise<Bytes> {
    return this.request("read", fd, length);
  }
  pread(fd: number, length: number, offset: number): Promise<Bytes> {
    return this.request("pread", fd, length, offset);
  }
  write(fd: number, data: Bytes): Promise<number> {
    return this.request("write", fd, data);
  }
  pwrite(fd: number, data: Bytes, offset: number | bigint): Promise<number> {
    return this.request("pwrite", fd, data, offset);
  }
  lseek(fd: number, offset: number | bigint, whence: Flags): Promise<number> {
    return this.request("lseek", fd, offset, whence);
  }
  truncate(place: Place, size: number | bigint): Promise<null> {
    return this.request("truncate", place, size);
  }
  fsync(fd: number): Promise<null> {
    return this.request("fsync", fd);
  }

  /** Makes a file with these bytes, or replaces its bytes. */
  async put(path: Bytes, data: Bytes = "", mode = 0o666): Promise<void> {
    const fd = await this.open(path, "O_CREAT|O_TRUNC|O_WRONLY", mode);
    if (data !== "") await this.request("write_all", fd, data);
    await this.close(fd);
  }

  /** All bytes of a small file. */
  async get(path: Bytes): Promise<Bytes> {
    const fd = await this.open(path, "O_RDONLY");
    const data = await this.read(fd, 1 << 20);
    await this.close(fd);
    return data;
  }

  // --- names ---

  mkdir(path: Bytes, mode = 0o777): Promise<null> {
    return this.request("mkdir", path, mode);
  }
  rmdir(path: Bytes): Promise<null> {
    return this.request("rmdir", path);
  }
  unlink(path: Bytes): Promise<null> {
    return this.request("unlink", path);
  }
  /** With `flags` it is renameat2(2). */
  rename(source: Bytes, target: Bytes, flags?: Flags): Promise<null> {
    return this.request("rename", source, target, ...(flags === undefined ? [] : [flags]));
  }
  link(source: Bytes, target: Bytes, flags: Flags = ""): Promise<null> {
    return this.request("link", source, target, flags);
  }
  symlink(target: Bytes, path: Bytes): Promise<null> {
    return this.request("symlink", target, path);
  }
  readlink(path: Bytes): Promise<Bytes> {
    return this.request("readlink", path);
  }
  /** Names without "." and "..", sorted. */
  list(path: Bytes = "."): Promise<Bytes[]> {
    return this.request("list", path);
  }
  mknod(path: Bytes, kind: Flags, mode = 0o644, device = { major: 0, minor: 0 }): Promise<null> {
    return this.request("mknod", path, kind, mode, device.major, device.minor);
  }
  getdents(fd: number, bytes: number): Promise<Dirent[]> {
    return this.request("getdents", fd, bytes);
  }

  // --- attributes ---

  chmod(place: Place, mode: number): Promise<null> {
    return this.request("chmod", place, mode);
  }
  chown(place: Place, uid: number, gid: number): Promise<null> {
    return this.request("chown", place, uid, gid);
  }
  lchown(path: Bytes, uid: number, gid: number): Promise<null> {
    return this.request("lchown", path, uid, gid);
  }
  utimens(place: Place, atime: Time, mtime: Time, flags: Flags = ""): Promise<null> {
    return this.request("utimens", place, atime, mtime, flags);
  }
  /** faccessat(2) with AT_EACCESS. */
  access(path: Bytes, mode: Flags): Promise<null> {
    return this.request("access", path, mode);
  }
  umask(mask: number): Promise<number> {
    return this.request("umask", mask);
  }
  statvfs(place: Place): Promise<Statvfs> {
    return this.request("statvfs", place);
  }
  getxattr(place: Place, name: Bytes, nofollow = false): Promise<Bytes> {
    return this.request("getxattr", place, name, nofollow);
  }
  setxattr(place: Place, name: Bytes, value: Bytes, flags: Flags = ""): Promise<null> {
    return this.request("setxattr", place, name, value, flags);
  }
  listxattr(place: Place): Promise<Bytes[]> {
    return this.request("listxattr", place);
  }
  removexattr(place: Place, name: Bytes): Promise<null> {
    return this.request("removexattr", place, name);
  }

  // --- space ---

  fallocate(fd: number, mode: Flags, offset: number | bigint, length: number | bigint) {
    return this.request<number>("fallocate", fd, mode, offset, length);
  }
  /** An offset of null is the file's own. */
  copyFileRange(
    source: { fd: number; offset: number | null },
    target: { fd: number; offset: number | null },
    length: number,
    flags = 0,
  ): Promise<number> {
    const places = [source.fd, source.offset, target.fd, target.offset];
    return this.request("copy_file_range", ...places, length, flags);
  }

  // --- memory: an address as a string ---

  mmap(fd: number, length: number, protection: Flags, flags: Flags, offset = 0): Promise<string> {
    return this.request("mmap", fd, length, protection, flags, offset);
  }
  load(address: string, offset: number, length: number): Promise<Bytes> {
    return this.request("load", address, offset, length);
  }
  store(address: string, offset: number, data: Bytes): Promise<null> {
    return this.request("store", address, offset, data);
  }
  msync(address: string): Promise<number> {
    return this.request("msync", address);
  }
  munmap(address: string): Promise<number> {
    return this.request("munmap", address);
  }

  // --- locks ---

  flock(fd: number, operation: Flags): Promise<number> {
    return this.request("flock", fd, operation);
  }
  /** fcntl(2) with F_SETLK, F_SETLKW, F_GETLK or their F_OFD_ kin. A length of 0 is to the end. */
  lock(fd: number, command: Flags, kind: RecordLock["kind"], start = 0, length = 0) {
    return this.request<RecordLock>("lock", fd, command, kind, start, length);
  }

  // --- programs ---

  forked(call: string, ...args: readonly unknown[]): Promise<Forked> {
    return this.request("forked", [call, ...args]);
  }
  run(argv: readonly Bytes[], input: Bytes = ""): Promise<Ran> {
    return this.request("run", argv, input);
  }
}

function toStat(raw: RawStat): Stat {
  const { atime, mtime, ctime } = raw;
  return { ...raw, atime: BigInt(atime), mtime: BigInt(mtime), ctime: BigInt(ctime) };
}

function shorten(value: unknown): string {
  const text = typeof value === "bigint" ? String(value) : (JSON.stringify(value) ?? "undefined");
  return text.length > 60 ? `${text.slice(0, 40)}… (${text.length})` : text;
}
