import { StatusError } from "../../../protocol/status.ts";
import type { FileSystem, Node, Opened, OpenFile } from "../filesystem.ts";
import { Cursor } from "./cursor.ts";
import { FOPEN_CACHE_DIR, FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE } from "./flags.ts";

/** What the kernel has open, by the number that the filesystem gave it. */
export class OpenTable {
  readonly #fileSystem: FileSystem;
  readonly #files = new Map<OpenFile, Node>();
  readonly #directories = new Map<OpenFile, Cursor>();
  readonly #cursors = new Map<Node, Set<Cursor>>();
  /**
   * Directories of which a listing that the kernel caches may be out of date: they were changed
   * elsewhere while a process was reading them, and what that process was told goes into the cache
   * when it gets to it.
   */
  readonly #suspect = new Set<Node>();

  constructor(fileSystem: FileSystem) {
    this.#fileSystem = fileSystem;
  }

  get size(): number {
    return this.#files.size + this.#directories.size;
  }

  /** The flags (FOPEN_*) with which the kernel is told of it. */
  addFile(node: Node, { file, keepCache, directIo }: Opened): number {
    this.#files.set(file, node);
    return (keepCache ? FOPEN_KEEP_CACHE : 0) | (directIo ? FOPEN_DIRECT_IO : 0);
  }

  addDirectory(node: Node, { file, keepCache }: Opened): number {
    const cursor = new Cursor(this.#fileSystem, node, file);
    const others = this.#cursors.get(node);
    this.#directories.set(file, cursor);
    this.#cursors.set(node, (others ?? new Set()).add(cursor));
    if (!keepCache) return 0;
    if (!this.#suspect.has(node)) return FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    // This open drops what is cached. Others may still add to it what they were told before.
    if (others === undefined) this.#suspect.delete(node);
    return others === undefined ? FOPEN_CACHE_DIR : 0;
  }

  /** `bad-file` unless it is open. */
  file(file: OpenFile): OpenFile {
    if (!this.#files.has(file)) throw new StatusError("bad-file", `file ${file} is not open`);
    return file;
  }

  directory(file: OpenFile): Cursor {
    const cursor = this.#directories.get(file);
    if (!cursor) throw new StatusError("bad-file", `directory ${file} is not open`);
    return cursor;
  }

  removeFile(file: OpenFile): void {
    this.file(file);
    this.#files.delete(file);
  }

  removeDirectory(file: OpenFile): void {
    const cursor = this.directory(file);
    this.#directories.delete(file);
    const cursors = this.#cursors.get(cursor.node);
    cursors?.delete(cursor);
    if (cursors?.size === 0) this.#cursors.delete(cursor.node);
  }

  /** A directory was changed through this mount: what was read ahead of it is out of date. */
  changed(node: Node): void {
    if (this.#cursors.size === 0) return;
    for (const cursor of this.#cursors.get(node) ?? []) cursor.dropAhead();
  }

  /** A directory was changed elsewhere; without a `node`, any may have been. */
  dropListings(node?: Node): void {
    const nodes = node === undefined ? [...this.#cursors.keys()] : [node];
    for (const one of nodes) {
      if (!this.#cursors.has(one)) continue;
      this.changed(one);
      this.#suspect.add(one);
    }
  }

  /** The kernel knows the node no more, and so has nothing cached of it. */
  forgotten(node: Node): void {
    this.#suspect.delete(node);
  }

  /** Takes everything out, for the end of the mount. */
  removeAll(): { files: OpenFile[]; directories: OpenFile[] } {
    const all = { files: [...this.#files.keys()], directories: [...this.#directories.keys()] };
    this.#files.clear();
    this.#directories.clear();
    this.#cursors.clear();
    return all;
  }
}
