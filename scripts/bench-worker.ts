import fs from "node:fs";
import path from "node:path";

/**
 * The measured part of `npm run bench`, in a process of its own: `bench-worker.js WORK DIR SIZES`.
 * Prints the rate as JSON. The parent kills it when the filesystem under DIR does not answer.
 */

export interface Sizes {
  /** Of the file for sequential and random access. */
  fileMiB: number;
  /** 4 KiB reads and writes at random places. */
  randomCount: number;
  /** Files of 4 KiB. */
  smallCount: number;
  /** Entries in the large directory. */
  listCount: number;
}

const MiB = 1024 * 1024;
const smallBytes = 4096;

/** One thing to measure: how many units it did; the time is taken around it. */
interface Work {
  /** Not measured. */
  before?: (dir: string, sizes: Sizes) => void;
  run: (dir: string, sizes: Sizes) => number;
}

const bigFile = (dir: string): string => path.join(dir, "big");
const smallFile = (dir: string, i: number): string => path.join(dir, "small", `file-${i}`);
const renamed = (dir: string, i: number): string => path.join(dir, "small", `renamed-${i}`);

/** Bytes that do not compress and differ from block to block. */
function noise(bytes: number): Buffer {
  const words = new Uint32Array(bytes / 4);
  let state = 0x9e3779b9;
  for (let i = 0; i < words.length; i += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = state;
  }
  return Buffer.from(words.buffer);
}

function withFile<T>(file: string, flags: string, work: (fd: number) => T): T {
  const fd = fs.openSync(file, flags);
  try {
    return work(fd);
  } finally {
    fs.closeSync(fd);
  }
}

/** The same places in every run and every directory: a fixed linear congruential sequence. */
function* places(count: number, fileMiB: number): Generator<number> {
  const blocks = (fileMiB * MiB) / smallBytes;
  let state = 12345;
  for (let i = 0; i < count; i += 1) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    yield (state % blocks) * smallBytes;
  }
}

const works: Record<string, Work> = {
  "sequential write": {
    before: (dir) => fs.rmSync(bigFile(dir), { force: true }),
    run: (dir, { fileMiB }) => {
      const piece = noise(MiB);
      withFile(bigFile(dir), "w", (fd) => {
        for (let i = 0; i < fileMiB; i += 1) fs.writeSync(fd, piece);
        fs.fsyncSync(fd);
      });
      return fileMiB;
    },
  },
  "sequential read": {
    run: (dir, { fileMiB }) => {
      const piece = Buffer.alloc(MiB);
      let bytes = 0;
      withFile(bigFile(dir), "r", (fd) => {
        for (let i = 0; i < fileMiB; i += 1) bytes += fs.readSync(fd, piece);
      });
      return bytes / MiB;
    },
  },
  "random read 4 KiB": {
    run: (dir, { randomCount, fileMiB }) => {
      const piece = Buffer.alloc(smallBytes);
      withFile(bigFile(dir), "r", (fd) => {
        for (const at of places(randomCount, fileMiB)) fs.readSync(fd, piece, 0, smallBytes, at);
      });
      return randomCount;
    },
  },
  "random write 4 KiB": {
    run: (dir, { randomCount, fileMiB }) => {
      const piece = noise(smallBytes);
      withFile(bigFile(dir), "r+", (fd) => {
        for (const at of places(randomCount, fileMiB)) fs.writeSync(fd, piece, 0, smallBytes, at);
        fs.fsyncSync(fd);
      });
      return randomCount;
    },
  },
  "create 4 KiB files": {
    before: (dir) => {
      fs.rmSync(path.join(dir, "small"), { recursive: true, force: true });
      fs.mkdirSync(path.join(dir, "small"));
    },
    run: (dir, { smallCount }) => {
      const content = noise(smallBytes);
      for (let i = 0; i < smallCount; i += 1) fs.writeFileSync(smallFile(dir, i), content);
      return smallCount;
    },
  },
  "stat files": {
    run: (dir, { smallCount }) => {
      for (let i = 0; i < smallCount; i += 1) fs.statSync(smallFile(dir, i));
      return smallCount;
    },
  },
  "read 4 KiB files": {
    run: (dir, { smallCount }) => {
      for (let i = 0; i < smallCount; i += 1) fs.readFileSync(smallFile(dir, i));
      return smallCount;
    },
  },
  "rename files": {
    run: (dir, { smallCount }) => {
      for (let i = 0; i < smallCount; i += 1) fs.renameSync(smallFile(dir, i), renamed(dir, i));
      return smallCount;
    },
  },
  "delete files": {
    run: (dir, { smallCount }) => {
      for (let i = 0; i < smallCount; i += 1) fs.unlinkSync(renamed(dir, i));
      return smallCount;
    },
  },
  "list a large directory": {
    before: (dir, { listCount }) => {
      const large = path.join(dir, "large");
      if (fs.existsSync(large)) return;
      fs.mkdirSync(large);
      for (let i = 0; i < listCount; i += 1) fs.writeFileSync(path.join(large, `entry-${i}`), "");
    },
    run: (dir) => {
      const large = path.join(dir, "large");
      const names = fs.readdirSync(large);
      for (const name of names) fs.lstatSync(path.join(large, name));
      return names.length;
    },
  },
};

function main(): void {
  const [name = "", dir = "", sizesText = "{}"] = process.argv.slice(2);
  const sizes = JSON.parse(sizesText) as Sizes;
  if (name === "prepare") return void fs.mkdirSync(dir);
  if (name === "clean") return fs.rmSync(dir, { recursive: true, force: true });
  if (name === "drop caches") return fs.writeFileSync("/proc/sys/vm/drop_caches", "3");
  const work = works[name];
  if (!work) throw new Error(`no such measurement: ${name}`);
  work.before?.(dir, sizes);
  const startMs = performance.now();
  const units = work.run(dir, sizes);
  const rate = units / ((performance.now() - startMs) / 1000);
  process.stdout.write(JSON.stringify({ rate }));
}

try {
  main();
} catch (error) {
  process.stderr.write(error instanceof Error ? error.message : String(error));
  process.exitCode = 1;
}
