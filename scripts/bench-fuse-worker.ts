/**
 * One measurement of `npm run bench:fuse`, in a process of its own:
 *
 *   bench-fuse-worker NAME DIRECTORY COUNT
 *
 * prints what one operation takes in µs, or MB/s, as a number.
 */

import fs from "node:fs";
import path from "node:path";
import { UserError, runMain } from "../common/program.ts";

const { O_CREAT, O_DIRECT, O_EXCL, O_RDWR, O_WRONLY } = fs.constants;

const pieceBytes = 1 << 20;
/** The pieces of a file that are written and read again and again. */
const pieces = 32;

type Measurement = (directory: string, count: number) => number;

const measurements: Record<string, Measurement> = {
  lookup: (directory, count) => {
    const file = path.join(directory, "file");
    fs.writeFileSync(file, "");
    return microseconds(count, () => fs.statSync(file));
  },
  absent: (directory, count) =>
    microseconds(count, (i) =>
      fs.statSync(path.join(directory, `none-${i}`), { throwIfNoEntry: false }),
    ),
  getattr: (directory, count) => {
    const file = fs.openSync(path.join(directory, "file"), O_RDWR | O_CREAT);
    return microseconds(count, () => fs.fstatSync(file));
  },
  create: (directory, count) => {
    const name = (i: number): string => path.join(directory, `new-${process.pid}-${i}`);
    const flags = O_WRONLY | O_CREAT | O_EXCL;
    const taken = microseconds(count, (i) => fs.closeSync(fs.openSync(name(i), flags)));
    for (let i = 0; i < count; i++) fs.unlinkSync(name(i));
    return taken;
  },
  write: (directory, count) => {
    const file = fs.openSync(path.join(directory, "data"), O_RDWR | O_CREAT | O_DIRECT);
    const piece = Buffer.alloc(pieceBytes, "x");
    return megabytes(count, (at) => fs.writeSync(file, piece, 0, pieceBytes, at));
  },
  read: (directory, count) => {
    const file = fs.openSync(path.join(directory, "data"), O_RDWR | O_DIRECT);
    const piece = Buffer.alloc(pieceBytes);
    return megabytes(count, (at) => fs.readSync(file, piece, 0, pieceBytes, at));
  },
};

function microseconds(count: number, work: (i: number) => unknown): number {
  const start = performance.now();
  for (let i = 0; i < count; i++) work(i);
  return ((performance.now() - start) * 1000) / count;
}

function megabytes(count: number, work: (at: number) => number): number {
  const start = performance.now();
  let bytes = 0;
  for (let i = 0; i < count; i++) bytes += work((i % pieces) * pieceBytes);
  return bytes / 1000 / (performance.now() - start);
}

function main(): Promise<void> {
  const [name = "", directory = "", count] = process.argv.slice(2);
  const measurement = measurements[name];
  if (!measurement) throw new UserError(`unknown measurement '${name}'`);
  process.stdout.write(`${measurement(directory, Number(count))}\n`);
  return Promise.resolve();
}

await runMain("bench-fuse-worker", main);
