import { Type } from "typebox";
import {
  chunksPerPageMax,
  accessesMax,
  entriesPerPageMax,
  symlinkBytesMax,
  walkNamesMax,
  xattrBytesMax,
} from "../limits.ts";
import { method, mutation } from "../method.ts";
import {
  AttrShape,
  bytes,
  Count,
  DirEntryShape,
  EpochShape,
  GrantShape,
  HandleShape,
  InoShape,
  List,
  LocationShape,
  Name,
  Ns,
  Opt,
  Uint32,
} from "../shapes.ts";

/**
 * mount → master: the namespace by inode number. `at` reads it as it was in that epoch (a
 * snapshot's); without it, as it is. Owners are given by the caller: the kernel has checked
 * permissions.
 */

const at = Opt(EpochShape);
const owner = { uid: Uint32, gid: Uint32 };
/**
 * How something is made: `mode` reduced by `umask`, or as the parent's default ACL says. Without
 * `umask` exactly by `mode`, whatever the parent has.
 */
const making = { mode: Uint32, umask: Opt(Uint32), ...owner };
/** A time, or the time of the commit by the master's clock. */
const newTime = Opt(Type.Union([Ns, Type.Literal("now")]));
/** Attributes of the inode concerned and of the directory, as they are after the change. */
const entryReply = { attr: AttrShape, parent: AttrShape };
/**
 * Comes with opening a file to write: the tail (`takeTail`), if nobody has it, and the file's size
 * as of then.
 */
const tail = Opt(Type.Object({ number: Count, size: Count }));

export const lookup = method({
  code: 20,
  name: "namespace.lookup",
  request: { parent: InoShape, name: Name, at },
  reply: { attr: AttrShape },
});

/** Several lookups in one: the attributes of each name in turn, as far as they exist. */
export const walk = method({
  code: 21,
  name: "namespace.walk",
  request: { from: InoShape, names: List(Name, walkNamesMax), at },
  reply: { attrs: List(AttrShape, walkNamesMax) },
});

export const getattr = method({
  code: 22,
  name: "namespace.getattr",
  request: { ino: InoShape, at },
  reply: { attr: AttrShape },
});

/**
 * chmod, chown, truncate, utimensat: what is absent stays. ctime becomes now. `killSuidGid`: take
 * away setuid, setgid where the group may execute, and capabilities.
 */
export const setattr = mutation({
  code: 23,
  name: "namespace.setattr",
  request: {
    ino: InoShape,
    mode: Opt(Uint32),
    uid: Opt(Uint32),
    gid: Opt(Uint32),
    size: Opt(Count),
    atime: newTime,
    mtime: newTime,
    killSuidGid: Opt(Type.Boolean()),
  },
  reply: { attr: AttrShape },
});

/**
 * open(O_CREAT). An existing regular file is opened, unless `exclusive`. The new file counts as
 * open in the session, and with `write` its first chunk is granted in the same answer.
 */
export const create = mutation({
  code: 24,
  name: "namespace.create",
  request: {
    parent: InoShape,
    name: Name,
    ...making,
    exclusive: Type.Boolean(),
    write: Type.Boolean(),
  },
  reply: { ...entryReply, created: Type.Boolean(), grant: Opt(GrantShape), tail },
});

export const mkdir = mutation({
  code: 25,
  name: "namespace.mkdir",
  request: { parent: InoShape, name: Name, ...making },
  reply: entryReply,
});

/** Regular files (not opened), fifos, sockets and device nodes, by the type bits of `mode`. */
export const mknod = mutation({
  code: 26,
  name: "namespace.mknod",
  request: { parent: InoShape, name: Name, rdev: Uint32, ...making },
  reply: entryReply,
});

export const symlink = mutation({
  code: 27,
  name: "namespace.symlink",
  request: { parent: InoShape, name: Name, target: bytes(symlinkBytesMax), ...owner },
  reply: entryReply,
});

export const link = mutation({
  code: 28,
  name: "namespace.link",
  request: { ino: InoShape, parent: InoShape, name: Name },
  reply: entryReply,
});

/** `closed`: what is there, as far as the mount knows; it counts as open, and is not any more. */
export const unlink = mutation({
  code: 29,
  name: "namespace.unlink",
  request: { parent: InoShape, name: Name, closed: Opt(InoShape) },
  reply: entryReply,
});

export const rmdir = mutation({
  code: 30,
  name: "namespace.rmdir",
  request: { parent: InoShape, name: Name },
  reply: entryReply,
});

/** `closed` as for `unlink`: what is replaced. */
export const rename = mutation({
  code: 31,
  name: "namespace.rename",
  request: {
    parent: InoShape,
    name: Name,
    newParent: InoShape,
    newName: Name,
    noReplace: Type.Boolean(),
    exchange: Type.Boolean(),
    closed: Opt(InoShape),
    /** RENAME_WHITEOUT: who owns the whiteout that is left behind. */
    whiteout: Opt(Type.Object(owner, { additionalProperties: false })),
  },
  /** What is now and was formerly at the new name, and the directories. */
  reply: {
    moved: AttrShape,
    replaced: Opt(AttrShape),
    parent: AttrShape,
    newParent: AttrShape,
  },
});

export const readlink = method({
  code: 32,
  name: "namespace.readlink",
  request: { ino: InoShape, at },
  reply: { target: bytes(symlinkBytesMax) },
});

/**
 * One page of a directory in byte order of names, after the name `after` (without it: from the
 * start). `parent`: what ".." is; 0 above the root, above the directory of a snapshot, and where
 * the directory has been removed.
 */
export const readdir = method({
  code: 33,
  name: "namespace.readdir",
  request: { ino: InoShape, at, after: Opt(Name), limit: Type.Integer({ minimum: 1 }) },
  reply: {
    entries: List(DirEntryShape, entriesPerPageMax),
    more: Type.Boolean(),
    parent: InoShape,
  },
});

export const statfs = method({
  code: 34,
  name: "namespace.statfs",
  request: {},
  /** Bytes as a user sees them: divided by the number of replicas. */
  reply: { totalBytes: Count, freeBytes: Count, inodes: Count },
});

export const getxattr = method({
  code: 35,
  name: "namespace.getxattr",
  request: { ino: InoShape, name: Name, at },
  reply: { value: bytes(xattrBytesMax) },
});

/**
 * `mode` as in setxattr(2): "create" fails if it exists, "replace" if it does not. A POSIX ACL is
 * checked and kept in step with the permission bits. `killSgid`: it takes the setgid bit away.
 */
export const setxattr = mutation({
  code: 36,
  name: "namespace.setxattr",
  request: {
    ino: InoShape,
    name: Name,
    value: bytes(xattrBytesMax),
    mode: Type.Union([Type.Literal("any"), Type.Literal("create"), Type.Literal("replace")]),
    killSgid: Opt(Type.Boolean()),
  },
  reply: { attr: AttrShape },
});

export const listxattr = method({
  code: 37,
  name: "namespace.listxattr",
  request: { ino: InoShape, at },
  reply: { names: List(Name, xattrBytesMax) },
});

export const removexattr = mutation({
  code: 38,
  name: "namespace.removexattr",
  request: { ino: InoShape, name: Name },
  reply: { attr: AttrShape },
});

/**
 * open(O_TMPFILE): a file without a name, open in this session, that is gone when it is closed
 * unless link(2) has given it one; which is refused without `linkable` (O_EXCL).
 */
export const tmpfile = mutation({
  code: 19,
  name: "namespace.tmpfile",
  request: { parent: InoShape, ...making, linkable: Type.Boolean() },
  reply: { attr: AttrShape, grant: Opt(GrantShape) },
});

/**
 * These have been read through the mount, at `atime` by its clock, when their ctime was `ctime`.
 * Sent in batches, when there is time. What has changed since keeps its atime.
 */
export const access = method({
  code: 39,
  name: "namespace.access",
  request: {
    accesses: List(
      Type.Object({ ino: InoShape, atime: Ns, ctime: Ns }, { additionalProperties: false }),
      accessesMax,
    ),
  },
  reply: {},
});

/**
 * Opens a file for this session: unlinked, it lives until released. Fresh attributes and the first
 * chunk's location come along (close-to-open, P4). `truncate`: O_TRUNC, in the same step. An empty
 * file that is opened to `write` has its first chunk granted at once.
 */
export const open = mutation({
  code: 40,
  name: "file.open",
  request: { ino: InoShape, at, truncate: Type.Boolean(), write: Type.Boolean() },
  reply: { attr: AttrShape, location: Opt(LocationShape), grant: Opt(GrantShape), tail },
});

/** Inodes closed for good by this session, in batches; nobody waits for it. */
export const release = method({
  code: 41,
  name: "file.release",
  request: { inos: List(InoShape, 4096) },
  reply: {},
});

/**
 * Data has been written and acknowledged by its replicas: the file is at least `size` long, the
 * chunks `written` now have data, times move on.
 */
export const commit = mutation({
  code: 42,
  name: "file.commit",
  request: {
    ino: InoShape,
    size: Count,
    mtime: Ns,
    written: List(Type.Object({ index: Count, handle: HandleShape }), 4096),
  },
  reply: { attr: AttrShape },
});

/**
 * fsync, fsyncdir, syncfs: everything acknowledged so far is on the master's disk. `unsynced`: the
 * chunks of file `ino` that other mounts have written a moment ago, and that may be in their
 * servers' page caches only.
 */
export const sync = method({
  code: 43,
  name: "file.sync",
  request: { ino: Opt(InoShape) },
  reply: { unsynced: List(Count, chunksPerPageMax) },
});

// 44 was file.share, before copyRange; never reuse.

/**
 * master → mount: others have changed these, and the mount may have them cached. Answered when
 * nothing on that mount is answered from what is out of date. `contents`: those of `inos` whose
 * contents are different too. `everything`: all that is cached may be out of date.
 */
export const invalidate = method({
  code: 45,
  name: "cache.invalidate",
  request: {
    everything: Type.Boolean(),
    inos: List(InoShape, 65_536),
    contents: List(InoShape, 65_536),
    entries: List(Type.Object({ parent: InoShape, name: Name }), 65_536),
  },
  reply: {},
});

/**
 * fallocate(2). `punch`: the range reads as zeros afterwards, as far as whole chunks go; the caller
 * writes zeros to the parts of chunks at its ends. Else the range is to have room: `no-space` if
 * the cluster has not got it. `grow`: the file is at least as long as the range reaches.
 */
export const allocate = mutation({
  code: 46,
  name: "file.allocate",
  request: {
    ino: InoShape,
    offset: Count,
    length: Count,
    punch: Type.Boolean(),
    grow: Type.Boolean(),
  },
  reply: { attr: AttrShape },
});

/**
 * copy_file_range(2) by sharing chunks: from a live file, or one as it was in epoch `at`. Both
 * offsets are at chunk borders. Shares whole chunks, and a last one that is not full if both files
 * end there; `copied` may be less than `length`, and is 0 if nothing can be shared.
 */
export const copyRange = mutation({
  code: 47,
  name: "file.copy",
  request: {
    source: InoShape,
    at,
    offset: Count,
    ino: InoShape,
    targetOffset: Count,
    length: Count,
  },
  reply: { attr: AttrShape, copied: Count },
});

/**
 * The first run of chunks with data at or after chunk `index`: no run if only holes follow. `more`:
 * it may go on after `last`, as the master has not looked further.
 */
export const chunkRun = method({
  code: 53,
  name: "file.run",
  request: { ino: InoShape, at, index: Count },
  reply: { run: Opt(Type.Object({ first: Count, last: Count })), more: Type.Boolean() },
});

/**
 * Leave to make a file longer by writing, which one session has at a time, until it closes the file
 * or is asked for it. Answered when the one before has sent and committed what it had. `number`
 * tells this grant from earlier ones.
 */
export const takeTail = method({
  code: 48,
  name: "file.take-tail",
  request: { ino: InoShape },
  reply: { number: Count, attr: AttrShape },
});

/**
 * master → mount: another session wants the tail. Send what is unwritten of the file; the answer
 * means it is committed, and nothing more will follow under grants up to `number`.
 */
export const recallTail = method({
  code: 49,
  name: "file.recall-tail",
  request: { ino: InoShape, number: Count },
  reply: {},
});

/** Replicas of a chunk: what the place for servers in a chunk's record and in a grant holds. */
export const replicasMax = 32;

/** Files and directories, each from one of its chunks on. */
const ReplicaItems = List(
  Type.Object({ ino: InoShape, from: Count }, { additionalProperties: false }),
  entriesPerPageMax,
);
/** Items that are done as a whole; the next one is to go on with its chunk `from`. */
const step = { done: Count, from: Count };

/**
 * Sets how many replicas are wanted of files' chunks, and of what is made in directories. One step
 * of it: as many items as one transaction may change.
 */
export const setReplicas = mutation({
  code: 86,
  name: "replicas.set",
  request: {
    items: ReplicaItems,
    replicas: Type.Integer({ minimum: 1, maximum: replicasMax }),
  },
  reply: { ...step, inodes: Count, chunks: Count },
});

/**
 * How many files and directories want how many replicas, and how many of their chunks have them on
 * servers that are up. One step, as for `setReplicas`. Chunks without data do not count.
 */
export const getReplicas = method({
  code: 87,
  name: "replicas.get",
  request: { items: ReplicaItems },
  reply: {
    ...step,
    goals: List(Type.Object({ goal: Count, inodes: Count }), 256),
    chunks: Type.Object({ total: Count, atGoal: Count, belowGoal: Count, aboveGoal: Count }),
  },
});
