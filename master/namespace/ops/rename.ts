import { type Ino, noIno, rootIno } from "../../../protocol/id.ts";
import { fileType, isDirectory } from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { EntryRecord, Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import {
  addInode,
  checkName,
  checkNewName,
  directory,
  discard,
  dropLink,
  touchDirectory,
} from "./common.ts";
import { checkRemovable } from "./link.ts";

interface Rename {
  parent: Ino;
  name: Buffer;
  newParent: Ino;
  newName: Buffer;
  noReplace: boolean;
  exchange: boolean;
  /** Leave a whiteout at the old name, of this owner. */
  whiteout?: { uid: number; gid: number } | undefined;
  isOpen: (ino: Ino) => boolean;
}

/** The inodes now and formerly at the new name. */
interface Renamed {
  moved: Ino;
  replaced?: Ino;
}

type Named = Pick<EntryRecord, "ino" | "type">;

/**
 * renameat2(2), with RENAME_NOREPLACE, RENAME_EXCHANGE and RENAME_WHITEOUT. One batch. Errors are
 * found in the order in which Linux looks for them (fs/namei.c).
 */
export function rename(txn: Txn, wanted: Rename): Renamed {
  directory(txn, wanted.parent);
  directory(txn, wanted.newParent);
  checkName(wanted.name);
  checkNewName(wanted.newName);
  if (wanted.exchange && (wanted.noReplace || wanted.whiteout))
    throw new StatusError("invalid", "flags exclude each other");
  const source = txn.entry(wanted.parent, wanted.name);
  const target = txn.findEntry(wanted.newParent, wanted.newName);
  if (target && wanted.noReplace) throw new StatusError("exists", "the new name exists");
  if (wanted.exchange && !target)
    throw new StatusError("not-found", "there is nothing to exchange");
  if (isInside(txn, wanted.newParent, source)) throw intoItself();
  if (target && isInside(txn, wanted.parent, target)) {
    throw wanted.exchange ? intoItself() : new StatusError("not-empty", "it holds the old name");
  }
  // Two names of one inode: rename(2) says to do nothing.
  if (target?.ino === source.ino) return { moved: source.ino };
  if (wanted.exchange && target) return exchange(txn, wanted, source, target);
  if (target) replace(txn, wanted, source.ino, target.ino);
  txn.removeEntry(wanted.parent, wanted.name);
  txn.putEntry(wanted.newParent, wanted.newName, { ino: source.ino, type: source.type });
  moveParent(txn, source.ino, wanted.parent, wanted.newParent);
  if (wanted.whiteout) addWhiteout(txn, wanted, wanted.whiteout);
  touchBoth(txn, wanted);
  return target ? { moved: source.ino, replaced: target.ino } : { moved: source.ino };
}

/** What overlayfs takes for a removed file: a character device 0:0 without permissions. */
function addWhiteout(
  txn: Txn,
  { parent, name }: Rename,
  owner: { uid: number; gid: number },
): void {
  const dir = { ino: parent, inode: txn.inode(parent) };
  addInode(txn, dir, name, { mode: fileType.characterDevice, umask: 0, ...owner });
}

function exchange(txn: Txn, wanted: Rename, source: Named, target: Named): Renamed {
  txn.putEntry(wanted.newParent, wanted.newName, { ino: source.ino, type: source.type });
  txn.putEntry(wanted.parent, wanted.name, { ino: target.ino, type: target.type });
  moveParent(txn, source.ino, wanted.parent, wanted.newParent);
  moveParent(txn, target.ino, wanted.newParent, wanted.parent);
  touchBoth(txn, wanted);
  return { moved: source.ino, replaced: target.ino };
}

/** Removes what is at the new name, if it may be replaced by the source. */
function replace(txn: Txn, wanted: Rename, source: Ino, target: Ino): void {
  const replaced = txn.inode(target);
  const moves = txn.inode(source);
  if (!isDirectory(replaced)) {
    if (isDirectory(moves)) throw new StatusError("not-directory", "the new name is no directory");
    dropLink(txn, { ino: target, parent: wanted.newParent, isOpen: wanted.isOpen(target) });
    return;
  }
  if (!isDirectory(moves)) throw new StatusError("is-directory", "the new name is a directory");
  checkRemovable(txn, target);
  txn.putInode(target, { ...replaced, nlink: 0, parent: noIno, ctime: txn.nowNs });
  discard(txn, target, false);
  const parent = txn.inode(wanted.newParent);
  txn.putInode(wanted.newParent, { ...parent, nlink: parent.nlink - 1 });
}

function intoItself(): StatusError {
  return new StatusError("invalid", "a directory cannot be moved into itself");
}

/** True when directory `inner` is what `outer` names, or somewhere below it. */
function isInside(txn: Txn, inner: Ino, outer: Named): boolean {
  if (outer.type !== fileType.directory) return false;
  for (let dir = inner; dir !== outer.ino;) {
    if (dir === rootIno) return false;
    const { parent } = txn.inode(dir);
    if (parent === noIno) throw new StatusError("not-found", "the new directory has been removed");
    dir = parent;
  }
  return true;
}

/**
 * One entry of `ino` moved from one directory to another: its links and the directories' counts.
 */
function moveParent(txn: Txn, ino: Ino, from: Ino, to: Ino): void {
  const inode = txn.inode(ino);
  const moved: Inode = { ...inode, ctime: txn.nowNs };
  if (from !== to) {
    const extra = txn.findLink(ino, from);
    if (extra) {
      txn.putLink(ino, from, extra.count - 1);
      txn.putLink(ino, to, (txn.findLink(ino, to)?.count ?? 0) + 1);
    } else {
      moved.parent = to;
    }
    if (isDirectory(inode)) {
      const [left, entered] = [txn.inode(from), txn.inode(to)];
      txn.putInode(from, { ...left, nlink: left.nlink - 1 });
      txn.putInode(to, { ...entered, nlink: entered.nlink + 1 });
    }
  }
  txn.putInode(ino, moved);
}

function touchBoth(txn: Txn, wanted: Rename): void {
  touchDirectory(txn, wanted.parent, txn.inode(wanted.parent));
  if (wanted.newParent !== wanted.parent) {
    touchDirectory(txn, wanted.newParent, txn.inode(wanted.newParent));
  }
}
