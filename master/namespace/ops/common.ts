import { nameBytesMax } from "../../../protocol/limits.ts";
import { type Ino, ino as toIno, noIno } from "../../../protocol/id.ts";
import {
  fileType,
  groupExecuteBit,
  isDirectory,
  isRegular,
  setgidBit,
  setuidBit,
  typeMask,
} from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { Attr } from "../../../protocol/shapes.ts";
import type { Inode } from "../../store/tables.ts";
import { numberFromKey } from "../../store/bytes.ts";
import type { Txn } from "../txn.ts";
import { inherit, storeAcl } from "./acl.ts";

/** What the namespace operations share. */

/** Contents take space in such steps, as far as stat(2) tells. */
const allocationBytes = 4096;
/** A directory's size, as on ext4: one block, whatever is in it. */
const directoryBytes = 4096;

/** Reserved in every directory: the snapshots in which it is. */
export const snapshotsName = Buffer.from(".snapshots");

export function attrOf(ino: Ino, inode: Inode, chunkBytes: number): Attr {
  // As on a local disk, whole blocks of what has chunks; how full each chunk is, only servers know.
  const whole = Math.ceil(inode.size / allocationBytes) * allocationBytes;
  const allocated = isRegular(inode) ? Math.min(whole, inode.chunks * chunkBytes) : inode.size;
  return {
    ino,
    mode: inode.mode,
    nlink: inode.nlink,
    uid: inode.uid,
    gid: inode.gid,
    rdev: inode.rdev,
    size: inode.size,
    blocks: Math.ceil(allocated / 512),
    atime: inode.atime,
    mtime: inode.mtime,
    ctime: inode.ctime,
    xattrs: inode.xattrs,
  };
}

/** Refuses what no entry may be called. */
export function checkName(name: Buffer): void {
  if (name.length > nameBytesMax) throw new StatusError("name-too-long", "the name is too long");
  if (name.length === 0 || name.includes(0) || name.includes(0x2f)) {
    throw new StatusError("invalid", "a name cannot be empty or have a slash or a NUL in it");
  }
  const text = name.toString("latin1");
  if (text === "." || text === "..") throw new StatusError("exists", "the name is reserved");
}

/** Refuses what no new entry may be called. */
export function checkNewName(name: Buffer): void {
  checkName(name);
  if (name.equals(snapshotsName)) {
    throw new StatusError("exists", ".snapshots is reserved in every directory");
  }
}

/** The directory `ino`, in which entries are changed. */
export function directory(txn: Txn, ino: Ino): Inode {
  const inode = txn.findInode(ino);
  // Removed a moment or a while ago makes no difference.
  if (!inode || inode.nlink === 0) {
    throw new StatusError("not-found", "the directory has been removed");
  }
  if (!isDirectory(inode)) throw new StatusError("not-directory", "the parent is not a directory");
  return inode;
}

/** A directory whose entries changed: its times move on, and its count of subdirectories. */
export function touchDirectory(txn: Txn, ino: Ino, inode: Inode, nlinkChange = 0): void {
  const nlink = inode.nlink + nlinkChange;
  txn.putInode(ino, { ...inode, nlink, mtime: txn.nowNs, ctime: txn.nowNs });
}

interface NewInode {
  mode: number;
  /** The maker's; absent: exactly `mode`, whatever default ACL the parent has. */
  umask?: number | undefined;
  uid: number;
  gid: number;
  rdev?: number;
  target?: Buffer;
}

/** Makes an inode and its entry. */
export function addInode(
  txn: Txn,
  parent: { ino: Ino; inode: Inode },
  name: Buffer,
  wanted: NewInode,
): { ino: Ino; inode: Inode } {
  checkNewName(name);
  if (txn.findEntry(parent.ino, name)) throw new StatusError("exists", "the name exists");
  const isDir = isDirectory(wanted);
  const made = newInode(txn, parent, wanted);
  const inode = { ...made.inode, nlink: isDir ? 2 : 1, parent: parent.ino };
  txn.putInode(made.ino, inode);
  txn.putEntry(parent.ino, name, { ino: made.ino, type: wanted.mode & typeMask });
  touchDirectory(txn, parent.ino, parent.inode, isDir ? 1 : 0);
  return { ino: made.ino, inode };
}

/**
 * An inode that is made in a directory, without an entry and not put yet. A directory with the
 * setgid bit passes its group on, and to directories the bit as well (inode(7)); one with a default
 * ACL passes that on.
 */
export function newInode(
  txn: Txn,
  parent: { ino: Ino; inode: Inode },
  wanted: NewInode,
): { ino: Ino; inode: Inode } {
  const isDir = isDirectory(wanted);
  const isSymlink = (wanted.mode & typeMask) === fileType.symlink;
  const umask = isSymlink ? undefined : wanted.umask;
  const inherited = inherit(txn, parent, { mode: wanted.mode, umask, isDirectory: isDir });
  const inheritsGroup = (parent.inode.mode & setgidBit) !== 0;
  const target = wanted.target ?? Buffer.alloc(0);
  const ino = txn.newIno();
  let inode: Inode = {
    since: txn.epoch,
    mode: inheritsGroup && isDir ? inherited.mode | setgidBit : inherited.mode,
    uid: wanted.uid,
    gid: inheritsGroup ? parent.inode.gid : wanted.gid,
    nlink: 0,
    rdev: wanted.rdev ?? 0,
    size: isDir ? directoryBytes : target.length,
    chunks: 0,
    atime: txn.nowNs,
    mtime: txn.nowNs,
    ctime: txn.nowNs,
    parent: noIno,
    replicas: parent.inode.replicas,
    xattrs: 0,
    target,
  };
  for (const [name, acl] of inherited.acls) inode = storeAcl(txn, ino, inode, { name, acl });
  return { ino, inode };
}

/**
 * Takes one entry's link from an inode that is not a directory. The last one makes it an orphan, if
 * it is open somewhere, or trash.
 */
export function dropLink(txn: Txn, options: { ino: Ino; parent: Ino; isOpen: boolean }): void {
  const { ino, parent } = options;
  const inode = txn.inode(ino);
  const nlink = inode.nlink - 1;
  if (nlink === 0) {
    txn.putInode(ino, { ...inode, nlink, parent: noIno, ctime: txn.nowNs });
    discard(txn, ino, options.isOpen);
    return;
  }
  const remaining = { ...inode, nlink, ctime: txn.nowNs };
  const extra = txn.findLink(ino, parent);
  if (extra) txn.putLink(ino, parent, extra.count - 1);
  else remaining.parent = promoteParent(txn, ino);
  txn.putInode(ino, remaining);
}

/** The inode record names one parent: when that one goes, another takes its place. */
function promoteParent(txn: Txn, ino: Ino): Ino {
  for (const { key } of txn.rows("link", ino)) {
    const parent = toIno(numberFromKey(key, 8));
    const link = txn.findLink(ino, parent);
    if (!link) continue;
    txn.putLink(ino, parent, link.count - 1);
    return parent;
  }
  throw new StatusError("io-error", `inode ${ino} has links that are not recorded`);
}

/** Adds one entry's link to an inode that is not a directory. */
export function addLink(txn: Txn, ino: Ino, inode: Inode, parent: Ino): Inode {
  const extra = txn.findLink(ino, parent);
  const linked = { ...inode, nlink: inode.nlink + 1, ctime: txn.nowNs };
  if (inode.nlink === 0) linked.parent = parent;
  else txn.putLink(ino, parent, (extra?.count ?? 0) + 1);
  txn.putInode(ino, linked);
  return linked;
}

/** An inode without entries: kept while it is open, then reclaimed in the background. */
export function discard(txn: Txn, ino: Ino, isOpen: boolean): void {
  if (isOpen) txn.put("orphan", orphanKey(ino), Buffer.alloc(0));
  else txn.put("trash", trashKey(txn.nowNs, ino), Buffer.alloc(0));
}

/** The record of an orphan that link(2) may give a name: one that has never had any. */
export const linkableOrphan = Buffer.from([1]);

export function orphanKey(ino: Ino): Buffer {
  const key = Buffer.alloc(8);
  key.writeBigUInt64BE(BigInt(ino));
  return key;
}

export function trashKey(nowNs: bigint, ino: Ino): Buffer {
  const key = Buffer.alloc(16);
  key.writeBigUInt64BE(nowNs / 1_000_000n);
  key.writeBigUInt64BE(BigInt(ino), 8);
  return key;
}

/**
 * The mode after somebody without CAP_FSETID has changed the contents: setuid goes, and setgid if
 * it stands for a group that may execute (file_remove_privs in Linux, chmod(2)).
 */
export function withoutPrivileges(mode: number): number {
  const keepsSetgid = (mode & groupExecuteBit) === 0;
  return mode & ~(setuidBit | (keepsSetgid ? 0 : setgidBit));
}
