import type { Caller, FileSystem, Node, OpenFile } from "../../mount/fuse/filesystem.ts";
import { chunkBytes } from "./cluster.ts";
import { Contents } from "./contents.ts";
import type { FileWriter, ModelFile } from "./model.ts";
import type { Random } from "./random.ts";
import type { Mount, Workload } from "./workload.ts";

export const caller: Caller = { uid: 0, gid: 0, pid: 1 };
/** Of open(2). */
export const flags = { readOnly: 0, readWrite: 2, truncate: 0o1000 } as const;
/** No write to most files begins further on. */
const fileBytesMost = 160_000;
/** Some are larger, up to this: of two chunks. */
const fileBytesMax = 1.5 * chunkBytes;
/** Every so many files are. */
const largeEvery = 5;

/** All of a file, opened anew. */
export async function readAll(
  fs: FileSystem,
  node: Node,
): Promise<{ size: number; bytes: Buffer }> {
  const { file } = await fs.open(node, flags.readOnly, caller);
  try {
    const { size } = await fs.getattr(node, file, caller);
    const bytes = Buffer.concat(await fs.read(file, 0, size, caller));
    return { size, bytes };
  } finally {
    await fs.release(file);
  }
}

/** A file opened for writing, from open to close. */
export class Session implements FileWriter {
  readonly #workload: Workload;
  readonly #client: Mount;
  readonly #random: Random;
  #file: ModelFile;
  #node: Node = 0;
  #open: OpenFile = 0;
  /** What this client sees: its own writes at once. */
  #own = new Contents();
  /** What it was when it was last certain, and what this client has done to it since. */
  #base = new Contents();
  #since: ((contents: Contents) => void)[] = [];
  /** Writes of the file that had failed when it was last certain. */
  #failed = 0;
  #powerLosses = 0;

  constructor(workload: Workload, client: Mount, file: ModelFile, random: Random) {
    this.#file = file;
    this.#workload = workload;
    this.#client = client;
    this.#random = random;
  }

  opened(file: ModelFile, node: Node, open: OpenFile): void {
    this.#file = file;
    this.#node = node;
    this.#open = open;
    this.#sees(file.now);
    file.writers.add(this);
  }

  #sees(contents: Contents): void {
    this.#own = contents.clone();
    this.#base = contents.clone();
    this.#since = [];
    this.#failed = this.#failedWrites;
  }

  /** What its mount has found that it cannot store, and tells with the next fsync or close. */
  get #failedWrites(): number {
    const { ino } = this.#file;
    return ino === undefined ? 0 : (this.#client.life.failedWrites.get(ino) ?? 0);
  }

  #does(change: (contents: Contents) => void): void {
    change(this.#own);
    this.#since.push(change);
  }

  /**
   * Anything may be gone of what was not synced. fsync finds out, if it was on all servers at the
   * same moment: else others may have been made the measure for those that had it still. And the
   * master has all that it answered only if it syncs always.
   */
  lostPower(floor: Contents, everywhere: boolean): void {
    this.#powerLosses += 1;
    this.#own.mayBe(floor);
    if (everywhere && this.#workload.model.durable) this.#base.mayBe(floor);
    else this.#sees(this.#own);
  }

  async open(file: ModelFile, node: Node): Promise<void> {
    const truncate = this.#random.chance(0.15);
    this.opened(file, node, 0);
    if (truncate) this.#does((contents) => contents.truncate(0));
    this.#mayBecome(this.#own);
    this.#note(truncate ? "open, truncating" : "open");
    const how = flags.readWrite | (truncate ? flags.truncate : 0);
    const opened = await this.#ask((fs) => fs.open(node, how, caller));
    this.#node = node;
    this.#open = opened.file;
  }

  /** Whatever became of it, nobody sees the file through it any more. */
  end(): void {
    this.#file.writers.delete(this);
  }

  async work(): Promise<void> {
    const steps = this.#random.between(1, 5);
    for (let i = 0; i < steps; i += 1) await this.#step();
    await this.#ask((fs) => fs.flush(this.#open, undefined, caller));
    this.#note("closed");
    this.#file.became(this.#own);
    this.#workload.world.count("operation: close");
    await this.#ask((fs) => fs.release(this.#open));
  }

  async #step(): Promise<void> {
    const dice = this.#random.below(100);
    if (dice < 45) await this.#write();
    else if (dice < 55) await this.#append();
    else if (dice < 65) await this.#truncate();
    else if (dice < 78) await this.#read();
    else if (dice < 90) await this.#fsync();
    else if (dice < 97) await this.#copy();
    else await this.#workload.world.pause(this.#random.about(2_000));
  }

  #ask<T>(work: (fs: FileSystem) => Promise<T>): Promise<T> {
    return this.#workload.ask(this.#client, work);
  }

  #mayBecome(contents: Contents): void {
    this.#file.unsyncedBy.add(this.#client.life.name);
    this.#file.mayBecome(contents);
  }

  #note(what: string): void {
    this.#workload.world.note(`${this.#client.name} file ${this.#file.id} ${what}`);
  }

  get #isLarge(): boolean {
    return this.#file.id % largeEvery === 0;
  }

  get #bytesMax(): number {
    return this.#isLarge ? fileBytesMax : fileBytesMost;
  }

  #length(): number {
    return this.#random.chance(0.7)
      ? this.#random.between(1, 20_000)
      : this.#random.between(1, this.#isLarge ? 200_000 : 80_000);
  }

  async #write(): Promise<void> {
    const length = this.#length();
    const end = this.#own.sizeMax + (this.#random.chance(0.2) ? 150_000 : 1);
    // Now and then where two chunks meet.
    const offset =
      this.#isLarge && this.#random.chance(0.15)
        ? chunkBytes - this.#random.below(length + 10_000)
        : this.#random.below(Math.min(end, this.#bytesMax));
    await this.#put(offset, length, false);
  }

  async #append(): Promise<void> {
    const { sizeMin, sizeMax } = this.#own;
    if (sizeMin !== sizeMax || sizeMax > this.#bytesMax) return;
    await this.#put(sizeMax, this.#length(), true);
  }

  async #put(offset: number, length: number, append: boolean): Promise<void> {
    const { model, world } = this.#workload;
    const source = model.sources.fresh();
    const data = model.sources.bytes(source, offset, length);
    this.#does((contents) => contents.write(source, offset, length));
    this.#mayBecome(this.#own);
    this.#note(`${append ? "append" : "write"} ${source}: ${offset}+${length}`);
    const { ino } = this.#file;
    if (ino !== undefined) this.#workload.beforeWrite({ ino, offset });
    await this.#ask((fs) =>
      fs.write(this.#open, { offset, data, append, killSuidGid: false }, caller),
    );
    world.count("operation: write");
  }

  async #truncate(): Promise<void> {
    const size = this.#random.below(Math.max(1, this.#own.sizeMax * 1.2));
    const bytes = Math.floor(size);
    this.#does((contents) => contents.truncate(bytes));
    this.#mayBecome(this.#own);
    this.#note(`truncate ${bytes}`);
    await this.#ask((fs) => fs.setattr(this.#node, { size: bytes }, this.#open, caller));
    this.#workload.world.count("operation: truncate");
  }

  async #read(): Promise<void> {
    const offset = this.#random.below(this.#own.sizeMax + 1);
    const length = this.#length();
    const contents = this.#own.clone();
    const powerLosses = this.#powerLosses;
    const found = await this.#ask(async (fs) => {
      const { size } = await fs.getattr(this.#node, this.#open, caller);
      return { size, bytes: Buffer.concat(await fs.read(this.#open, offset, length, caller)) };
    });
    if (this.#powerLosses !== powerLosses) {
      return this.#workload.world.count("not compared: read over a loss of power");
    }
    if (this.#failedWrites !== this.#failed) {
      return this.#workload.world.count("not compared: a write has failed, and it is not told yet");
    }
    this.#workload.compare(this.#client, { file: this.#file, contents, offset, ...found });
    const short = Math.min(length, contents.sizeMin - offset);
    if (found.bytes.length >= short) return;
    this.#workload.wrong(this.#client, `had a short read at ${offset} of file ${this.#file.id}`);
  }

  async #fsync(): Promise<void> {
    await this.#ask((fs) => fs.fsync(this.#open, false, caller));
    this.#note("synced");
    // All that this client has written is there, whatever it may have been in between.
    for (const change of this.#since) change(this.#base);
    this.#sees(this.#base);
    this.#file.synced(this.#own, this.#client.life.name);
    this.#workload.world.count("operation: fsync");
  }

  async #copy(): Promise<void> {
    const source = await this.#workload.copySource(this.#client);
    if (!source) return;
    await this.#workload.held(() => this.#copyFrom(source.file, source.node), source.free);
  }

  async #copyFrom(source: ModelFile, node: Node): Promise<void> {
    const { sizeMin, sizeMax } = source.now;
    if (sizeMin !== sizeMax || sizeMax === 0) return;
    const from = this.#random.chance(0.5) ? 0 : this.#random.below(sizeMax);
    const to = from % chunkBytes; // Alike in their chunks, so that whole ones can be shared.
    const length = sizeMax - from;
    const { sources } = this.#workload.model;
    const after = this.#own.clone();
    after.copyRange(source.now, { from, to, length }, sources);
    this.#mayBecome(after);
    this.#note(`copy from file ${source.id}: ${from}+${length} to ${to}`);
    const copied = await this.#ask(async (fs) => {
      const { file: open } = await fs.open(node, flags.readOnly, caller);
      try {
        const at = { file: open, offset: from };
        return await fs.copyFileRange(at, { file: this.#open, offset: to }, length, caller);
      } finally {
        await fs.release(open);
      }
    });
    this.#own.copyRange(source.now, { from, to, length: copied }, sources);
    this.#sees(this.#own); // The source may lose it too.
    this.#workload.world.count("operation: copy");
  }
}
