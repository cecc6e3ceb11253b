/**
 * The requests of the kernel's FUSE protocol: what each consists of and what is answered. Source:
 * include/uapi/linux/fuse.h of Linux 6.18 (protocol 7.45).
 */

import type { Sized } from "./layout.ts";
import * as s from "./structures.ts";

export interface Opcode {
  readonly code: number;
  readonly request: Sized;
  /** How many names follow the structure, each with a NUL at its end. */
  readonly names: 0 | 1 | 2;
  /** Bytes follow, after the names. */
  readonly data?: true;
  /**
   * What an answer without an error consists of. `data`: bytes without a structure. `none`: there
   * is no answer at all, not even an error.
   */
  readonly reply: Sized | "data" | "none";
  /**
   * What the kernel holds while it waits for the answer, so that a notification has to wait too:
   * the lock of the directory `nodeid` (`names`), or pages of the file `nodeid` (`pages`).
   */
  readonly holds?: "names" | "pages";
  /** It changes the list of names in `nodeid`. */
  readonly changes?: true;
  /** `nodeid` is not used, or may have been forgotten by then: the kernel lets FORGETs overtake. */
  readonly anyNode?: true;
}

const entry = { reply: s.entryOut, holds: "names" } as const;
const done = { reply: s.nothing } as const;
const made = { ...entry, changes: true } as const;
const locked = { ...done, holds: "names" } as const;
const changed = { ...locked, changes: true } as const;
const release = { request: s.releaseIn, names: 0, ...done, anyNode: true } as const;
const listing = { request: s.readIn, names: 0, reply: "data", holds: "names" } as const;
const lock = { request: s.lkIn, names: 0 } as const;
/** Answered without a look at what they carry. */
const refused = { request: s.nothing, names: 0, data: true, ...done, anyNode: true } as const;

/** By the name that fuse.h has, without FUSE_. */
export const opcodes = {
  LOOKUP: { code: 1, request: s.nothing, names: 1, ...entry },
  FORGET: { code: 2, request: s.forgetIn, names: 0, reply: "none" },
  GETATTR: { code: 3, request: s.getattrIn, names: 0, reply: s.attrOut },
  SETATTR: { code: 4, request: s.setattrIn, names: 0, reply: s.attrOut, holds: "names" },
  READLINK: { code: 5, request: s.nothing, names: 0, reply: "data" },
  SYMLINK: { code: 6, request: s.nothing, names: 2, ...made },
  MKNOD: { code: 8, request: s.mknodIn, names: 1, ...made },
  MKDIR: { code: 9, request: s.mkdirIn, names: 1, ...made },
  UNLINK: { code: 10, request: s.nothing, names: 1, ...changed },
  RMDIR: { code: 11, request: s.nothing, names: 1, ...changed },
  RENAME: { code: 12, request: s.renameIn, names: 2, ...changed },
  LINK: { code: 13, request: s.linkIn, names: 1, ...made },
  OPEN: { code: 14, request: s.openIn, names: 0, reply: s.openOut },
  READ: { code: 15, request: s.readIn, names: 0, reply: "data", holds: "pages" },
  WRITE: {
    ...{ code: 16, request: s.writeIn, names: 0, data: true },
    ...{ reply: s.writeOut, holds: "pages" },
  },
  STATFS: { code: 17, request: s.nothing, names: 0, reply: s.statfsOut, anyNode: true },
  RELEASE: { code: 18, ...release },
  FSYNC: { code: 20, request: s.fsyncIn, names: 0, ...done },
  /** Its structure depends on what was agreed on: see `setxattr` in attributes.ts. */
  SETXATTR: { code: 21, request: s.setxattrCompatIn, names: 0, data: true, ...locked },
  GETXATTR: { code: 22, request: s.getxattrIn, names: 1, reply: "data" },
  LISTXATTR: { code: 23, request: s.getxattrIn, names: 0, reply: "data" },
  REMOVEXATTR: { code: 24, request: s.nothing, names: 1, ...locked },
  FLUSH: { code: 25, request: s.flushIn, names: 0, ...done },
  INIT: { code: 26, request: s.initIn, names: 0, data: true, reply: s.initOut },
  OPENDIR: { code: 27, request: s.openIn, names: 0, reply: s.openOut },
  READDIR: { code: 28, ...listing },
  RELEASEDIR: { code: 29, ...release },
  FSYNCDIR: { code: 30, request: s.fsyncIn, names: 0, ...locked },
  GETLK: { code: 31, ...lock, reply: s.lkOut },
  SETLK: { code: 32, ...lock, ...done },
  SETLKW: { code: 33, ...lock, ...done },
  /** Not asked with default_permissions. */
  ACCESS: { code: 34, ...refused },
  CREATE: { code: 35, request: s.createIn, names: 1, ...made, reply: s.createOut },
  /** Answered only to be sent again. */
  INTERRUPT: { code: 36, request: s.interruptIn, names: 0, reply: "none" },
  BMAP: { code: 37, ...refused },
  DESTROY: { code: 38, request: s.nothing, names: 0, ...done, anyNode: true },
  IOCTL: { code: 39, ...refused, request: s.ioctlIn },
  POLL: { code: 40, ...refused },
  BATCH_FORGET: { code: 42, request: s.batchForgetIn, names: 0, data: true, reply: "none" },
  FALLOCATE: { code: 43, request: s.fallocateIn, names: 0, ...done },
  READDIRPLUS: { code: 44, ...listing },
  RENAME2: { code: 45, request: s.rename2In, names: 2, ...changed },
  LSEEK: { code: 46, request: s.lseekIn, names: 0, reply: s.lseekOut },
  COPY_FILE_RANGE: { code: 47, request: s.copyFileRangeIn, names: 0, reply: s.writeOut },
  SYNCFS: { code: 50, request: s.syncfsIn, names: 0, ...done, anyNode: true },
  /** Its name is made up by the kernel. */
  TMPFILE: { code: 51, request: s.createIn, names: 1, reply: s.createOut },
  /** Asked for times of birth only, which there are none of; then GETATTR is asked. */
  STATX: { code: 52, ...refused },
  COPY_FILE_RANGE_64: {
    ...{ code: 53, request: s.copyFileRangeIn, names: 0, reply: s.copyFileRangeOut },
  },
} as const satisfies Record<string, Opcode>;

export type OpcodeName = keyof typeof opcodes;
