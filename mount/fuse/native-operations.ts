import { assert, must } from "../../common/assert.ts";
import { StatusError } from "../../protocol/status.ts";
import type { AttrChanges, Caller, Entry, FileSystem, Node, NodeAttr } from "./filesystem.ts";
import type { OpenFile, Statfs } from "./filesystem.ts";
import { rootNode } from "./filesystem.ts";
import { bytesFromText, textFromBytes } from "./native-names.ts";
import { hiddenNumber, Paths, type Resolved } from "./native-paths.ts";

/** Entries asked for at a time: a page of them with their attributes fits one message. */
const pageEntries = 512;

/** How many names libfuse tries for a hidden file (`hidden_name`), each with the next number. */
const hiddenTries = 10;

/** O_APPEND of open(2). */
const openAppend = 0o2000;

/** readlink(2) gives at most PATH_MAX bytes, the NUL not counted. */
const targetBytesMax = 4095;

/**
 * libfuse 2 cannot tell the kernel that a filesystem has POSIX ACLs, so the kernel neither heeds
 * them nor keeps the mode in step with them. Here they are not supported; `cp -a` and the like then
 * use chmod(2).
 */
const accessLists = new Set(["system.posix_acl_access", "system.posix_acl_default"]);

interface ListedEntry {
  name: string;
  attr: NodeAttr;
}

/**
 * FUSE operations by path, as libfuse's high level has them, on a `FileSystem`, which has them by
 * node. Each fails with `StatusError`. An open file is known by the number the filesystem gave it.
 */
export class NativeOperations {
  readonly #fileSystem: FileSystem;
  readonly #caller: Caller;
  readonly #paths: Paths;
  /** Where every open file was found; that is given back when it is released. */
  readonly #open = new Map<OpenFile, Resolved>();
  /** The flags of open(2) of every open file. */
  readonly #flags = new Map<OpenFile, number>();
  /** The number in the last name that libfuse made for a hidden file; it counts from 1. */
  #hiddenLast = 0;
  /** The directory that was last refused to be removed, and may be asked for again. */
  #refused: string | undefined;

  constructor(fileSystem: FileSystem, caller: Caller) {
    this.#fileSystem = fileSystem;
    this.#caller = caller;
    this.#paths = new Paths(fileSystem, caller);
  }

  async getattr(path: string): Promise<NodeAttr> {
    return this.#paths.withNode(
      path,
      // A lookup's attributes are as good as getattr's, and one request less.
      async ({ node, attr }) => attr ?? (await this.#fileSystem.getattr(node, 0, this.#caller)),
    );
  }

  /** Of an open file, even if its path is gone. */
  async fgetattr(path: string, file: OpenFile): Promise<NodeAttr> {
    if (file === 0) return this.getattr(path);
    return this.#fileSystem.getattr(this.#node(file), file, this.#caller);
  }

  async setattr(path: string, changes: AttrChanges): Promise<void> {
    await this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.setattr(node, changes, 0, this.#caller),
    );
  }

  async ftruncate(path: string, file: OpenFile, size: number): Promise<void> {
    if (file === 0) return this.setattr(path, { size });
    await this.#fileSystem.setattr(this.#node(file), { size }, file, this.#caller);
  }

  async readlink(path: string): Promise<string> {
    const target = await this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.readlink(node, this.#caller),
    );
    const text = textFromBytes(target);
    // Escaped bytes take three: a target can be too long to show, and half of it is another one.
    if (Buffer.byteLength(text) > targetBytesMax)
      throw new StatusError("name-too-long", "symlink target");
    return text;
  }

  async mknod(path: string, mode: number, rdev: number): Promise<void> {
    await this.#create(path, (parent, name) =>
      this.#fileSystem.mknod(parent, name, { mode, umask: 0, rdev }, this.#caller),
    );
  }

  async mkdir(path: string, mode: number): Promise<void> {
    await this.#create(path, (parent, name) =>
      this.#fileSystem.mkdir(parent, name, { mode, umask: 0 }, this.#caller),
    );
  }

  async symlink(target: string, path: string): Promise<void> {
    const bytes = bytesFromText(target);
    await this.#create(path, (parent, name) =>
      this.#fileSystem.symlink(parent, name, bytes, this.#caller),
    );
  }

  async link(source: string, target: string): Promise<void> {
    await this.#paths.withNode(source, ({ node }) =>
      this.#create(target, (parent, name) =>
        this.#fileSystem.link(node, parent, name, this.#caller),
      ),
    );
  }

  async unlink(path: string): Promise<void> {
    await this.#paths.withParent(path, (parent, name) =>
      this.#fileSystem.unlink(parent, name, this.#caller),
    );
  }

  async rmdir(path: string): Promise<void> {
    await this.#checkDirectory(path);
    await this.#paths.withParent(path, (parent, name) =>
      this.#fileSystem.rmdir(parent, name, this.#caller),
    );
  }

  async rename(source: string, target: string): Promise<void> {
    if (await this.#hide(source, target)) return;
    await this.#checkDirectory(target);
    await this.#paths.withParent(source, (sourceParent, sourceName) =>
      this.#paths.withParent(target, (targetParent, targetName) =>
        this.#fileSystem.rename(
          { parent: sourceParent, name: sourceName },
          { parent: targetParent, name: targetName },
          0,
          this.#caller,
        ),
      ),
    );
    if (this.#open.size === 0) return;
    await this.#paths
      .withNode(target, (moved) => Promise.resolve(this.#foundAt(moved)))
      .catch(() => undefined); // It is gone again: then it is no matter where it was.
  }

  /**
   * libfuse renames an open file that is unlinked or replaced. If this rename is such a one, the
   * file is unlinked instead, and found as `target` from then on. An application's own rename to a
   * name of that form must stay a rename: it is not of an open file, or does not have libfuse's
   * next number.
   */
  async #hide(source: string, target: string): Promise<boolean> {
    const number = hiddenNumber(source, target);
    if (number === undefined) return false;
    if (number <= this.#hiddenLast || number > this.#hiddenLast + hiddenTries) return false;
    return this.#paths.withNode(source, async (found) => {
      if (!this.#isOpen(found.node)) return false;
      this.#hiddenLast = number;
      await this.unlink(source);
      this.#foundAt(found);
      // The last release may have come meanwhile: then nobody can ask for it any more.
      if (this.#isOpen(found.node)) this.#paths.hide(target, found);
      return true;
    });
  }

  /** Open files know their directory: they were last found where `found` says. */
  #foundAt({ node, parentIno }: Resolved): void {
    for (const [file, open] of this.#open)
      if (open.node === node) this.#open.set(file, { ...open, parentIno });
  }

  /**
   * Refuses to remove or replace a directory as long as files are open that libfuse knows by a path
   * in it, though they were unlinked, here or by another mount: without a path libfuse calls
   * `flush` with a null pointer, of which fuse-native dies.
   *
   * A file may be closed already, and its release on the way, waiting in libfuse for this very
   * operation to end. So the first answer is ESTALE, upon which the kernel looks the path up again
   * and retries once; an application only sees the second.
   */
  async #checkDirectory(path: string): Promise<void> {
    if (this.#open.size === 0) return;
    const attr = await this.getattr(path).catch(() => undefined);
    // Where there is nothing, the operation itself will say so.
    if (![...this.#open.values()].some(({ parentIno }) => parentIno === attr?.ino)) return;
    const again = this.#refused === path;
    this.#refused = again ? undefined : path;
    if (again) throw new StatusError("not-empty", "files are open that were in it");
    throw new StatusError("stale", "files that were in it may be about to be released");
  }

  /** `flags` as of open(2). The open file keeps its node's reference until `release`. */
  async open(path: string, flags: number): Promise<OpenFile> {
    const found = await this.#paths.resolve(path);
    try {
      const { file } = await this.#fileSystem.open(found.node, flags, this.#caller);
      assert(file > 0, "an open file's number is not 0, which is none");
      assert(file < 2 ** 31, "an open file's number fits fuse-native's 32 bits");
      assert(!this.#open.has(file), "an open file's number is free");
      this.#open.set(file, found);
      this.#flags.set(file, flags);
      return file;
    } catch (error) {
      this.#paths.forget(found);
      throw error;
    }
  }

  /** Fills `target` from `offset` of the file; resolves with the bytes read. */
  async read(file: OpenFile, offset: number, target: Buffer): Promise<number> {
    this.#node(file);
    const pieces = await this.#fileSystem.read(file, offset, target.length, this.#caller);
    let count = 0;
    for (const piece of pieces) {
      assert(piece.length <= target.length - count, "no more bytes than asked for");
      piece.copy(target, count);
      count += piece.length;
    }
    return count;
  }

  async write(file: OpenFile, offset: number, data: Buffer): Promise<number> {
    this.#node(file);
    const append = (must(this.#flags.get(file), "flags of an open file") & openAppend) !== 0;
    const writing = { offset, data, append, killSuidGid: false };
    return this.#fileSystem.write(file, writing, this.#caller);
  }

  async flush(file: OpenFile): Promise<void> {
    this.#node(file);
    await this.#fileSystem.flush(file, undefined, this.#caller);
  }

  async fsync(file: OpenFile, dataOnly: boolean): Promise<void> {
    this.#node(file);
    await this.#fileSystem.fsync(file, dataOnly, this.#caller);
  }

  async release(file: OpenFile): Promise<void> {
    const found = this.#found(file);
    this.#open.delete(file);
    this.#flags.delete(file);
    try {
      await this.#fileSystem.release(file);
    } finally {
      this.#paths.forget(found);
      if (!this.#isOpen(found.node)) this.#paths.reveal(found.node);
    }
  }

  /**
   * Releases what is still open when the kernel has ended the mount: it does not wait until the
   * last release has been sent.
   */
  async releaseAll(): Promise<void> {
    await Promise.allSettled([...this.#open.keys()].map((file) => this.release(file)));
  }

  /** The whole directory, as fuse-native wants it: with "." and "..", in one answer. */
  async readdir(path: string): Promise<ListedEntry[]> {
    return this.#withDirectory(path, async (directory, node, parentIno) => {
      const attr = await this.#fileSystem.getattr(node, directory, this.#caller);
      const listed = [
        { name: ".", attr },
        { name: "..", attr: { ...attr, ino: node === rootNode ? attr.ino : parentIno } },
      ];
      for (let after: Buffer | undefined; ;) {
        const page = await this.#fileSystem.readdir(directory, after, pageEntries, this.#caller);
        const { entries } = page;
        for (const entry of entries)
          listed.push({ name: textFromBytes(entry.name), attr: entry.attr });
        if (entries.length < pageEntries) return listed;
        after = entries.at(-1)?.name;
      }
    });
  }

  /** fuse-native does not say which open directory is meant, so one is opened for it. */
  async fsyncdir(path: string): Promise<void> {
    await this.#withDirectory(path, (directory) =>
      this.#fileSystem.fsyncdir(directory, false, this.#caller),
    );
  }

  async statfs(): Promise<Statfs> {
    return this.#fileSystem.statfs(this.#caller);
  }

  async getxattr(path: string, name: string): Promise<Buffer> {
    const bytes = attributeName(name);
    return this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.getxattr(node, bytes, this.#caller),
    );
  }

  /** `flags`: XATTR_CREATE 1, XATTR_REPLACE 2. `value` is copied before the first wait. */
  async setxattr(path: string, name: string, value: Buffer, flags: number): Promise<void> {
    const bytes = attributeName(name);
    const copy = Buffer.from(value);
    await this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.setxattr(
        node,
        { name: bytes, value: copy, flags, killSgid: false },
        this.#caller,
      ),
    );
  }

  async listxattr(path: string): Promise<Buffer> {
    const names = await this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.listxattr(node, this.#caller),
    );
    const shown = names.map(textFromBytes).filter((name) => !accessLists.has(name));
    return Buffer.from(shown.map((name) => `${name}\0`).join(""));
  }

  async removexattr(path: string, name: string): Promise<void> {
    const bytes = attributeName(name);
    await this.#paths.withNode(path, ({ node }) =>
      this.#fileSystem.removexattr(node, bytes, this.#caller),
    );
  }

  #found(file: OpenFile): Resolved {
    const found = this.#open.get(file);
    if (found === undefined) throw new StatusError("bad-file", `open file ${file} is not known`);
    return found;
  }

  #node(file: OpenFile): Node {
    return this.#found(file).node;
  }

  #isOpen(node: Node): boolean {
    return [...this.#open.values()].some((found) => found.node === node);
  }

  /** Runs a creating call and gives back the reference it made: paths have no use for it. */
  async #create(
    path: string,
    create: (parent: Node, name: Buffer) => Promise<Entry>,
  ): Promise<void> {
    this.#paths.forget(this.#paths.created(await this.#paths.withParent(path, create)));
  }

  async #withDirectory<T>(
    path: string,
    use: (directory: OpenFile, node: Node, parentIno: number) => Promise<T>,
  ): Promise<T> {
    return this.#paths.withNode(path, async ({ node, parentIno }) => {
      const { file: directory } = await this.#fileSystem.opendir(node, this.#caller);
      try {
        return await use(directory, node, parentIno);
      } finally {
        await this.#fileSystem.releasedir(directory);
      }
    });
  }
}

function attributeName(name: string): Buffer {
  if (accessLists.has(name)) throw new StatusError("not-supported", "ACLs");
  return bytesFromText(name);
}
