import { assert } from "../../common/assert.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import type { Tasks } from "../../common/tasks.ts";
import type { Ino } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ReadAhead } from "../client/read-ahead.ts";
import type { ErrorCursor } from "../client/write-errors.ts";
import type { OpenFile } from "../fuse/filesystem.ts";
import type { NodeRef } from "./nodes.ts";

/** Releases are told to the master together. */
const releaseDelayMs = 20;
const releasesMax = 4096;
/** Files closed here that the master still counts as open, so that opening them again is free. */
const parkedMax = 4096;

export interface OpenRegular {
  kind: "file";
  ref: NodeRef;
  flags: number;
  readAhead: ReadAhead;
  /** Which failures of writes behind it has been told of. */
  errors: ErrorCursor;
  /** close(2) tells of failures only who has written. */
  wrote: boolean;
  /** Reading it has been noted for atime, or need not be. */
  accessed: boolean;
}

interface OpenDirectory {
  kind: "directory";
  ref: NodeRef;
  accessed: boolean;
}

type Opened = OpenRegular | OpenDirectory;

/** A request under way that may open a file; which one, only the answer will tell. */
interface Opening {
  /** True if a release of `ino` was sent meanwhile, which may have undone the opening. */
  crossed(ino: Ino): boolean;
  end(): void;
}

/**
 * Open files and directories by their ids; and which inodes this mount has open. An inode counts as
 * open before the master is asked to open it: a release sent meanwhile would undo that.
 *
 *   hold ──> open under way ──opened──> add … remove ──> let go ──last──> parked ──> release
 *                          └──failed──────────────────> let go ──last────────────────> release
 *
 * A parked inode is open for the master and for nobody here. It is released when it changes, when
 * it is unlinked, or when there are too many.
 */
export class OpenFiles {
  readonly #open = new Map<OpenFile, Opened>();
  readonly #free: OpenFile[] = [];
  #next = 1;
  readonly #counts = new Map<Ino, number>();
  readonly #readers = new Map<Ino, Set<ReadAhead>>();
  /** Closed by everybody here, and not told to the master yet. */
  readonly #closed = new Set<Ino>();
  /** Inodes that the master has said it counts as open. */
  readonly #opened = new Set<Ino>();
  /** Of those, the ones that nobody here has open; the longest parked first. */
  readonly #parked = new Set<Ino>();
  /** What has been released during each request that may open a file. */
  readonly #openings = new Set<Set<Ino>>();
  #telling = false;
  readonly #clock: Clock;
  readonly #tasks: Tasks;
  readonly #tell: (inos: () => Ino[]) => Promise<void>;

  /** `tell` calls its argument right before it sends the release, and again before each retry. */
  constructor(options: { clock: Clock; tasks: Tasks; tell: (inos: () => Ino[]) => Promise<void> }) {
    this.#clock = options.clock;
    this.#tasks = options.tasks;
    this.#tell = options.tell;
  }

  /** Counts `ino` as open. */
  hold(ino: Ino): void {
    this.#counts.set(ino, (this.#counts.get(ino) ?? 0) + 1);
    this.#closed.delete(ino);
    this.#parked.delete(ino);
  }

  /** The master counts `ino`, which is held, as open. */
  opened(ino: Ino): void {
    assert(this.#counts.has(ino), "a file is held while it is opened");
    this.#opened.add(ino);
  }

  /** True if the master counts `ino` as open: there is no need to ask. */
  isOpened(ino: Ino): boolean {
    return this.#opened.has(ino);
  }

  /** Takes a `hold` back. Returns true when nobody has that inode open any more. */
  letGo(ino: Ino): boolean {
    const left = (this.#counts.get(ino) ?? 1) - 1;
    if (left > 0) {
      this.#counts.set(ino, left);
      return false;
    }
    this.#counts.delete(ino);
    if (this.#opened.has(ino)) this.#park(ino);
    else this.#close(ino);
    return true;
  }

  #park(ino: Ino): void {
    this.#parked.add(ino);
    for (const oldest of this.#parked) {
      if (this.#parked.size <= parkedMax) return;
      this.unpark(oldest);
    }
  }

  /** `ino` is not to be kept open for the next one: it has changed, or has no name any more. */
  unpark(ino: Ino): void {
    if (this.#parked.delete(ino)) this.#close(ino);
    else this.#opened.delete(ino);
  }

  /** True if `ino` was parked: the caller tells the master that it is not open any more. */
  takeParked(ino: Ino): boolean {
    if (!this.#parked.delete(ino)) return false;
    this.#opened.delete(ino);
    return true;
  }

  #close(ino: Ino): void {
    this.#opened.delete(ino);
    this.#closed.add(ino);
    this.#tellLater();
  }

  /** The master will be told anew what is open: what is parked is not. */
  disconnected(): void {
    for (const ino of this.#parked) this.#opened.delete(ino);
    this.#parked.clear();
  }

  opening(): Opening {
    const released = new Set<Ino>();
    this.#openings.add(released);
    return {
      crossed: (ino) => released.has(ino),
      end: () => void this.#openings.delete(released),
    };
  }

  /** A live file has been counted by `hold`, which `remove` takes back. */
  add(opened: Opened): OpenFile {
    const file = this.#free.pop() ?? this.#next++;
    this.#open.set(file, opened);
    if (opened.kind === "file" && opened.ref.kind === "live") {
      const { ino } = opened.ref;
      assert(this.#counts.has(ino), "a file was held before it was opened");
      const readers = this.#readers.get(ino) ?? new Set();
      readers.add(opened.readAhead);
      this.#readers.set(ino, readers);
    }
    return file;
  }

  get(file: OpenFile): Opened {
    const opened = this.#open.get(file);
    if (!opened) throw new StatusError("bad-file", `open file ${file} does not exist`);
    return opened;
  }

  regular(file: OpenFile): OpenRegular {
    const opened = this.get(file);
    if (opened.kind !== "file") throw new StatusError("is-directory", "it is a directory");
    return opened;
  }

  /** Takes the id back. Returns true when nobody has that inode open any more. */
  remove(file: OpenFile): boolean {
    const opened = this.get(file);
    this.#open.delete(file);
    this.#free.push(file);
    if (opened.kind !== "file") return false;
    opened.readAhead.clear();
    if (opened.ref.kind !== "live") return false;
    const { ino } = opened.ref;
    const readers = this.#readers.get(ino);
    readers?.delete(opened.readAhead);
    if (readers?.size === 0) this.#readers.delete(ino);
    return this.letGo(ino);
  }

  /** What was read ahead of this inode is out of date. */
  changed(ino: Ino): void {
    for (const reader of this.#readers.get(ino) ?? []) reader.clear();
  }

  /** Anything may have changed unheard. */
  allChanged(): void {
    for (const ino of [...this.#parked]) this.unpark(ino);
    for (const ino of this.#readers.keys()) this.changed(ino);
  }

  inos(): Ino[] {
    return [...this.#counts.keys()];
  }

  #tellLater(): void {
    if (this.#telling) return;
    this.#telling = true;
    this.#tasks.run("release", async () => {
      try {
        while (this.#closed.size > 0) {
          await sleep(this.#clock, releaseDelayMs, this.#tasks.signal);
          const inos = [...this.#closed].slice(0, releasesMax);
          for (const ino of inos) this.#closed.delete(ino);
          if (inos.length > 0) await this.#tell(() => this.#released(inos));
        }
      } finally {
        this.#telling = false;
      }
    });
  }

  /** Those of `inos` that nobody has opened again. */
  #released(inos: readonly Ino[]): Ino[] {
    const closed = inos.filter((ino) => !this.#counts.has(ino));
    for (const opening of this.#openings) for (const ino of closed) opening.add(ino);
    return closed;
  }
}
