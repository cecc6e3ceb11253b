import type {
  Caller,
  DirectoryEntry,
  DirectoryPage,
  FileSystem,
  Node,
  OpenFile,
} from "../filesystem.ts";

/** Asked for at a time: a page of entries with attributes is one message of the cluster. */
const pageEntries = 512;
/** Delivered names of which each is kept: as many as a reader may have in its buffers, and more. */
const namesKeptMax = 8192;
/** Stretches of names; when there are more, neighbours become one. */
const stretchesMax = 8192;
/** Offsets 1 and 2 are those behind "." and "..". */
const firstOffset = 3;

/** Names that were delivered one after the other, with the offsets `first`, `first` + 1, … */
interface Stretch {
  first: number;
  count: number;
  /** All of them, or only the first when it was long ago. */
  names: Buffer[];
}

/** Where to go on reading: behind the name `after`, and `skip` further entries. */
interface Place {
  after: Buffer | undefined;
  skip: number;
}

/**
 * Where the readers of an open directory are. An offset (telldir(3), d_off) stands for one name,
 * the one that was delivered with it, and stays so: reading goes on behind that name, whatever has
 * been created or removed meanwhile. An entry that is read again has its old offset as long as its
 * neighbour is the same; else it gets a new one.
 *
 * The last 8,192 names are kept. Of what was delivered before, the first name of each stretch of
 * 512 is: there reading goes on at the right entry unless that stretch has changed. In directories
 * of more than four million entries the stretches grow. The same holds for an offset that was never
 * delivered here, which the kernel may have from a listing that it cached when another process had
 * the directory open: entries are counted off from the last known one.
 */
export class Cursor {
  readonly node: Node;
  readonly file: OpenFile;
  readonly #fileSystem: Pick<FileSystem, "readdir">;
  readonly #stretches: Stretch[] = [];
  #top = firstOffset - 1;
  #namesKept = 0;
  /** Of the stretches, this many from the start have only their first name. */
  #thinned = 0;
  /** Read and not delivered yet, behind `#at`. */
  #ahead: DirectoryEntry[] | undefined;
  #atEnd = false;
  /** Counts `dropAhead`, and what it was when `#ahead` was asked for. */
  #drops = 0;
  #dropsBefore = 0;
  #turn: Promise<unknown> = Promise.resolve();
  #at = 0;
  #self = 0;
  #parent = 0;

  constructor(fileSystem: Pick<FileSystem, "readdir">, node: Node, file: OpenFile) {
    this.#fileSystem = fileSystem;
    this.node = node;
    this.file = file;
  }

  /** How many names are in memory. */
  get namesKept(): number {
    return this.#namesKept;
  }

  /** READDIRs of one open directory are done one after the other. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#turn.then(work);
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** What was read ahead is out of date, also what is just being read. */
  dropAhead(): void {
    this.#ahead = undefined;
    this.#drops += 1;
  }

  /** What `read` gave may be out of date: the directory has changed since it was asked for. */
  get outdated(): boolean {
    return this.#drops !== this.#dropsBefore;
  }

  /**
   * The entries behind `offset`, none at the end. Those that find room are to be told by `deliver`,
   * in order, before anything else is awaited.
   */
  async read(offset: number, caller: Caller): Promise<DirectoryPage> {
    if (this.#ahead === undefined || this.#at !== offset) {
      await this.#fetch(offset, caller);
    } else if (this.#ahead.length === 0) {
      // Asked again at the end: then there may be more by now.
      const ended = this.#atEnd;
      this.#atEnd = false;
      if (!ended) await this.#fetch(offset, caller);
    }
    return { entries: this.#ahead ?? [], self: this.#self, parent: this.#parent };
  }

  /** The offsets behind "." and "..". */
  deliverDot(offset: 1 | 2): void {
    this.#at = offset;
  }

  /** The first of the entries that were read is delivered. Returns the offset behind it. */
  deliver(name: Buffer): number {
    this.#at = this.#offsetFor(Math.max(this.#at, firstOffset - 1) + 1, name);
    return this.#at;
  }

  /** So many entries have been delivered. */
  taken(count: number): void {
    this.#ahead = this.outdated ? undefined : this.#ahead?.slice(count);
  }

  async #fetch(offset: number, caller: Caller): Promise<void> {
    let { after, skip } = this.#place(offset);
    this.#dropsBefore = this.#drops;
    for (;;) {
      const page = await this.#fileSystem.readdir(this.file, after, pageEntries, caller);
      const { entries, self, parent } = page;
      this.#self = self;
      this.#parent = parent;
      const ended = entries.length < pageEntries;
      if (skip < entries.length || ended) {
        this.#ahead = entries.slice(skip);
        this.#atEnd = ended && this.#ahead.length > 0;
        this.#at = offset;
        return;
      }
      skip -= entries.length;
      after = entries.at(-1)?.name;
    }
  }

  #place(offset: number): Place {
    if (offset < firstOffset) return { after: undefined, skip: 0 };
    // Never delivered here, as all of the listing or its start came from the kernel's cache.
    const stretch = this.#stretchOf(offset);
    if (stretch === undefined) return { after: undefined, skip: offset - (firstOffset - 1) };
    const name = stretch.names[offset - stretch.first];
    if (name !== undefined) return { after: name, skip: 0 };
    const lastKept = stretch.first + stretch.names.length - 1;
    if (offset > this.#top) return { after: stretch.names.at(-1), skip: offset - lastKept };
    return { after: stretch.names[0], skip: offset - stretch.first };
  }

  #offsetFor(next: number, name: Buffer): number {
    if (this.#nameAt(next)?.equals(name)) return next;
    // Offsets are dense, so one beyond them that was asked for stays the number it was.
    this.#top = Math.max(this.#top, next - 1) + 1;
    const last = this.#stretches.at(-1);
    const follows = last !== undefined && last.first + last.count === next && next === this.#top;
    if (follows && last.count < pageEntries && last.names.length === last.count) {
      last.names.push(name);
      last.count += 1;
    } else {
      this.#stretches.push({ first: this.#top, count: 1, names: [name] });
    }
    this.#namesKept += 1;
    this.#thin();
    return this.#top;
  }

  #nameAt(offset: number): Buffer | undefined {
    const stretch = this.#stretchOf(offset);
    return stretch?.names[offset - stretch.first];
  }

  /** The last stretch that begins at or before `offset`. */
  #stretchOf(offset: number): Stretch | undefined {
    let low = 0;
    let high = this.#stretches.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#stretches[middle]?.first ?? 0) <= offset) low = middle + 1;
      else high = middle;
    }
    return this.#stretches[low - 1];
  }

  #thin(): void {
    while (this.#namesKept > namesKeptMax && this.#thinned < this.#stretches.length - 1) {
      const oldest = this.#stretches[this.#thinned];
      if (oldest === undefined) return;
      this.#namesKept -= oldest.names.length - 1;
      oldest.names = oldest.names.slice(0, 1);
      this.#thinned += 1;
    }
    if (this.#stretches.length > stretchesMax) this.#merge();
  }

  /** Every other thinned stretch becomes part of the one before it. */
  #merge(): void {
    const thinned = this.#stretches.splice(0, this.#thinned);
    const merged: Stretch[] = [];
    for (const [i, stretch] of thinned.entries()) {
      const before = merged.at(-1);
      if (i % 2 === 0 || before === undefined) merged.push(stretch);
      else before.count += stretch.count;
    }
    this.#stretches.unshift(...merged);
    this.#namesKept -= thinned.length - merged.length;
    this.#thinned = merged.length;
  }
}
