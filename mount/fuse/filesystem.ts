/**
 * The filesystem as a FUSE binding sees it: the low-level (inode) interface of FUSE, in promises.
 *
 * A binding translates what the kernel sends into these calls and their outcome into replies; a
 * failure is a `StatusError`, and `protocol/status.ts` has its errno. The other side knows nothing
 * of FUSE.
 *
 * - Nodes are numbers that the filesystem makes; the root is 1. A node stays valid until `forget`
 * has
 *   taken back every reference that `lookup` and the creating calls gave out.
 * - Names are bytes. The filesystem checks them; the kernel has checked permissions
 *   (`default_permissions`).
 * - Calls run concurrently. A binding must never touch its own mount, or it waits for itself.
 */

export type Node = number;
/** An open file or directory. Small, reused after release. 0 is none. */
export type OpenFile = number;

export const rootNode: Node = 1;

/** Who asks. `signal` aborts when the application is interrupted. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  readonly signal?: AbortSignal;
}

/**
 * struct stat, as far as a filesystem decides it. Times in ns since 1970. `blocks` of 512 bytes.
 */
export interface NodeAttr {
  /** st_ino: below 2^53; below 2^32 for anything but very large filesystems. */
  ino: number;
  /** Type and permission bits. */
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  size: number;
  blocks: number;
  atime: bigint;
  mtime: bigint;
  ctime: bigint;
}

export interface Entry {
  node: Node;
  attr: NodeAttr;
}

export interface DirectoryEntry {
  name: Buffer;
  attr: NodeAttr;
}

/** What `setattr` changes; what is absent stays. */
export interface AttrChanges {
  mode?: number;
  uid?: number;
  gid?: number;
  size?: number;
  atime?: bigint;
  mtime?: bigint;
}

export interface Statfs {
  blockBytes: number;
  blocks: number;
  blocksFree: number;
  files: number;
  filesFree: number;
  nameBytesMax: number;
}

export interface FileSystem {
  /** `not-found` if there is none. Each success adds a reference to the node. */
  lookup(parent: Node, name: Buffer, caller: Caller): Promise<Entry>;
  forget(node: Node, references: number): void;
  getattr(node: Node, file: OpenFile, caller: Caller): Promise<NodeAttr>;
  setattr(node: Node, changes: AttrChanges, file: OpenFile, caller: Caller): Promise<NodeAttr>;
  readlink(node: Node, caller: Caller): Promise<Buffer>;

  /**
   * Creating calls add a reference to the node they return, like `lookup`. `mode` has the type
   * bits.
   */
  mknod(parent: Node, name: Buffer, mode: number, rdev: number, caller: Caller): Promise<Entry>;
  mkdir(parent: Node, name: Buffer, mode: number, caller: Caller): Promise<Entry>;
  symlink(parent: Node, name: Buffer, target: Buffer, caller: Caller): Promise<Entry>;
  link(node: Node, parent: Node, name: Buffer, caller: Caller): Promise<Entry>;
  unlink(parent: Node, name: Buffer, caller: Caller): Promise<void>;
  rmdir(parent: Node, name: Buffer, caller: Caller): Promise<void>;
  /** `flags`: RENAME_NOREPLACE 1, RENAME_EXCHANGE 2 (renameat2(2)). */
  rename(
    source: { parent: Node; name: Buffer },
    target: { parent: Node; name: Buffer },
    flags: number,
    caller: Caller,
  ): Promise<void>;

  /** `flags` as of open(2). */
  open(node: Node, flags: number, caller: Caller): Promise<OpenFile>;
  create(
    parent: Node,
    name: Buffer,
    mode: number,
    flags: number,
    caller: Caller,
  ): Promise<Entry & { file: OpenFile }>;
  /** At most `length` bytes, fewer only at the end of the file. The pieces follow each other. */
  read(file: OpenFile, offset: number, length: number, caller: Caller): Promise<readonly Buffer[]>;
  /** Takes a copy of `data` before it returns its promise. Resolves with the bytes written. */
  write(file: OpenFile, offset: number, data: Buffer, caller: Caller): Promise<number>;
  /** close(2): everything written is on its way to being safe, or the error is reported here. */
  flush(file: OpenFile, caller: Caller): Promise<void>;
  fsync(file: OpenFile, dataOnly: boolean, caller: Caller): Promise<void>;
  release(file: OpenFile): Promise<void>;

  opendir(node: Node, caller: Caller): Promise<OpenFile>;
  /**
   * The entries after the one named `after` (from the start without it), at most `limit`, without
   * "." and "..", in a stable order; fewer than `limit` (or none) only at the end.
   */
  readdir(
    file: OpenFile,
    after: Buffer | undefined,
    limit: number,
    caller: Caller,
  ): Promise<readonly DirectoryEntry[]>;
  releasedir(file: OpenFile): Promise<void>;
  fsyncdir(file: OpenFile, caller: Caller): Promise<void>;

  statfs(caller: Caller): Promise<Statfs>;
  getxattr(node: Node, name: Buffer, caller: Caller): Promise<Buffer>;
  /** `flags`: XATTR_CREATE 1, XATTR_REPLACE 2. */
  setxattr(node: Node, name: Buffer, value: Buffer, flags: number, caller: Caller): Promise<void>;
  listxattr(node: Node, caller: Caller): Promise<readonly Buffer[]>;
  removexattr(node: Node, name: Buffer, caller: Caller): Promise<void>;
}

/** A mounted filesystem, as the program that serves it sees it. */
export interface Mounted {
  /** Resolves when the mount is gone: unmounted by us or by anybody. */
  readonly unmounted: Promise<void>;
  /** Unmounts; fails with `busy` while it is in use, unless `lazy`. */
  unmount(options: { lazy: boolean }): Promise<void>;
}

export interface MountOptions {
  mountpoint: string;
  /** Other users may use the mount (needs root, or user_allow_other in /etc/fuse.conf). */
  allowOther: boolean;
  readOnly: boolean;
  /** Seconds that the kernel may believe a name or attributes without asking again. */
  entryTimeout: number;
  attrTimeout: number;
  /** Further options, as after -o. */
  extra: readonly string[];
}
