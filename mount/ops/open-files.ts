import { type Clock, sleep } from "../../common/clock.ts";
import type { Tasks } from "../../common/tasks.ts";
import type { Ino } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ReadAhead } from "../client/read-ahead.ts";
import type { OpenFile } from "../fuse/filesystem.ts";
import type { NodeRef } from "./nodes.ts";

/** Releases are told to the master together. */
const releaseDelayMs = 20;
const releasesMax = 4096;

export interface OpenRegular {
  kind: "file";
  ref: NodeRef;
  flags: number;
  readAhead: ReadAhead;
}

export interface OpenDirectory {
  kind: "directory";
  ref: NodeRef;
}

export type Opened = OpenRegular | OpenDirectory;

/** Open files and directories by their ids; and which inodes this mount has open. */
export class OpenFiles {
  readonly #open = new Map<OpenFile, Opened>();
  readonly #free: OpenFile[] = [];
  #next = 1;
  readonly #counts = new Map<Ino, number>();
  readonly #readers = new Map<Ino, Set<ReadAhead>>();
  /** Closed by everybody here, and not told to the master yet. */
  readonly #closed = new Set<Ino>();
  #telling = false;
  readonly #clock: Clock;
  readonly #tasks: Tasks;
  readonly #tell: (inos: Ino[]) => Promise<void>;

  constructor(options: { clock: Clock; tasks: Tasks; tell: (inos: Ino[]) => Promise<void> }) {
    this.#clock = options.clock;
    this.#tasks = options.tasks;
    this.#tell = options.tell;
  }

  add(opened: Opened): OpenFile {
    const file = this.#free.pop() ?? this.#next++;
    this.#open.set(file, opened);
    if (opened.kind === "file" && opened.ref.kind === "live") {
      const { ino } = opened.ref;
      this.#counts.set(ino, (this.#counts.get(ino) ?? 0) + 1);
      this.#closed.delete(ino);
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
    this.#readers.get(ino)?.delete(opened.readAhead);
    const left = (this.#counts.get(ino) ?? 1) - 1;
    if (left > 0) {
      this.#counts.set(ino, left);
      return false;
    }
    this.#counts.delete(ino);
    this.#readers.delete(ino);
    this.#closed.add(ino);
    this.#tellLater();
    return true;
  }

  /** What was read ahead of this inode is out of date. */
  changed(ino: Ino): void {
    for (const reader of this.#readers.get(ino) ?? []) reader.clear();
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
          if (inos.length > 0) await this.#tell(inos);
        }
      } finally {
        this.#telling = false;
      }
    });
  }
}
