import {
  type DirectoryLock,
  type Disk,
  type DiskSpace,
  errnoName,
  type OpenFile,
  type OpenMode,
} from "../../common/disk.ts";
import type { Random } from "./random.ts";
import type { Life } from "./world.ts";

/**
 * One server's disk, across its lives. It tells what the page cache has from what is durable, for
 * each file's bytes and length, and for names. A loss of power keeps, of what was not synced, any
 * sectors and the first few changes of names (a journaling filesystem carries those out in order).
 */

const sectorBytes = 512;

/** An inode: it lives on while it is open or named, in memory or on the disk. */
class StoredFile {
  bytes = Buffer.alloc(0);
  durable = Buffer.alloc(0);

  write(bytes: Buffer, position: number): void {
    const end = position + bytes.length;
    if (end > this.bytes.length) this.resize(end);
    bytes.copy(this.bytes, position);
  }

  resize(length: number): void {
    if (length <= this.bytes.length) {
      this.bytes = Buffer.from(this.bytes.subarray(0, length));
    } else {
      const grown = Buffer.alloc(length);
      this.bytes.copy(grown);
      this.bytes = grown;
    }
  }

  sync(): void {
    if (!this.bytes.equals(this.durable)) this.durable = Buffer.from(this.bytes);
  }

  losePower(random: Random): void {
    const { bytes, durable } = this;
    if (bytes.equals(durable)) return;
    // The new length may be there without the new bytes: then there are zeros.
    const length = random.chance(0.5) ? bytes.length : durable.length;
    const left = Buffer.alloc(length);
    const written = random.next();
    for (let at = 0; at < length; at += sectorBytes) {
      const from = random.chance(written) && at < bytes.length ? bytes : durable;
      from.subarray(at, Math.min(at + sectorBytes, length)).copy(left, at);
    }
    this.bytes = left;
    this.durable = Buffer.from(left);
  }
}

interface NameChange {
  /** Directories whose names change. */
  directories: readonly string[];
  apply(names: Map<string, StoredFile>): void;
}

/** What a step shall fail with, if it shall fail. */
type FailStep = (site: string, isWrite: boolean) => string | undefined;

export class SimDisk {
  totalBytes = 1 << 30;
  freeBytes = 1 << 29;
  /** Mean time of a step. */
  stepMs = 0.05;
  fail: FailStep = () => undefined;
  /** Called when a step has been carried out, before anybody is told: the process may end here. */
  atStep: (site: string) => void = () => undefined;
  readonly #random: Random;
  #names = new Map<string, StoredFile>();
  #durableNames = new Map<string, StoredFile>();
  #changes: NameChange[] = [];
  readonly #directories = new Set<string>();
  /** Steps that are under way: they may be carried out although the process has ended. */
  readonly #pending = new Set<() => unknown>();
  #locked: Life | undefined;

  constructor(random: Random) {
    this.#random = random;
  }

  openFor(life: Life): Disk {
    return new LivingDisk(this, life);
  }

  /** The process has ended, or the machine has no power any more. */
  end(how: "kill" | "power"): void {
    const pending = [...this.#pending];
    this.#pending.clear();
    for (const step of pending) {
      try {
        if (this.#random.chance(0.5)) step();
      } catch (error) {
        if (errnoName(error) === undefined) throw error; // Else it would have failed.
      }
    }
    this.#locked = undefined;
    if (how === "kill") return;
    this.#makeDurable(this.#random.between(0, this.#changes.length));
    this.#changes = [];
    this.#names = new Map(this.#durableNames);
    for (const file of new Set(this.#names.values())) file.losePower(this.#random);
  }

  /** Turns one bit of a file, on the disk and in memory. False if there is none. */
  flip(path: string, range?: { first: number; end: number }): boolean {
    const file = this.#names.get(path);
    const { first = 0, end = Infinity } = range ?? {};
    const length = Math.min(end, file?.bytes.length ?? 0) - first;
    if (!file || length <= 0) return false;
    const at = first + this.#random.below(length);
    const bit = 1 << this.#random.below(8);
    for (const bytes of [file.bytes, file.durable]) {
      if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ bit;
    }
    return true;
  }

  /** What a reader finds, past all faults. */
  peek(path: string): Buffer | undefined {
    return this.#names.get(path)?.bytes;
  }

  paths(under: string): string[] {
    return [...this.#names.keys()].filter((path) => path.startsWith(under));
  }

  // Steps

  /**
   * Carries out `work` a moment later, as one step, unless it fails or the process ends: then it
   * may be carried out all the same, or as far as `inPart` says.
   */
  step<T>(
    life: Life,
    site: string,
    work: () => T,
    { isWrite = true, inPart }: { isWrite?: boolean; inPart?: () => void } = {},
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const late = inPart && this.#random.chance(0.5) ? inPart : work;
      if (isWrite) this.#pending.add(late);
      life.after(this.#random.about(this.stepMs), () => {
        this.#pending.delete(late);
        const code = this.fail(site, isWrite);
        if (code) return reject(Object.assign(new Error(`${code} at ${site}`), { code }));
        try {
          const result = work();
          this.atStep(site);
          if (!life.ended) resolve(result);
        } catch (error) {
          reject(error instanceof Error ? error : new Error(String(error)));
        }
      });
    });
  }

  lock(life: Life): DirectoryLock | undefined {
    if (this.#locked && !this.#locked.ended) return undefined;
    this.#locked = life;
    return {
      release: () => {
        if (this.#locked === life) this.#locked = undefined;
        return Promise.resolve();
      },
    };
  }

  // Names

  find(path: string): StoredFile | undefined {
    return this.#names.get(path);
  }

  makeDirectory(path: string): void {
    for (let at = path; at !== "" && !this.#directories.has(at); at = directoryOf(at)) {
      this.#directories.add(at);
    }
  }

  list(path: string): string[] | undefined {
    if (!this.#directories.has(path)) return undefined;
    const own = `${path}/`;
    const paths = [...this.#directories, ...this.#names.keys()];
    return paths
      .filter((name) => name.startsWith(own) && !name.slice(own.length).includes("/"))
      .map((name) => name.slice(own.length));
  }

  create(path: string): StoredFile {
    const file = new StoredFile();
    this.#change([directoryOf(path)], (names) => names.set(path, file));
    return file;
  }

  rename(source: string, target: string): void {
    const file = this.#names.get(source);
    if (!file) throw missing(source);
    this.#change([directoryOf(source), directoryOf(target)], (names) => {
      names.delete(source);
      names.set(target, file);
    });
  }

  remove(path: string): boolean {
    if (!this.#names.has(path)) return false;
    this.#change([directoryOf(path)], (names) => names.delete(path));
    return true;
  }

  syncDirectory(path: string): void {
    const last = this.#changes.findLastIndex(({ directories }) => directories.includes(path));
    this.#makeDurable(last + 1);
  }

  #change(directories: string[], apply: (names: Map<string, StoredFile>) => void): void {
    apply(this.#names);
    this.#changes.push({ directories, apply });
  }

  #makeDurable(count: number): void {
    for (const { apply } of this.#changes.splice(0, count)) apply(this.#durableNames);
  }
}

function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/"));
}

function missing(path: string): Error {
  return Object.assign(new Error(`ENOENT: ${path}`), { code: "ENOENT" });
}

/** The disk as one life of the program sees it. */
class LivingDisk implements Disk {
  readonly #disk: SimDisk;
  readonly #life: Life;

  constructor(disk: SimDisk, life: Life) {
    this.#disk = disk;
    this.#life = life;
  }

  #write<T>(site: string, work: () => T): Promise<T> {
    return this.#disk.step(this.#life, site, work);
  }

  #read<T>(site: string, work: () => T): Promise<T> {
    return this.#disk.step(this.#life, site, work, { isWrite: false });
  }

  open(site: string, path: string, mode: OpenMode): Promise<OpenFile> {
    return this.#read(site, () => {
      const found = this.#disk.find(path);
      if (!found && mode !== "create") throw missing(path);
      return new LivingFile(this.#disk, this.#life, found ?? this.#disk.create(path));
    });
  }

  readFile(site: string, path: string): Promise<Buffer | undefined> {
    return this.#read(site, () => {
      const file = this.#disk.find(path);
      return file && Buffer.from(file.bytes);
    });
  }

  writeFile(site: string, path: string, bytes: Buffer): Promise<void> {
    return this.#write(site, () => {
      const file = this.#disk.find(path) ?? this.#disk.create(path);
      file.resize(0);
      file.write(bytes, 0);
    });
  }

  makeDirectory(site: string, path: string): Promise<void> {
    return this.#write(site, () => this.#disk.makeDirectory(path));
  }

  list(site: string, path: string): Promise<string[] | undefined> {
    return this.#read(site, () => this.#disk.list(path));
  }

  rename(site: string, source: string, target: string): Promise<void> {
    return this.#write(site, () => this.#disk.rename(source, target));
  }

  remove(site: string, path: string): Promise<boolean> {
    return this.#write(site, () => this.#disk.remove(path));
  }

  reflink(site: string, source: string, target: string): Promise<boolean> {
    return this.#write(site, () => {
      const file = this.#disk.find(source);
      if (!file) throw missing(source);
      const copy = this.#disk.find(target) ?? this.#disk.create(target);
      copy.resize(0);
      copy.write(file.bytes, 0);
      return true;
    });
  }

  syncDirectory(site: string, path: string): Promise<void> {
    return this.#write(site, () => this.#disk.syncDirectory(path));
  }

  space(site: string, _path: string): Promise<DiskSpace> {
    const { totalBytes, freeBytes } = this.#disk;
    return this.#read(site, () => ({ totalBytes, freeBytes }));
  }

  lockDirectory(site: string, _path: string): Promise<DirectoryLock | undefined> {
    return this.#read(site, () => this.#disk.lock(this.#life));
  }
}

class LivingFile implements OpenFile {
  readonly #disk: SimDisk;
  readonly #life: Life;
  readonly #file: StoredFile;

  constructor(disk: SimDisk, life: Life, file: StoredFile) {
    this.#disk = disk;
    this.#life = life;
    this.#file = file;
  }

  read(site: string, into: Buffer, position: number): Promise<number> {
    const work = (): number => this.#file.bytes.subarray(position).copy(into);
    return this.#disk.step(this.#life, site, work, { isWrite: false });
  }

  write(site: string, bytes: Buffer, position: number): Promise<void> {
    const work = (): void => this.#file.write(bytes, position);
    const some = sectorBytes * this.#life.random.below(bytes.length / sectorBytes + 1);
    const inPart = (): void => this.#file.write(bytes.subarray(0, some), position);
    return this.#disk.step(this.#life, site, work, { inPart });
  }

  truncate(site: string, bytes: number): Promise<void> {
    return this.#disk.step(this.#life, site, () => this.#file.resize(bytes));
  }

  datasync(site: string): Promise<void> {
    return this.#disk.step(this.#life, site, () => this.#file.sync());
  }

  size(site: string): Promise<number> {
    return this.#disk.step(this.#life, site, () => this.#file.bytes.length, { isWrite: false });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
