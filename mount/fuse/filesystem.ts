/**
 * The filesystem as a FUSE binding sees it: the low-level (inode) interface of FUSE, in promises.
 *
 * A binding translates what the kernel sends into these calls and their outcome into replies; a
 * failure is a `StatusError`, and `protocol/status.ts` has its errno. The other side knows nothing
 * of FUSE.
 *
 * - Nodes are numbers that the filesystem makes; the root is 1. A node stays valid until `forget`
 *   has taken back every reference that `lookup` and the creating calls gave out.
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
  /** The filesystem's own, for `adopt`. */
  token: unknown;
}

/** Part of a directory, and the st_ino of "." and "..", which are not among the entries. */
export interface DirectoryPage {
  entries: readonly DirectoryEntry[];
  self: number;
  parent: number;
}

/**
 * How a node is made. `mode` has the type bits where the call leaves a choice. `umask`: the
 * process's, which the filesystem applies unless the parent has a default ACL; 0 if that has been
 * done already.
 */
export interface Making {
  mode: number;
  umask: number;
}

/** What `setattr` changes; what is absent stays. "now" is the master's time, as of the change. */
export interface AttrChanges {
  mode?: number;
  uid?: number;
  gid?: number;
  size?: number;
  atime?: bigint | "now";
  mtime?: bigint | "now";
  /** Take away setuid and setgid, as a change of size or owner by an ordinary user does. */
  killSuidGid?: boolean;
}

/** How the kernel is to treat a file just opened. */
export interface Opened {
  file: OpenFile;
  /** Pages that the kernel has of the file are still true. */
  keepCache: boolean;
  /** The kernel keeps no pages: every read and write is asked for. */
  directIo: boolean;
}

export interface Writing {
  offset: number;
  /** Valid until the call returns its promise: what is needed later is copied. */
  data: Buffer;
  /** O_APPEND: wherever the file ends, whatever `offset` says. */
  append: boolean;
  /** Take away setuid and setgid: written by somebody without CAP_FSETID. */
  killSuidGid: boolean;
}

/** Whose lock it is: an opaque number of 64 bits from the kernel, of one mount. */
export type LockOwner = bigint;

/** struct flock: bytes `start` to `end`, both included; `end` 2^63 - 1 is "to the end". */
export interface FileLock {
  type: "read" | "write" | "unlock";
  start: bigint;
  end: bigint;
  /** The process that holds it, for F_GETLK; 0 if it is on another machine. */
  pid: number;
}

export interface LockRequest {
  owner: LockOwner;
  lock: FileLock;
  /** flock(2), not fcntl(2): the two kinds do not see each other. */
  flock: boolean;
  /** Wait until it can be had, or the caller is interrupted. */
  wait: boolean;
}

export interface FileRange {
  offset: number;
  length: number;
}

export interface Statfs {
  blockBytes: number;
  blocks: number;
  blocksFree: number;
  files: number;
  filesFree: number;
  nameBytesMax: number;
}

/** Flags of renameat2(2). */
export const renameFlags = { noReplace: 1, exchange: 2, whiteout: 4 } as const;

/** Flags of fallocate(2) (linux/falloc.h). */
export const fallocateFlags = { keepSize: 1, punchHole: 2, zeroRange: 0x10 } as const;

/**
 * What the kernel keeps of the filesystem, and how it is told that it is out of date. A binding
 * that can do this hands it to `FileSystem.mounted`.
 *
 * Each resolves once nothing on this mount can be answered from what was dropped. An answer to the
 * kernel must never wait for one of them, because they wait for the locks that the asking process
 * holds.
 */
export interface KernelCaches {
  /** A name, or that there is none such. */
  dropEntry(parent: Node, name: Buffer): Promise<void>;
  /** A node's attributes, xattrs and ACLs; with `pages` also its contents or its listing. */
  dropNode(node: Node, what: { pages: boolean }): Promise<void>;
  /** Everything: what others have changed has not been heard of. */
  dropAll(): Promise<void>;
}

export interface FileSystem {
  /** Called once, before the first request, by a binding that can tell the kernel. */
  mounted(kernel: KernelCaches): void;
  /**
   * How long in ms the kernel may believe, unless it is told otherwise, what an answer given now
   * says: of `attributes` of the node, or of the names in it, absent ones included.
   */
  validMs(node: Node, what: "attributes" | "names"): number;

  /** `not-found` if there is none. Each success adds a reference to the node. */
  lookup(parent: Node, name: Buffer, caller: Caller): Promise<Entry>;
  forget(node: Node, references: number): void;
  /** `file` is 0, or an open file of the node. */
  getattr(node: Node, file: OpenFile, caller: Caller): Promise<NodeAttr>;
  setattr(node: Node, changes: AttrChanges, file: OpenFile, caller: Caller): Promise<NodeAttr>;
  readlink(node: Node, caller: Caller): Promise<Buffer>;

  /** Creating calls add a reference to the node they return, like `lookup`. */
  mknod(
    parent: Node,
    name: Buffer,
    making: Making & { rdev: number },
    caller: Caller,
  ): Promise<Entry>;
  mkdir(parent: Node, name: Buffer, making: Making, caller: Caller): Promise<Entry>;
  symlink(parent: Node, name: Buffer, target: Buffer, caller: Caller): Promise<Entry>;
  link(node: Node, parent: Node, name: Buffer, caller: Caller): Promise<Entry>;
  unlink(parent: Node, name: Buffer, caller: Caller): Promise<void>;
  rmdir(parent: Node, name: Buffer, caller: Caller): Promise<void>;
  /** `flags`: `renameFlags`. */
  rename(
    source: { parent: Node; name: Buffer },
    target: { parent: Node; name: Buffer },
    flags: number,
    caller: Caller,
  ): Promise<void>;

  /**
   * `flags` as of open(2). `killSuidGid`: with O_TRUNC, take away setuid and setgid, as a write by
   * somebody without CAP_FSETID does.
   */
  open(node: Node, flags: number, caller: Caller, killSuidGid?: boolean): Promise<Opened>;
  /** open(2) with O_CREAT. `killSuidGid` as for `open`, should the file be there. */
  create(
    parent: Node,
    name: Buffer,
    making: Making & { flags: number; killSuidGid?: boolean },
    caller: Caller,
  ): Promise<Entry & Opened>;
  /** open(2) with O_TMPFILE: a file without a name in `parent`, which `link` can give it. */
  tmpfile(
    parent: Node,
    making: Making & { flags: number },
    caller: Caller,
  ): Promise<Entry & Opened>;
  /** At most `length` bytes, fewer only at the end of the file. The pieces follow each other. */
  read(file: OpenFile, offset: number, length: number, caller: Caller): Promise<readonly Buffer[]>;
  /** Resolves with the bytes written. */
  write(file: OpenFile, writing: Writing, caller: Caller): Promise<number>;
  /**
   * close(2): everything written is on its way to being safe, or the error is reported here. The
   * `owner`'s fcntl locks on the file end.
   */
  flush(file: OpenFile, owner: LockOwner | undefined, caller: Caller): Promise<void>;
  fsync(file: OpenFile, dataOnly: boolean, caller: Caller): Promise<void>;
  /** The last close of an open file. With `flockOwner`, its flock ends. */
  release(file: OpenFile, flockOwner?: LockOwner): Promise<void>;
  /** fallocate(2), `flags`: `fallocateFlags`. */
  fallocate(file: OpenFile, range: FileRange, flags: number, caller: Caller): Promise<void>;
  /** lseek(2) SEEK_DATA, SEEK_HOLE: `no-such-offset` (ENXIO) past the end. */
  seek(file: OpenFile, offset: number, what: "data" | "hole", caller: Caller): Promise<number>;
  /** copy_file_range(2). Resolves with the bytes copied, which may be fewer. */
  copyFileRange(
    source: { file: OpenFile; offset: number },
    target: { file: OpenFile; offset: number },
    length: number,
    caller: Caller,
  ): Promise<number>;
  /** F_GETLK: the first lock that is in the way, if any. */
  getLock(file: OpenFile, request: LockRequest, caller: Caller): Promise<FileLock | undefined>;
  /** `would-block` (EAGAIN), `deadlock` (EDEADLK), `interrupted`. */
  setLock(file: OpenFile, request: LockRequest, caller: Caller): Promise<void>;

  opendir(node: Node, caller: Caller): Promise<Opened>;
  /**
   * The entries after the one named `after` (from the start without it), at most `limit`, in a
   * stable order; fewer than `limit` (or none) only at the end.
   */
  readdir(
    file: OpenFile,
    after: Buffer | undefined,
    limit: number,
    caller: Caller,
  ): Promise<DirectoryPage>;
  /**
   * Adds a reference, as `lookup` would, to the node of an entry that `readdir` has given, perhaps
   * some time ago: the attributes returned are those of now. undefined if that cannot be said, or
   * it is gone; then the name is listed and will be looked up.
   */
  adopt(file: OpenFile, entry: DirectoryEntry): Entry | undefined;
  releasedir(file: OpenFile): Promise<void>;
  fsyncdir(file: OpenFile, dataOnly: boolean, caller: Caller): Promise<void>;
  /** syncfs(2): everything written through this mount. */
  syncfs(caller: Caller): Promise<void>;

  statfs(caller: Caller): Promise<Statfs>;
  getxattr(node: Node, name: Buffer, caller: Caller): Promise<Buffer>;
  /**
   * `flags`: XATTR_CREATE 1, XATTR_REPLACE 2. `killSgid`: the kernel found that setting this ACL
   * takes the setgid bit away (FUSE_SETXATTR_ACL_KILL_SGID).
   */
  setxattr(
    node: Node,
    attribute: { name: Buffer; value: Buffer; flags: number; killSgid: boolean },
    caller: Caller,
  ): Promise<void>;
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
