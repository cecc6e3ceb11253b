import { createHash } from "node:crypto";
import fs from "node:fs/promises";
import path from "node:path";
import { createInterface } from "node:readline";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import { seededRandom } from "./soak-random.ts";

/**
 * The load of `npm run soak` on one mount, in a process of its own: `soak-worker.js OPTIONS`. What
 * a system call acknowledged is done to a shadow of the tree on the local disk too: that is what
 * the mount has to show at any time, and in the end. Runs until its standard input ends; then
 * prints what it did as JSON. With `verify` it compares the whole tree with the shadow instead.
 */

export interface WorkerOptions {
  /** Below a mount. */
  directory: string;
  /** Not below any mount. */
  shadow: string;
  seed: number;
  /** Sequences of operations at a time, each in a directory of its own. */
  loops: number;
  verify: boolean;
  /** Of a mount that is killed: a file with a number that is odd while it is away. */
  cuts?: string;
}

export interface WorkerResult {
  operations: Record<string, number>;
  /** By operation and errno: `write ENOSPC`. */
  errors: Record<string, number>;
  /** Operations that failed because their mount was killed, by operation and errno. */
  cut: Record<string, number>;
  /** Files and where they have other bytes, or another length. */
  wrong: string[];
  lost: string[];
  /** Names that nobody made. */
  extra: string[];
  files: number;
  bytes: number;
  slowest: { operation: string; ms: number };
}

/** How often a loop looks whether its mount is back. */
const cutLookMs = 100;
/** Files per loop, and their size: together they fit into the page cache a few times. */
const filesMax = 30;
const fileBytesMax = 3 * 1024 * 1024;
/** Of a file that is written once and then only read: bits are flipped in those. */
const keptPrefix = "kept-";
/** More than a chunk server keeps in its index: their chunks are files. */
const keptBytesMin = 70_000;
/** An operation that takes longer is logged. */
const slowMs = 15_000;
/** So often the log has the number of operations. */
const tellMs = 60_000;
/** After the end of the load, what is still under way is told this often. */
const stuckMs = 20_000;
/** Wrong files that are told of: the count is exact. */
const toldMax = 100;

class Tally {
  readonly #cuts: string | undefined;
  readonly #underWay = new Map<number, { operation: string; startMs: number }>();
  #next = 0;

  constructor(cuts: string | undefined) {
    this.#cuts = cuts;
  }

  /** How often the mount has been killed and come back: odd while it is away. */
  async #cutsNow(): Promise<number> {
    return this.#cuts === undefined ? 0 : Number(await fs.readFile(this.#cuts, "utf8"));
  }

  /** Resolves when the mount is there. */
  async whole(): Promise<void> {
    while ((await this.#cutsNow()) % 2 === 1) await sleep(systemClock, cutLookMs);
  }

  tellCount(): void {
    const count = Object.values(this.result.operations).reduce((sum, more) => sum + more, 0);
    process.stderr.write(`${new Date().toISOString()} ${count} operations\n`);
  }

  /** Says on standard error what has been waiting for long. */
  tellStuck(): void {
    for (const { operation, startMs } of this.#underWay.values()) {
      const seconds = Math.round((performance.now() - startMs) / 1000);
      process.stderr.write(`${new Date().toISOString()} ${operation} waits, ${seconds} s\n`);
    }
  }

  readonly result: WorkerResult = {
    operations: {},
    errors: {},
    cut: {},
    wrong: [],
    lost: [],
    extra: [],
    files: 0,
    bytes: 0,
    slowest: { operation: "", ms: 0 },
  };

  /** Counts, measures, and notes what fails. Resolves with false if it did. */
  async run(operation: string, work: () => Promise<void>, where = ""): Promise<boolean> {
    const { operations, slowest } = this.result;
    const cuts = await this.#cutsNow();
    const startMs = performance.now();
    const id = (this.#next += 1);
    const name = where ? `${operation} ${where}` : operation;
    this.#underWay.set(id, { operation: name, startMs });
    try {
      await work();
      return true;
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
      const kind = `${operation} ${code}`;
      const isCut = cuts % 2 === 1 || (await this.#cutsNow()) !== cuts;
      const errors = isCut ? this.result.cut : this.result.errors;
      errors[kind] = (errors[kind] ?? 0) + 1;
      if (isCut) return false;
      process.stderr.write(`${new Date().toISOString()} ${kind} ${where}: ${String(error)}\n`);
      return false;
    } finally {
      this.#underWay.delete(id);
      operations[operation] = (operations[operation] ?? 0) + 1;
      const ms = Math.round(performance.now() - startMs);
      if (ms > slowMs) process.stderr.write(`${new Date().toISOString()} ${name}: ${ms} ms\n`);
      if (ms > slowest.ms) Object.assign(slowest, { operation, ms });
    }
  }

  wrong(what: string): void {
    if (this.result.wrong.length < toldMax) this.result.wrong.push(what);
    process.stderr.write(`${new Date().toISOString()} wrong: ${what}\n`);
  }
}

/** One sequence of random operations on files of its own. */
class Loop {
  readonly #directory: string;
  readonly #shadow: string;
  readonly #random: () => number;
  readonly #tally: Tally;
  readonly #names = new Set<string>();
  /** An operation on them failed: nobody knows what they are. */
  readonly #uncertain = new Set<string>();
  #made = 0;

  constructor(options: { directory: string; shadow: string; random: () => number; tally: Tally }) {
    this.#directory = options.directory;
    this.#shadow = options.shadow;
    this.#random = options.random;
    this.#tally = options.tally;
  }

  async start(): Promise<void> {
    await fs.mkdir(this.#shadow, { recursive: true });
    await this.#tally.run("mkdir", async () => {
      await fs.mkdir(this.#directory, { recursive: true });
    });
  }

  #at(name: string): string {
    return path.join(this.#directory, name);
  }

  #below(count: number): number {
    return Math.floor(this.#random() * count);
  }

  #noise(bytes: number): Buffer {
    const noise = Buffer.alloc(bytes);
    let word = this.#below(2 ** 32);
    for (let at = 0; at + 4 <= bytes; at += 4) {
      word = (Math.imul(word, 1_664_525) + 1_013_904_223) >>> 0;
      noise.writeUInt32LE(word, at);
    }
    return noise;
  }

  /** Small ones are as likely as large ones. */
  #size(): number {
    return Math.floor(Math.exp(this.#random() * Math.log(fileBytesMax)));
  }

  /** An existing file, or undefined. `changes`: not one that is only read. */
  #pick(changes: boolean): string | undefined {
    const names = [...this.#names].filter((name) => !changes || !name.startsWith(keptPrefix));
    return names[this.#below(names.length)];
  }

  async step(): Promise<void> {
    const roll = this.#random();
    if (roll < 0.25 || this.#names.size < 3) return this.#make();
    if (roll < 0.45) return this.#change("overwrite", (name) => this.#overwrite(name));
    if (roll < 0.55) return this.#change("append", (name) => this.#append(name));
    if (roll < 0.62) return this.#change("truncate", (name) => this.#truncate(name));
    if (roll < 0.69) return this.#rename();
    if (roll < 0.76 || this.#names.size > filesMax) return this.#unlink();
    if (roll < 0.81) return this.#copy();
    if (roll < 0.86) return this.#list();
    return this.#check();
  }

  /** Runs an operation on a file; one that fails leaves it uncertain. */
  async #on(name: string, operation: string, work: () => Promise<void>): Promise<void> {
    if (await this.#tally.run(operation, work, this.#at(name))) return;
    await this.#doubt(name);
  }

  async #doubt(name: string): Promise<void> {
    this.#names.delete(name);
    this.#uncertain.add(name);
    await fs.rm(path.join(this.#shadow, name), { force: true });
    await fs.appendFile(`${this.#shadow}.uncertain`, `${name}\n`);
  }

  #change(operation: string, work: (name: string) => Promise<void>): Promise<void> {
    const name = this.#pick(true);
    return name === undefined ? this.#make() : this.#on(name, operation, () => work(name));
  }

  async #make(): Promise<void> {
    this.#made += 1;
    const kept = this.#random() < 0.3;
    const name = `${kept ? keptPrefix : ""}${this.#made}`;
    const bytes = this.#noise(Math.max(this.#size(), kept ? keptBytesMin : 0));
    this.#names.add(name);
    await this.#on(name, "create", async () => {
      const file = await fs.open(this.#at(name), "wx");
      await this.#using(file, async () => {
        for (let at = 0; at < bytes.length;) {
          const piece = bytes.subarray(at, at + 1 + this.#below(256 * 1024));
          await file.write(piece, 0, piece.length, at);
          at += piece.length;
        }
        if (this.#random() < 0.3) await file.sync();
      });
      await fs.writeFile(path.join(this.#shadow, name), bytes);
    });
  }

  /** Also a close that fails is a failure of the operation. */
  async #using(file: fs.FileHandle, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } finally {
      await file.close();
    }
  }

  async #overwrite(name: string): Promise<void> {
    const shadow = path.join(this.#shadow, name);
    const bytes = await fs.readFile(shadow);
    const file = await fs.open(this.#at(name), "r+");
    await this.#using(file, async () => {
      for (let count = 1 + this.#below(4); count > 0; count -= 1) {
        const at = this.#below(bytes.length);
        const piece = this.#noise(Math.min(bytes.length - at, 1 + this.#below(200_000)));
        await file.write(piece, 0, piece.length, at);
        piece.copy(bytes, at);
      }
      if (this.#random() < 0.3) await file.datasync();
    });
    await fs.writeFile(shadow, bytes);
  }

  async #append(name: string): Promise<void> {
    const piece = this.#noise(1 + this.#below(100_000));
    const file = await fs.open(this.#at(name), "a");
    await this.#using(file, async () => {
      await file.write(piece);
      if (this.#random() < 0.3) await file.sync();
    });
    await fs.appendFile(path.join(this.#shadow, name), piece);
  }

  async #truncate(name: string): Promise<void> {
    const size = this.#size();
    await fs.truncate(this.#at(name), size);
    await fs.truncate(path.join(this.#shadow, name), size);
  }

  async #rename(): Promise<void> {
    const name = this.#pick(true);
    if (name === undefined) return;
    this.#made += 1;
    // A new name, or that of another file, which it replaces.
    const target = (this.#random() < 0.3 ? this.#pick(true) : undefined) ?? `${this.#made}`;
    if (target === name) return;
    await this.#on(name, "rename", async () => {
      await fs.rename(this.#at(name), this.#at(target));
      await fs.rename(path.join(this.#shadow, name), path.join(this.#shadow, target));
      this.#names.delete(name);
      this.#names.add(target);
    });
    if (this.#uncertain.has(name)) await this.#doubt(target);
  }

  async #unlink(): Promise<void> {
    const name = this.#pick(false);
    if (name === undefined) return;
    await this.#on(name, "unlink", async () => {
      await fs.unlink(this.#at(name));
      await fs.unlink(path.join(this.#shadow, name));
      this.#names.delete(name);
    });
  }

  async #copy(): Promise<void> {
    const source = this.#pick(false);
    if (source === undefined) return;
    this.#made += 1;
    const name = String(this.#made);
    this.#names.add(name);
    await this.#on(name, "copy", async () => {
      await fs.copyFile(this.#at(source), this.#at(name));
      await fs.copyFile(path.join(this.#shadow, source), path.join(this.#shadow, name));
    });
  }

  async #list(): Promise<void> {
    await this.#tally.run("readdir", async () => {
      const found = await fs.readdir(this.#directory);
      const extra = found.filter((name) => !this.#names.has(name) && !this.#uncertain.has(name));
      const missing = [...this.#names].filter((name) => !found.includes(name));
      for (const name of extra) this.#tally.wrong(`${this.#at(name)} is listed`);
      for (const name of missing) this.#tally.wrong(`${this.#at(name)} is not listed`);
    });
  }

  async #check(): Promise<void> {
    const name = this.#pick(false);
    if (name === undefined) return;
    const compare = async (): Promise<void> => {
      const wanted = await fs.readFile(path.join(this.#shadow, name));
      const what = difference(await fs.readFile(this.#at(name)), wanted);
      if (what !== undefined) this.#tally.wrong(`${this.#at(name)}: ${what}`);
    };
    await this.#tally.run("read", compare, this.#at(name));
  }
}

/** Where two contents begin to differ, or undefined. */
function difference(is: Buffer, wanted: Buffer): string | undefined {
  if (is.equals(wanted)) return undefined;
  if (is.length !== wanted.length) return `${is.length} bytes, not ${wanted.length}`;
  let first = 0;
  while (is[first] === wanted[first]) first += 1;
  let last = is.length - 1;
  while (is[last] === wanted[last]) last -= 1;
  const zeros = is.subarray(first, last + 1).every((byte) => byte === 0);
  const sum = createHash("sha256").update(is).digest("hex").slice(0, 16);
  return `bytes ${first} to ${last} differ${zeros ? ", they are zeros" : ""}, sha256 ${sum}`;
}

async function load(options: WorkerOptions, tally: Tally): Promise<void> {
  let ended = false;
  createInterface({ input: process.stdin }).once("close", () => {
    ended = true;
    setInterval(() => tally.tellStuck(), stuckMs).unref();
  });
  setInterval(() => tally.tellCount(), tellMs).unref();
  const loops = Array.from({ length: options.loops }, async (_, i) => {
    const name = `loop${i}`;
    const loop = new Loop({
      directory: path.join(options.directory, name),
      shadow: path.join(options.shadow, name),
      random: seededRandom(options.seed * 1_000 + i),
      tally,
    });
    await loop.start();
    while (!ended) {
      await tally.whole();
      await loop.step();
    }
  });
  await Promise.all(loops);
}

/** Compares everything below the directory with the shadow. */
async function verify({ directory, shadow }: WorkerOptions, tally: Tally): Promise<void> {
  const { result } = tally;
  for (const loop of await fs.readdir(shadow)) {
    if (loop.endsWith(".uncertain")) continue;
    const wanted = await fs.readdir(path.join(shadow, loop));
    const uncertain = await fs
      .readFile(path.join(shadow, `${loop}.uncertain`), "utf8")
      .catch(() => "");
    const found = await fs.readdir(path.join(directory, loop));
    const known = new Set([...wanted, ...uncertain.split("\n")]);
    for (const name of found) if (!known.has(name)) result.extra.push(`${loop}/${name}`);
    for (const name of wanted) {
      if (!found.includes(name)) {
        result.lost.push(`${loop}/${name}`);
        continue;
      }
      await tally.run("verify", async () => {
        const bytes = await fs.readFile(path.join(shadow, loop, name));
        const is = await fs.readFile(path.join(directory, loop, name));
        const what = difference(is, bytes);
        if (what !== undefined) tally.wrong(`${loop}/${name}: ${what}`);
        result.files += 1;
        result.bytes += bytes.length;
      });
    }
  }
}

const options = JSON.parse(process.argv[2] ?? "{}") as WorkerOptions;
const tally = new Tally(options.cuts);
await (options.verify ? verify : load)(options, tally);
process.stdout.write(`${JSON.stringify(tally.result)}\n`, () => process.exit(0));
