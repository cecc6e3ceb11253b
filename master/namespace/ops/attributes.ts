import type { Ino } from "../../../protocol/id.ts";
import { isDirectory, permissionMask, typeMask } from "../../../protocol/mode.ts";
import type { Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import { chmodAcl, dropCapability } from "./acl.ts";
import { withoutPrivileges } from "./common.ts";

/** "now" is the time of the commit, by the master's clock: all mounts' times compare. */
type NewTime = bigint | "now";

interface AttrChanges {
  mode?: number | undefined;
  uid?: number | undefined;
  gid?: number | undefined;
  atime?: NewTime | undefined;
  mtime?: NewTime | undefined;
  /** Of an ordinary user's writing, cutting or giving away: see `killPrivileges`. */
  killSuidGid?: boolean | undefined;
}

/** What a record's 64 bits of nanoseconds can hold: years 1677 to 2262. */
const timeMin = -(2n ** 63n);
const timeMax = 2n ** 63n - 1n;

/** chmod(2), chown(2), utimensat(2): what is absent stays; ctime becomes now. */
export function setAttributes(txn: Txn, ino: Ino, changes: AttrChanges): Inode {
  const { mode, uid, gid, atime, mtime, killSuidGid } = changes;
  let changed = txn.inode(ino);
  if (killSuidGid) changed = killPrivileges(txn, ino, changed);
  if (mode !== undefined) {
    changed = chmodAcl(txn, ino, changed, mode);
    changed = { ...changed, mode: (changed.mode & typeMask) | (mode & permissionMask) };
  }
  changed = {
    ...changed,
    uid: uid ?? changed.uid,
    gid: gid ?? changed.gid,
    atime: timeOf(txn, atime) ?? changed.atime,
    mtime: timeOf(txn, mtime) ?? changed.mtime,
    ctime: txn.nowNs,
  };
  txn.putInode(ino, changed);
  return changed;
}

/** A time beyond what can be kept becomes the nearest that can (as timestamp_truncate in Linux). */
function timeOf(txn: Txn, time: NewTime | undefined): bigint | undefined {
  if (time === "now") return txn.nowNs;
  if (time === undefined) return undefined;
  if (time < timeMin) return timeMin;
  return time > timeMax ? timeMax : time;
}

/**
 * What FUSE_HANDLE_KILLPRIV_V2 leaves to the filesystem: setuid goes, setgid goes from what the
 * group may execute (elsewhere it once meant mandatory locking), capabilities go.
 */
function killPrivileges(txn: Txn, ino: Ino, inode: Inode): Inode {
  if (isDirectory(inode)) return inode;
  return { ...dropCapability(txn, ino, inode), mode: withoutPrivileges(inode.mode) };
}

/**
 * A file, directory or symlink has been read: its atime, if nothing has changed since the reader
 * saw `ctime`. Nobody's caches are told: an old atime elsewhere does no harm, and waking every
 * mount for it would.
 */
export function noteAccess(txn: Txn, access: { ino: Ino; atime: bigint; ctime: bigint }): void {
  const inode = txn.findInode(access.ino);
  const atime = timeOf(txn, access.atime);
  if (!inode || inode.ctime !== access.ctime || atime === undefined) return;
  if (atime > inode.atime) txn.putInodeUntold(access.ino, { ...inode, atime });
}
