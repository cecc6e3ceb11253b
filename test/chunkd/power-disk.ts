import { createHash } from "node:crypto";
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import type { Disk, OpenFile } from "../../common/disk.ts";
import { systemDisk } from "../../common/os/disk.ts";
import type { ChunkIndex, Written } from "../../chunkd/store/chunk-index.ts";
import { LmdbIndex } from "../../chunkd/store/lmdb-index.ts";
import type { ChunkHandle } from "../../protocol/id.ts";

/**
 * The machine's disk below one directory, which knows what was synced: it can say what the
 * directory is after the end of the process at some step, and after the end of power there.
 */

/** Where in a step the process ends. `half`: of a write's bytes, the first half got there. */
export type Moment = "before" | "half" | "after";

/**
 * What a crash leaves.
 *
 *   kill     everything that was done: the kernel goes on
 *   lost     of files, names and bytes that were synced
 *   zeros    all names and lengths, with zeros where bytes were not synced
 *   kept     everything that was done
 *
 * A loss of power (all but `kill`) leaves the index as it is, or as it was last flushed: it is
 * another file, so any of this goes with either.
 */
export interface Crash {
  files: "kill" | "lost" | "zeros" | "kept";
  index: "current" | "flushed";
}

export const crashes: readonly Crash[] = [
  { files: "kill", index: "current" },
  { files: "lost", index: "current" },
  { files: "lost", index: "flushed" },
  { files: "zeros", index: "current" },
  { files: "zeros", index: "flushed" },
  { files: "kept", index: "flushed" },
];

interface FileNode {
  /** The bytes that were synced last. */
  synced: Buffer;
}
type Node = FileNode | "directory";
type Names = Map<string, Node>;

export function digestOf(what: unknown): string {
  const hash = createHash("sha1");
  const bytes = what instanceof Buffer ? what : JSON.stringify(what ?? "");
  return hash.update(bytes).digest("base64");
}

/** Nothing comes after it. */
const never = new Promise<never>(() => undefined);

const indexName = "index";

export class PowerDisk {
  readonly disk: Disk;
  readonly steps: string[] = [];
  /** True: the process ends at this moment of this step. */
  endsAt: (site: string, moment: Moment) => boolean = () => false;
  /** The errno with which the step fails, if it shall. */
  failure: (site: string) => string | undefined = () => undefined;
  /** Blocks of files can be shared, as on XFS; by a copy that takes no time. */
  shares = false;
  /** Resolves when the process has ended. */
  readonly ended: Promise<void>;
  #end: () => void = () => undefined;
  #isEnded = false;
  readonly #root: string;
  readonly #real: Disk;
  /** By directory: the names in it, and those that were synced. */
  readonly #names = new Map<string, Names>();
  readonly #syncedNames = new Map<string, Names>();

  constructor(root: string, real: Disk = systemDisk) {
    this.#root = root;
    this.#real = real;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#scan(root);
    this.disk = this.#makeDisk();
  }

  /** What is there now counts as synced. */
  #scan(directory: string): void {
    const names: Names = new Map();
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const at = path.join(directory, entry.name);
      if (!entry.isDirectory()) names.set(entry.name, { synced: readFileSync(at) });
      else {
        names.set(entry.name, "directory");
        if (entry.name !== indexName) this.#scan(at);
      }
    }
    this.#names.set(directory, names);
    this.#syncedNames.set(directory, new Map(names));
  }

  #namesIn(directory: string): Names {
    let names = this.#names.get(directory);
    if (!names) this.#names.set(directory, (names = new Map()));
    return names;
  }

  #node(file: string): Node | undefined {
    return this.#names.get(path.dirname(file))?.get(path.basename(file));
  }

  /** The file's node, made if it is new. */
  #fileNode(file: string): FileNode {
    const node = this.#node(file);
    if (node && node !== "directory") return node;
    const made: FileNode = { synced: Buffer.alloc(0) };
    this.#namesIn(path.dirname(file)).set(path.basename(file), made);
    return made;
  }

  /** Runs one step; what is to end or fail there does. */
  async #step<T>(site: string, act: () => Promise<T>, half?: () => Promise<void>): Promise<T> {
    if (this.#isEnded) return never;
    this.steps.push(site);
    if (this.endsAt(site, "before")) return this.#stop();
    const code = this.failure(site);
    if (code !== undefined) throw Object.assign(new Error(`${code} at ${site}`), { code });
    if (half && this.endsAt(site, "half")) {
      await half();
      return this.#stop();
    }
    const result = await act();
    if (this.endsAt(site, "after")) return this.#stop();
    return this.#isEnded ? never : result;
  }

  #stop(): Promise<never> {
    this.#isEnded = true;
    this.#end();
    return never;
  }

  #makeDisk(): Disk {
    const real = this.#real;
    const note = (file: string, change: (names: Names, name: string) => void): void =>
      change(this.#namesIn(path.dirname(file)), path.basename(file));
    return {
      open: (site, file, mode) =>
        this.#step(site, async () => {
          const opened = await real.open(site, file, mode);
          return this.#wrap(opened, this.#fileNode(file), file);
        }),
      readFile: (site, file) => this.#step(site, () => real.readFile(site, file)),
      writeFile: (site, file, bytes) =>
        this.#step(
          site,
          async () => {
            await real.writeFile(site, file, bytes);
            this.#fileNode(file);
          },
          async () => {
            await real.writeFile(site, file, bytes.subarray(0, bytes.length / 2));
            this.#fileNode(file);
          },
        ),
      makeDirectory: (site, directory) =>
        this.#step(site, async () => {
          await real.makeDirectory(site, directory);
          for (let at = directory; at.startsWith(`${this.#root}/`); at = path.dirname(at)) {
            note(at, (names, name) => void names.set(name, "directory"));
          }
        }),
      list: (site, directory) => this.#step(site, () => real.list(site, directory)),
      rename: (site, source, target) =>
        this.#step(site, async () => {
          await real.rename(site, source, target);
          const node = this.#fileNode(source);
          note(source, (names, name) => void names.delete(name));
          note(target, (names, name) => void names.set(name, node));
        }),
      remove: (site, file) =>
        this.#step(site, async () => {
          const removed = await real.remove(site, file);
          note(file, (names, name) => void names.delete(name));
          return removed;
        }),
      reflink: (site, source, target) =>
        this.#step(site, async () => {
          if (!this.shares) return false;
          copyFileSync(source, target);
          this.#fileNode(target);
          return true;
        }),
      syncDirectory: (site, directory) =>
        this.#step(site, async () => {
          await real.syncDirectory(site, directory);
          this.#syncedNames.set(directory, new Map(this.#namesIn(directory)));
        }),
      space: (site, at) => this.#step(site, () => real.space(site, at)),
      // The lock ends with the process, which here is this one.
      lockDirectory: (site) => this.#step(site, async () => ({ release: async () => undefined })),
    };
  }

  #wrap(file: OpenFile, node: FileNode, at: string): OpenFile {
    const write = (bytes: Buffer, position: number, site: string): Promise<void> =>
      file.write(site, bytes, position);
    return {
      read: (site, into, position) => this.#step(site, () => file.read(site, into, position)),
      write: (site, bytes, position) =>
        this.#step(
          site,
          () => write(bytes, position, site),
          () => write(bytes.subarray(0, bytes.length / 2), position, site),
        ),
      truncate: (site, bytes) => this.#step(site, () => file.truncate(site, bytes)),
      datasync: (site) =>
        this.#step(site, async () => {
          await file.datasync(site);
          const size = await file.size(site);
          const bytes = Buffer.alloc(size);
          await file.read(site, bytes, 0);
          node.synced = bytes;
        }),
      size: (site) => this.#step(site, () => file.size(site)),
      close: () => (this.#isEnded && at ? never : file.close()),
    };
  }

  /** Makes `target` what the directory is after a crash. The index is somebody else's. */
  leave(target: string, files: Crash["files"]): void {
    this.#leave(this.#root, target, files);
  }

  #leave(source: string, target: string, files: Crash["files"]): void {
    mkdirSync(target, { recursive: true });
    const all = files === "lost" ? this.#syncedNames : this.#names;
    for (const [name, node] of all.get(source) ?? []) {
      const from = path.join(source, name);
      const to = path.join(target, name);
      if (node === "directory") {
        if (name !== indexName) this.#leave(from, to, files);
      } else writeFileSync(to, this.#bytes(from, node, files));
    }
  }

  /** What `leave` would leave, as a text that is the same for the same. */
  digest(files: Crash["files"]): string {
    const lines: string[] = [];
    for (const [directory, names] of files === "lost" ? this.#syncedNames : this.#names) {
      for (const [name, node] of names) {
        const at = path.join(directory, name);
        if (node === "directory") lines.push(at);
        else lines.push(`${at} ${digestOf(this.#bytes(at, node, files))}`);
      }
    }
    return digestOf(lines.toSorted().join("\n"));
  }

  #bytes(at: string, node: FileNode, files: Crash["files"]): Buffer {
    if (files === "lost") return node.synced;
    if (files !== "zeros") return readFileSync(at);
    const bytes = Buffer.alloc(statSync(at).size);
    node.synced.copy(bytes);
    return bytes;
  }

  /** Whether the index's directory is there after a crash: its name may not be on the disk. */
  hasIndex(files: Crash["files"]): boolean {
    const all = files === "lost" ? this.#syncedNames : this.#names;
    return all.get(this.#root)?.has(indexName) ?? false;
  }
}

/** What is in an index. */
interface IndexRows {
  chunks: { handle: ChunkHandle; record: Buffer; small: Buffer | undefined }[];
  removals: ChunkHandle[];
  numbers: [name: string, value: number][];
}

export function rowsOf(index: ChunkIndex): IndexRows {
  const chunks = index.scan(0, 1_000).map(({ handle, record }) => {
    const small = index.getSmall(handle);
    return { handle, record, small: small && Buffer.from(small) };
  });
  const numbers = ["made", "epoch"].map((name): [string, number] => [name, index.getNumber(name)]);
  return { chunks, removals: index.removals(), numbers };
}

/** The rows of an index, as they were when it was last flushed. */
export class FlushedIndex {
  rows: IndexRows;
  readonly #index: ChunkIndex;

  /** Takes note of every flush of `index` from now on; now it counts as flushed. */
  constructor(index: ChunkIndex) {
    this.#index = index;
    this.rows = rowsOf(index);
    const noted = <Args extends unknown[]>(write: (...args: Args) => Written) => {
      return (...args: Args): Written => {
        const { committed, flushed } = write(...args);
        return { committed, flushed: () => flushed().then(() => this.#note()) };
      };
    };
    index.put = noted(index.put.bind(index));
    index.remove = noted(index.remove.bind(index));
    index.putNumber = noted(index.putNumber.bind(index));
    const flushed = index.flushed.bind(index);
    index.flushed = () => flushed().then(() => this.#note());
  }

  #note(): void {
    this.rows = rowsOf(this.#index);
  }

  /** Makes an index of these rows in `directory`. */
  async leave(directory: string): Promise<void> {
    mkdirSync(directory, { recursive: true });
    const index = new LmdbIndex(directory);
    const { chunks, removals, numbers } = this.rows;
    for (const handle of removals) void index.remove(handle, { file: true });
    for (const { handle, record, small } of chunks) void index.put(handle, record, small ?? "none");
    for (const [name, value] of numbers) if (value > 0) void index.putNumber(name, value);
    await index.close();
  }
}
