/**
 * A `FileSystem` in memory: complete, small, and without any of the real one's parts, to test the
 * bindings with. Unlinked nodes live until they are closed and forgotten, so leaks can be counted.
 */

import { assert, must } from "../../common/assert.ts";
import type { Clock } from "../../common/clock.ts";
import type {
  AttrChanges,
  Caller,
  DirectoryEntry,
  DirectoryPage,
  Entry,
  FileLock,
  FileRange,
  FileSystem,
  KernelCaches,
  Making,
  Node,
  NodeAttr,
  Opened,
  OpenFile,
  Statfs,
  Writing,
} from "../../mount/fuse/filesystem.ts";
import { fallocateFlags } from "../../mount/fuse/filesystem.ts";
import { type Status, StatusError } from "../../protocol/status.ts";

const S_IFMT = 0o170000;
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const O_TRUNC = 0o1000;

interface Inode {
  attr: NodeAttr;
  /** Whole content; the length is attr.size, the capacity grows by doubling. */
  bytes: Buffer;
  target: Buffer;
  /** Name (latin1, so any byte) to node, in the order of creation. */
  entries: Map<string, Node>;
  parent: Node;
  xattrs: Map<string, Buffer>;
  /** What `lookup` and its like gave out, less what `forget` took back. */
  references: number;
  opened: number;
}

const fail = (status: Status, message: string = status): never => {
  throw new StatusError(status, message);
};

/** Thrown again and again: to make one, with its stack, takes longer than all else of a lookup. */
const absent = new StatusError("not-found", "no such name");

export class MemoryFileSystem implements FileSystem {
  readonly #clock: Clock;
  readonly #inodes = new Map<Node, Inode>();
  readonly #files = new Map<OpenFile, { node: Node; flags: number }>();
  #nextNode = 2;
  /** What a binding has given for telling the kernel. */
  kernel: KernelCaches | undefined;
  /** How long the kernel may believe what it is told, in ms. */
  validity = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#inodes.set(1, this.#inode(1, S_IFDIR | 0o755, 1, { uid: 0, gid: 0, pid: 0 }));
  }

  /** Sum of references that were given out and not taken back: 0 when a binding is at rest. */
  get references(): number {
    let sum = 0;
    for (const inode of this.#inodes.values()) sum += inode.references;
    return sum;
  }

  get openFiles(): number {
    return this.#files.size;
  }

  get inodes(): number {
    return this.#inodes.size;
  }

  mounted(kernel: KernelCaches): void {
    this.kernel = kernel;
  }

  validMs(): number {
    return this.validity;
  }

  async lookup(parent: Node, name: Buffer, _caller?: Caller): Promise<Entry> {
    const node = this.#directory(parent).entries.get(key(name));
    if (node === undefined) throw absent;
    return this.#entry(node);
  }

  forget(node: Node, references: number): void {
    const inode = this.#get(node);
    assert(inode.references >= references, "no more is forgotten than was looked up");
    inode.references -= references;
    this.#reclaim(node);
  }

  async getattr(node: Node, _file?: OpenFile, _caller?: Caller): Promise<NodeAttr> {
    return { ...this.#get(node).attr };
  }

  async setattr(node: Node, changes: AttrChanges): Promise<NodeAttr> {
    const inode = this.#get(node);
    const { mode, size, atime, mtime, killSuidGid: _, ...rest } = changes;
    if (mode !== undefined) inode.attr.mode = (inode.attr.mode & S_IFMT) | (mode & 0o7777);
    if (size !== undefined) this.#resize(inode, size);
    Object.assign(inode.attr, rest);
    const now = this.#clock.wallNs();
    if (atime !== undefined) inode.attr.atime = atime === "now" ? now : atime;
    if (mtime !== undefined) inode.attr.mtime = mtime === "now" ? now : mtime;
    inode.attr.ctime = this.#clock.wallNs();
    return { ...inode.attr };
  }

  async readlink(node: Node): Promise<Buffer> {
    return this.#get(node).target;
  }

  async mknod(
    parent: Node,
    name: Buffer,
    { mode, umask, rdev }: Making & { rdev: number },
    caller: Caller,
  ): Promise<Entry> {
    const node = this.#make(parent, name, mode & ~umask, caller);
    this.#get(node).attr.rdev = rdev;
    return this.#entry(node);
  }

  async mkdir(parent: Node, name: Buffer, making: Making, caller: Caller): Promise<Entry> {
    return this.#entry(this.#make(parent, name, S_IFDIR | permissions(making), caller));
  }

  async symlink(parent: Node, name: Buffer, target: Buffer, caller: Caller): Promise<Entry> {
    const node = this.#make(parent, name, S_IFLNK | 0o777, caller);
    const inode = this.#get(node);
    inode.target = target;
    inode.attr.size = target.length;
    return this.#entry(node);
  }

  async link(node: Node, parent: Node, name: Buffer): Promise<Entry> {
    if (isDirectory(this.#get(node))) fail("not-permitted");
    this.#insert(parent, name, node);
    this.#get(node).attr.nlink += 1;
    return this.#entry(node);
  }

  async unlink(parent: Node, name: Buffer): Promise<void> {
    const node = this.#directory(parent).entries.get(key(name)) ?? fail("not-found");
    if (isDirectory(this.#get(node))) fail("is-directory");
    this.#remove(parent, name);
  }

  async rmdir(parent: Node, name: Buffer): Promise<void> {
    const node = this.#directory(parent).entries.get(key(name)) ?? fail("not-found");
    if (!isDirectory(this.#get(node))) fail("not-directory");
    if (this.#get(node).entries.size > 0) fail("not-empty");
    this.#remove(parent, name);
  }

  async rename(
    source: { parent: Node; name: Buffer },
    target: { parent: Node; name: Buffer },
    flags: number,
  ): Promise<void> {
    if (flags !== 0) fail("invalid");
    const from = this.#directory(source.parent);
    const to = this.#directory(target.parent);
    const node = from.entries.get(key(source.name)) ?? fail("not-found");
    const replaced = to.entries.get(key(target.name));
    if (replaced === node) return;
    if (replaced !== undefined) {
      const over = this.#get(replaced);
      if (isDirectory(over) && !isDirectory(this.#get(node))) fail("is-directory");
      if (!isDirectory(over) && isDirectory(this.#get(node))) fail("not-directory");
      if (over.entries.size > 0) fail("not-empty");
      this.#remove(target.parent, target.name);
    }
    from.entries.delete(key(source.name));
    to.entries.set(key(target.name), node);
    if (!isDirectory(this.#get(node))) return;
    from.attr.nlink -= 1;
    to.attr.nlink += 1;
    this.#get(node).parent = target.parent;
  }

  async open(node: Node, flags: number): Promise<Opened> {
    if (isDirectory(this.#get(node))) fail("is-directory");
    if ((flags & O_TRUNC) !== 0) this.#resize(this.#get(node), 0);
    return this.#openFile(node, flags);
  }

  async create(
    parent: Node,
    name: Buffer,
    making: Making & { flags: number },
    caller: Caller,
  ): Promise<Entry & Opened> {
    const node = this.#make(parent, name, S_IFREG | permissions(making), caller);
    return { ...this.#entry(node), ...this.#openFile(node, making.flags) };
  }

  async tmpfile(): Promise<Entry & Opened> {
    return fail("not-supported");
  }

  async read(file: OpenFile, offset: number, length: number): Promise<readonly Buffer[]> {
    const inode = this.#get(this.#file(file).node);
    return [inode.bytes.subarray(offset, Math.min(offset + length, inode.attr.size))];
  }

  async write(file: OpenFile, { offset, data, append }: Writing): Promise<number> {
    const inode = this.#get(this.#file(file).node);
    const at = append ? inode.attr.size : offset;
    if (at + data.length > inode.attr.size) this.#resize(inode, at + data.length);
    data.copy(inode.bytes, at);
    inode.attr.mtime = inode.attr.ctime = this.#clock.wallNs();
    return data.length;
  }

  async flush(file: OpenFile): Promise<void> {
    this.#file(file);
  }

  async fsync(file: OpenFile): Promise<void> {
    this.#file(file);
  }

  async release(file: OpenFile): Promise<void> {
    const { node } = this.#file(file);
    this.#files.delete(file);
    this.#get(node).opened -= 1;
    this.#reclaim(node);
  }

  async fallocate(file: OpenFile, range: FileRange, flags: number): Promise<void> {
    const inode = this.#get(this.#file(file).node);
    const end = range.offset + range.length;
    const known = fallocateFlags.keepSize | fallocateFlags.punchHole | fallocateFlags.zeroRange;
    if ((flags & ~known) !== 0) fail("not-supported");
    if ((flags & (fallocateFlags.punchHole | fallocateFlags.zeroRange)) !== 0)
      inode.bytes.fill(0, range.offset, Math.min(end, inode.attr.size));
    if ((flags & fallocateFlags.keepSize) === 0 && end > inode.attr.size) this.#resize(inode, end);
  }

  async seek(file: OpenFile, offset: number, what: "data" | "hole"): Promise<number> {
    const { size } = this.#get(this.#file(file).node).attr;
    if (offset >= size) fail("no-such-offset");
    return what === "data" ? offset : size;
  }

  async copyFileRange(): Promise<number> {
    return fail("not-supported");
  }

  async getLock(): Promise<FileLock | undefined> {
    return undefined;
  }

  async setLock(): Promise<void> {}

  async opendir(node: Node): Promise<Opened> {
    this.#directory(node);
    return this.#openFile(node, 0);
  }

  async readdir(file: OpenFile, after: Buffer | undefined, limit: number): Promise<DirectoryPage> {
    const { node } = this.#file(file);
    const directory = this.#directory(node);
    const names = [...directory.entries.keys()].toSorted();
    const first = after === undefined ? 0 : names.findIndex((name) => name > key(after));
    const page = first < 0 ? [] : names.slice(first, first + limit);
    const entries = page.map((name) => ({
      name: Buffer.from(name, "latin1"),
      attr: { ...this.#get(must(directory.entries.get(name), "listed entry")).attr },
      token: undefined,
    }));
    return { entries, self: node, parent: directory.parent };
  }

  adopt(_file: OpenFile, entry: DirectoryEntry): Entry | undefined {
    const { ino } = entry.attr;
    return this.#inodes.has(ino) ? this.#entry(ino) : undefined;
  }

  async releasedir(file: OpenFile): Promise<void> {
    await this.release(file);
  }

  async fsyncdir(file: OpenFile): Promise<void> {
    this.#file(file);
  }

  async syncfs(): Promise<void> {}

  async statfs(): Promise<Statfs> {
    const blocks = 2 ** 34; // 64 TiB: more blocks than 32 bits hold.
    return {
      blockBytes: 4096,
      blocks,
      blocksFree: blocks / 2,
      files: this.#inodes.size,
      filesFree: 2 ** 40,
      nameBytesMax: 255,
    };
  }

  async getxattr(node: Node, name: Buffer): Promise<Buffer> {
    return this.#get(node).xattrs.get(key(name)) ?? fail("no-attribute");
  }

  async setxattr(
    node: Node,
    { name, value, flags }: { name: Buffer; value: Buffer; flags: number },
  ): Promise<void> {
    const { xattrs, attr } = this.#get(node);
    if (key(name) === "system.posix_acl_access") {
      attr.mode = (attr.mode & ~0o777) | permissionsOfAcl(value);
      attr.ctime = this.#clock.wallNs();
      if (value.length <= minimalAclBytes) return;
    }
    if ((flags & 1) !== 0 && xattrs.has(key(name))) fail("exists");
    if ((flags & 2) !== 0 && !xattrs.has(key(name))) fail("no-attribute");
    xattrs.set(key(name), Buffer.from(value));
  }

  async listxattr(node: Node): Promise<readonly Buffer[]> {
    return [...this.#get(node).xattrs.keys()].map((name) => Buffer.from(name, "latin1"));
  }

  async removexattr(node: Node, name: Buffer): Promise<void> {
    if (!this.#get(node).xattrs.delete(key(name))) fail("no-attribute");
  }

  #get(node: Node): Inode {
    return must(this.#inodes.get(node), `node ${node}, which is referenced`);
  }

  #directory(node: Node): Inode {
    const inode = this.#get(node);
    return isDirectory(inode) ? inode : fail("not-directory");
  }

  #file(file: OpenFile): { node: Node; flags: number } {
    return this.#files.get(file) ?? fail("bad-file");
  }

  #entry(node: Node): Entry {
    const inode = this.#get(node);
    inode.references += 1;
    return { node, attr: { ...inode.attr } };
  }

  #openFile(node: Node, flags: number): Opened {
    let file = 1;
    while (this.#files.has(file)) file += 1;
    this.#files.set(file, { node, flags });
    this.#get(node).opened += 1;
    return { file, keepCache: false, directIo: false };
  }

  #make(parent: Node, name: Buffer, mode: number, caller: Caller): Node {
    const node = this.#nextNode;
    this.#insert(parent, name, node);
    this.#nextNode += 1;
    this.#inodes.set(node, this.#inode(node, mode, parent, caller));
    if ((mode & S_IFMT) === S_IFDIR) this.#get(parent).attr.nlink += 1;
    return node;
  }

  #inode(node: Node, mode: number, parent: Node, caller: Caller): Inode {
    const now = this.#clock.wallNs();
    const directory = (mode & S_IFMT) === S_IFDIR;
    const attr: NodeAttr = {
      ino: node,
      mode,
      nlink: directory ? 2 : 1,
      uid: caller.uid,
      gid: caller.gid,
      rdev: 0,
      size: 0,
      blocks: 0,
      atime: now,
      mtime: now,
      ctime: now,
    };
    const none = Buffer.alloc(0);
    const empty = { bytes: none, target: none, entries: new Map(), xattrs: new Map() };
    return { attr, parent, references: 0, opened: 0, ...empty };
  }

  #insert(parent: Node, name: Buffer, node: Node): void {
    if (name.length > 255) fail("name-too-long");
    const { entries, attr } = this.#directory(parent);
    if (entries.has(key(name))) fail("exists");
    entries.set(key(name), node);
    attr.mtime = attr.ctime = this.#clock.wallNs();
  }

  #remove(parent: Node, name: Buffer): void {
    const { entries, attr } = this.#directory(parent);
    const node = must(entries.get(key(name)), "entry to remove");
    const inode = this.#get(node);
    entries.delete(key(name));
    inode.attr.nlink = isDirectory(inode) ? 0 : inode.attr.nlink - 1;
    if (isDirectory(inode)) attr.nlink -= 1;
    attr.mtime = attr.ctime = inode.attr.ctime = this.#clock.wallNs();
    this.#reclaim(node);
  }

  #resize(inode: Inode, size: number): void {
    if (size > inode.bytes.length) {
      const grown = Buffer.alloc(Math.max(size, 2 * inode.bytes.length));
      inode.bytes.copy(grown, 0, 0, inode.attr.size);
      inode.bytes = grown;
    }
    inode.bytes.fill(0, size, Math.max(size, inode.attr.size));
    inode.attr.size = size;
    inode.attr.blocks = Math.ceil(size / 512);
    inode.attr.mtime = inode.attr.ctime = this.#clock.wallNs();
  }

  #reclaim(node: Node): void {
    const { attr, references, opened } = this.#get(node);
    if (attr.nlink === 0 && references === 0 && opened === 0) this.#inodes.delete(node);
  }
}

/** Version, and an entry each for owner, group and others: what a mode says as well. */
const minimalAclBytes = 4 + 3 * 8;

/** The permission bits that an ACL stands for (acl(5), include/uapi/linux/posix_acl_xattr.h). */
function permissionsOfAcl(value: Buffer): number {
  const byTag = new Map<number, number>();
  for (let at = 4; at + 8 <= value.length; at += 8)
    byTag.set(value.readUInt16LE(at), value.readUInt16LE(at + 2));
  const [owner, group, mask, other] = [1, 4, 0x10, 0x20].map((tag) => byTag.get(tag));
  return ((owner ?? 0) << 6) | ((mask ?? group ?? 0) << 3) | (other ?? 0);
}

const permissions = ({ mode, umask }: Making): number => mode & ~umask & 0o7777;
const key = (name: Buffer): string => name.toString("latin1");
const isDirectory = (inode: Inode): boolean => (inode.attr.mode & S_IFMT) === S_IFDIR;
