import t from "tap";
import type { FileSystem } from "../../mount/fuse/filesystem.ts";
import { fallocateFlags } from "../../mount/fuse/filesystem.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { dropSnapshot, openFlags, takeSnapshot, TestFile } from "./contents-support.ts";

/**
 * As fsx does, but on several files and mounts, and with snapshots: random operations on contents,
 * each checked against arrays of bytes. `GFS_SEED=… GFS_STEPS=…` replays a run, and `GFS_SHOW=…`
 * shows more of it.
 */

const chunkBytes = 1024 * 1024;
const sizeMax = 4.5 * chunkBytes;
const names = ["a", "b", "c"];

const seed = Number(process.env["GFS_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
const steps = Number(process.env["GFS_STEPS"] ?? 400);

/** mulberry32: small, and the same on every machine. */
function generator(start: number): () => number {
  let state = start >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  };
}

class Run {
  readonly random: () => number;
  readonly mounts: readonly FileSystem[];
  readonly model = new Map<string, Buffer>();
  readonly snapshots = new Map<string, Map<string, Buffer>>();
  readonly open = new Map<string, TestFile>();
  readonly done: string[] = [];
  /** The mount that wrote last: it closes before another one looks (P4). */
  #last = new Map<string, FileSystem>();

  constructor(mounts: readonly FileSystem[], start: number) {
    this.mounts = mounts;
    this.random = generator(start);
  }

  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  /** An offset: anywhere, or near a border of a chunk or a block, or the end of a file. */
  offset(size: number): number {
    const kind = this.below(5);
    if (kind === 0) return this.below(sizeMax);
    if (kind === 1) return this.below(5) * chunkBytes;
    if (kind === 2) return size;
    if (kind === 3) return Math.max(0, this.below(5) * chunkBytes + this.below(9) - 4);
    return this.below(size + 1);
  }

  length(): number {
    const kind = this.below(5);
    if (kind === 0) return 1 + this.below(8);
    if (kind === 1) return chunkBytes * (1 + this.below(2));
    if (kind === 2) return 1 + this.below(1.5 * chunkBytes);
    return 1 + this.below(70_000);
  }

  bytes(length: number): Buffer {
    const data = Buffer.alloc(length, 1 + this.below(255));
    for (let i = 0; i < length; i += 97) data[i] = this.below(256);
    return data;
  }

  contents(name: string): Buffer {
    return this.model.get(name) ?? Buffer.alloc(0);
  }

  /** Another mount's turn: what was written before has to be closed first (close-to-open). */
  async turn(name: string, fs: FileSystem): Promise<TestFile> {
    const last = this.#last.get(name);
    if (last && last !== fs) await this.#file(name, last).then((file) => file.flush());
    this.#last.set(name, fs);
    return this.#file(name, fs);
  }

  async #file(name: string, fs: FileSystem): Promise<TestFile> {
    const key = `${this.mounts.indexOf(fs)}/${name}`;
    let file = this.open.get(key);
    if (!file) {
      file = await TestFile.open(fs, name, openFlags.readWrite);
      this.open.set(key, file);
    }
    return file;
  }

  /** Closes a file on one mount; the next use opens it again. */
  async close(name: string, fs: FileSystem): Promise<void> {
    const key = `${this.mounts.indexOf(fs)}/${name}`;
    const file = this.open.get(key);
    this.open.delete(key);
    await file?.close();
  }

  splice(name: string, offset: number, data: Buffer): void {
    const old = this.contents(name);
    const grown = Buffer.alloc(Math.max(old.length, offset + data.length));
    old.copy(grown);
    data.copy(grown, offset);
    this.model.set(name, grown);
  }

  async step(): Promise<void> {
    const name = this.pick(names);
    const fs = this.pick(this.mounts);
    const file = await this.turn(name, fs);
    const size = this.contents(name).length;
    const offset = this.offset(size);
    const length = Math.min(this.length(), sizeMax - offset);
    const where = `${this.mounts.indexOf(fs)}/${name} ${offset}+${length}`;
    const kind = this.pick(Object.keys(operations));
    this.done.push(`${kind} ${where} (size ${size})`);
    if (length <= 0) return;
    await operations[kind]?.(this, { name, fs, file, size, offset, length });
  }

  async checkAll(): Promise<void> {
    for (const name of names) {
      for (const fs of this.mounts) {
        const file = await this.turn(name, fs);
        same(
          `${name} on mount ${this.mounts.indexOf(fs)}`,
          await file.contents(),
          this.contents(name),
        );
      }
    }
    for (const label of this.snapshots.keys()) await this.checkSnapshot(label);
  }

  async checkSnapshot(label: string): Promise<void> {
    for (const [name, expected] of this.snapshots.get(label) ?? []) {
      const path = `.snapshots/${label}/${name}`;
      const file = await TestFile.open(this.pick(this.mounts), path, openFlags.readOnly);
      same(path, await file.contents(), expected);
      await file.close();
    }
  }
}

interface At {
  name: string;
  fs: FileSystem;
  file: TestFile;
  size: number;
  offset: number;
  length: number;
}

function same(what: string, actual: Buffer, expected: Buffer): void {
  if (actual.equals(expected)) return;
  let at = 0;
  while (at < actual.length && actual[at] === expected[at]) at += 1;
  throw new Error(
    `${what}: ${actual.length} bytes for ${expected.length}, first different at ${at}: ` +
      `${actual.subarray(at, at + 8).toString("hex")} for ` +
      expected.subarray(at, at + 8).toString("hex"),
  );
}

function zeroFill(bytes: Buffer, offset: number, length: number): void {
  if (offset < bytes.length) bytes.fill(0, offset, Math.min(bytes.length, offset + length));
}

const { keepSize, punchHole, zeroRange } = fallocateFlags;

const operations: Record<string, (run: Run, at: At) => Promise<void>> = {
  async write(run, { name, file, offset, length }) {
    const data = run.bytes(length);
    const given = Buffer.from(data);
    const written = file.write(offset, given);
    given.fill(0xee); // The buffer is the binding's again as soon as the promise is returned.
    await written;
    run.splice(name, offset, data);
  },

  async append(run, { name, file, size, length }) {
    if (size + length > sizeMax) return;
    const data = run.bytes(length);
    const given = Buffer.from(data);
    const appended = file.append(given);
    given.fill(0xee);
    await appended;
    run.splice(name, size, data);
  },

  async read(run, { name, file, offset, length }) {
    const expected = run.contents(name).subarray(offset, offset + length);
    same(`read of ${name}`, await file.read(offset, length), expected);
  },

  async truncate(run, { name, file, offset }) {
    await file.truncate(offset);
    const old = run.contents(name);
    const next = Buffer.alloc(offset);
    old.copy(next);
    run.model.set(name, next);
  },

  async punch(run, { name, file, offset, length }) {
    await file.fallocate(keepSize | punchHole, offset, length);
    zeroFill(run.contents(name), offset, length);
  },

  async zero(run, { name, file, offset, length }) {
    await file.fallocate(zeroRange, offset, length);
    run.splice(name, offset, Buffer.alloc(length));
  },

  async zeroKeepingSize(run, { name, file, offset, length }) {
    await file.fallocate(zeroRange | keepSize, offset, length);
    zeroFill(run.contents(name), offset, length);
  },

  async allocate(run, { name, file, offset, length }) {
    await file.fallocate(0, offset, length);
    if (offset + length > run.contents(name).length) {
      run.splice(name, offset + length, Buffer.alloc(0));
    }
  },

  async copy(run, { name, fs, file, size, offset, length }) {
    const other = run.pick(names);
    const to = run.below(3) === 0 ? offset : run.offset(run.contents(other).length);
    if (to + length > sizeMax || (other === name && Math.abs(to - offset) < length)) return;
    run.done.push(`  to ${other} ${to} (size ${run.contents(other).length})`);
    const target = await run.turn(other, fs);
    const data = Buffer.from(run.contents(name).subarray(offset, offset + length));
    const copied = await file.copyTo(target, offset, to, length);
    if (copied !== Math.max(0, Math.min(length, size - offset)))
      throw new Error(`copied ${copied}`);
    if (copied > 0) run.splice(other, to, data);
  },

  async copyWhole(run, { name, fs }) {
    const label = run.pick([...run.snapshots.keys(), ""]);
    const from = label === "" ? run.pick(names.filter((other) => other !== name)) : run.pick(names);
    const data = label === "" ? run.contents(from) : run.snapshots.get(label)?.get(from);
    const source =
      label === ""
        ? await run.turn(from, fs)
        : await TestFile.open(fs, `.snapshots/${label}/${from}`, openFlags.readOnly);
    run.done.push(`  from ${label}/${from} (size ${data?.length})`);
    const target = await run.turn(name, fs);
    await target.truncate(0);
    const copied = await source.copyTo(target, 0, 0, sizeMax);
    if (copied !== data?.length) throw new Error(`copied ${copied} of ${data?.length}`);
    run.model.set(name, Buffer.from(data));
    if (label !== "") await source.close();
  },

  async seek(run, { name, file, offset, size }) {
    await checkSeek(file, run.contents(name), offset, size);
  },

  async reopen(run, { name, fs }) {
    await run.close(name, fs);
  },

  async fsync(_run, { file }) {
    await file.fsync();
  },

  async snapshot(run, { fs }) {
    const label = `s${run.below(3)}`;
    if (run.snapshots.delete(label)) return dropSnapshot(fs, label);
    await takeSnapshot(fs, label);
    const copies = names.map((name) => [name, Buffer.from(run.contents(name))] as const);
    run.snapshots.set(label, new Map(copies));
  },

  async checkSnapshot(run) {
    const label = run.pick([...run.snapshots.keys()]);
    if (label !== undefined) await run.checkSnapshot(label);
  },
};

/** Holes may be told as data, but never data as a hole. */
async function checkSeek(
  file: TestFile,
  bytes: Buffer,
  offset: number,
  size: number,
): Promise<void> {
  const data = await file.seek(offset, "data");
  const hole = await file.seek(offset, "hole");
  if (offset >= size) {
    if (data !== "no-such-offset" || hole !== "no-such-offset") throw new Error("ENXIO at the end");
    return;
  }
  const dataAt = typeof data === "number" ? data : size;
  const isZero = (from: number, to: number): boolean =>
    bytes.subarray(from, to).equals(Buffer.alloc(to - from));
  if (typeof hole !== "number" || hole < offset || hole > size) throw new Error(`hole at ${hole}`);
  if (dataAt < offset || !isZero(offset, dataAt)) throw new Error(`data after ${offset}: ${data}`);
  const next = hole < size ? await file.seek(hole, "data") : size;
  const nextAt = typeof next === "number" ? next : size;
  if (!isZero(hole, nextAt)) throw new Error(`hole ${hole} to ${nextAt} has data`);
}

async function runSteps(mounts: readonly FileSystem[], start: number): Promise<string> {
  const run = new Run(mounts, start);
  for (const name of names) {
    const file = await TestFile.create(mounts[0] as FileSystem, name, openFlags.truncate);
    run.open.set(`0/${name}`, file);
  }
  try {
    for (let i = 0; i < steps; i += 1) {
      await run.step();
      if (i % 50 === 49) await run.checkAll();
    }
    await run.checkAll();
    for (const label of run.snapshots.keys()) await dropSnapshot(mounts[0] as FileSystem, label);
    for (const file of run.open.values()) await file.close();
    return "";
  } catch (error) {
    const reason = error instanceof Error ? error.stack : String(error);
    const shown = run.done.slice(-Number(process.env["GFS_SHOW"] ?? 12));
    return `step ${run.done.length}: ${reason}\n${shown.join("\n")}`;
  }
}

for (const count of [1, 2]) {
  t.test(`any operations on contents, by ${count} mount(s), do what arrays do`, async (t) => {
    t.comment(`GFS_SEED=${seed}`);
    const cluster = await LiveCluster.start(t, { servers: 2 });
    const mounts: FileSystem[] = [];
    for (let i = 0; i < count; i += 1) mounts.push((await cluster.mount()).fileSystem);
    t.equal(await runSteps(mounts, seed + count), "");
  });
}
