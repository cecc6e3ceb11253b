/**
 * The structures of the kernel's FUSE protocol, under the names they have there without `fuse_`,
 * after include/uapi/linux/fuse.h of Linux 6.18 (protocol 7.45). All of them are as they were in
 * 7.31 (Linux 5.4), the oldest that is served, but for what is said beside them.
 */

import { struct } from "./layout.ts";

export const inHeader = struct({
  len: "u32",
  opcode: "u32",
  /** Copied into the answer as it is. */
  uniqueLow: "u32",
  uniqueHigh: "u32",
  nodeid: "u64",
  uid: "u32",
  gid: "u32",
  pid: "u32",
  /** Since 7.38: extensions at the end, in units of 8 bytes. 0 as none are asked for. */
  totalExtlen: "u16",
  padding: "u16",
});

export const outHeader = struct({
  len: "u32",
  error: "i32",
  uniqueLow: "u32",
  uniqueHigh: "u32",
});

/** A request without a structure of its own. */
export const nothing = struct({});

export const attr = struct({
  ino: "u64",
  size: "u64",
  blocks: "u64",
  atime: "i64",
  mtime: "i64",
  ctime: "i64",
  atimensec: "u32",
  mtimensec: "u32",
  ctimensec: "u32",
  mode: "u32",
  nlink: "u32",
  uid: "u32",
  gid: "u32",
  rdev: "u32",
  blksize: "u32",
  /** Since 7.32, padding before. */
  flags: "u32",
});

export const entryOut = struct({
  nodeid: "u64",
  generation: "u64",
  entryValid: "u64",
  attrValid: "u64",
  entryValidNsec: "u32",
  attrValidNsec: "u32",
  attr,
});

export const attrOut = struct({ attrValid: "u64", attrValidNsec: "u32", dummy: "u32", attr });

export const forgetIn = struct({ nlookup: "u64" });
export const forgetOne = struct({ nodeid: "u64", nlookup: "u64" });
export const batchForgetIn = struct({ count: "u32", dummy: "u32" });

export const getattrIn = struct({ getattrFlags: "u32", dummy: "u32", fh: "u64" });

export const setattrIn = struct({
  valid: "u32",
  padding: "u32",
  fh: "u64",
  size: "u64",
  lockOwner: "big",
  atime: "i64",
  mtime: "i64",
  ctime: "i64",
  atimensec: "u32",
  mtimensec: "u32",
  ctimensec: "u32",
  mode: "u32",
  unused4: "u32",
  uid: "u32",
  gid: "u32",
  unused5: "u32",
});

export const mknodIn = struct({ mode: "u32", rdev: "u32", umask: "u32", padding: "u32" });
export const mkdirIn = struct({ mode: "u32", umask: "u32" });
export const renameIn = struct({ newdir: "u64" });
export const rename2In = struct({ newdir: "u64", flags: "u32", padding: "u32" });
export const linkIn = struct({ oldnodeid: "u64" });

/** `openFlags`: since 7.33, 0 before. */
export const openIn = struct({ flags: "u32", openFlags: "u32" });
export const createIn = struct({ flags: "u32", mode: "u32", umask: "u32", openFlags: "u32" });
export const openOut = struct({ fh: "u64", openFlags: "u32", backingId: "i32" });
export const createOut = struct({ entry: entryOut, open: openOut });

export const releaseIn = struct({
  fh: "u64",
  flags: "u32",
  releaseFlags: "u32",
  lockOwner: "big",
});

export const flushIn = struct({ fh: "u64", unused: "u32", padding: "u32", lockOwner: "big" });

export const readIn = struct({
  fh: "u64",
  offset: "u64",
  size: "u32",
  readFlags: "u32",
  lockOwner: "big",
  flags: "u32",
  padding: "u32",
});

export const writeIn = struct({
  fh: "u64",
  offset: "u64",
  size: "u32",
  writeFlags: "u32",
  lockOwner: "big",
  flags: "u32",
  padding: "u32",
});

export const writeOut = struct({ size: "u32", padding: "u32" });
export const fsyncIn = struct({ fh: "u64", fsyncFlags: "u32", padding: "u32" });

export const statfsOut = struct({
  blocks: "u64",
  bfree: "u64",
  bavail: "u64",
  files: "u64",
  ffree: "u64",
  bsize: "u32",
  namelen: "u32",
  frsize: "u32",
  padding: "u32",
  spare0: "u64",
  spare1: "u64",
  spare2: "u64",
});

/** What is sent unless FUSE_SETXATTR_EXT was agreed on (7.33). */
export const setxattrCompatIn = struct({ size: "u32", flags: "u32" });
export const setxattrIn = struct({
  size: "u32",
  flags: "u32",
  setxattrFlags: "u32",
  padding: "u32",
});
export const getxattrIn = struct({ size: "u32", padding: "u32" });
export const getxattrOut = struct({ size: "u32", padding: "u32" });

const fileLock = struct({ start: "big", end: "big", type: "u32", pid: "u32" });
export const lkIn = struct({
  fh: "u64",
  owner: "big",
  lk: fileLock,
  lkFlags: "u32",
  padding: "u32",
});
export const lkOut = struct({ lk: fileLock });

/** Shared by all versions; `flags2` (7.36) and its reserve follow only with FUSE_INIT_EXT. */
export const initIn = struct({ major: "u32", minor: "u32", maxReadahead: "u32", flags: "u32" });
export const initExtIn = struct({ flags2: "u32" });

export const initOut = struct({
  major: "u32",
  minor: "u32",
  maxReadahead: "u32",
  flags: "u32",
  maxBackground: "u16",
  congestionThreshold: "u16",
  maxWrite: "u32",
  timeGran: "u32",
  maxPages: "u16",
  mapAlignment: "u16",
  /** Since 7.36, as far as FUSE_INIT_EXT is among `flags`; 0 before. */
  flags2: "u32",
  /** Since 7.40; 0 before. */
  maxStackDepth: "u32",
  /** Since 7.43; 0 before. */
  requestTimeout: "u16",
  unused0: "u16",
  unused1: "u32",
  unused2: "u32",
  unused3: "u32",
  unused4: "u32",
  unused5: "u32",
});

export const interruptIn = struct({ uniqueLow: "u32", uniqueHigh: "u32" });

export const ioctlIn = struct({
  fh: "u64",
  flags: "u32",
  cmd: "u32",
  arg: "u64",
  inSize: "u32",
  outSize: "u32",
});

export const fallocateIn = struct({
  fh: "u64",
  offset: "u64",
  length: "u64",
  mode: "u32",
  padding: "u32",
});

export const lseekIn = struct({ fh: "u64", offset: "u64", whence: "u32", padding: "u32" });
export const lseekOut = struct({ offset: "u64" });

export const copyFileRangeIn = struct({
  fhIn: "u64",
  offIn: "u64",
  nodeidOut: "u64",
  fhOut: "u64",
  offOut: "u64",
  len: "u64",
  flags: "u64",
});
/** Since 7.45, for FUSE_COPY_FILE_RANGE_64. */
export const copyFileRangeOut = struct({ bytesCopied: "u64" });

export const syncfsIn = struct({ padding: "u64" });

/** The name follows, and zeros up to a multiple of 8 bytes. */
export const dirent = struct({ ino: "u64", off: "u64", namelen: "u32", type: "u32" });
export const direntplus = struct({ entry: entryOut, dirent });

export const notifyInvalInodeOut = struct({ ino: "u64", off: "i64", len: "i64" });
export const notifyInvalEntryOut = struct({ parent: "u64", namelen: "u32", flags: "u32" });
