import { type Ino, noIno } from "../../../protocol/id.ts";
import { linksMax } from "../../../protocol/limits.ts";
import { isDirectory, typeMask } from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import {
  addLink,
  checkName,
  checkNewName,
  directory,
  dropLink,
  discard,
  linkableOrphan,
  orphanKey,
  touchDirectory,
} from "./common.ts";

/** link(2). Also gives a name to what was made without one (O_TMPFILE). */
export function makeLink(txn: Txn, wanted: { ino: Ino; parent: Ino; name: Buffer }): Inode {
  const parent = directory(txn, wanted.parent);
  checkNewName(wanted.name);
  const inode = txn.inode(wanted.ino);
  if (txn.findEntry(wanted.parent, wanted.name)) throw new StatusError("exists", "the name exists");
  if (isDirectory(inode)) throw new StatusError("not-permitted", "directories have one name only");
  if (inode.nlink >= linksMax) throw new StatusError("too-many-links", "too many links");
  if (inode.nlink === 0) {
    const orphan = txn.get("orphan", orphanKey(wanted.ino));
    if (!orphan?.equals(linkableOrphan)) {
      throw new StatusError("not-found", "the file has been removed");
    }
    txn.put("orphan", orphanKey(wanted.ino), undefined);
  }
  const linked = addLink(txn, wanted.ino, inode, wanted.parent);
  txn.putEntry(wanted.parent, wanted.name, { ino: wanted.ino, type: inode.mode & typeMask });
  touchDirectory(txn, wanted.parent, parent);
  return linked;
}

/** unlink(2). `isOpen` tells whether a session has the inode open. */
export function unlink(
  txn: Txn,
  wanted: { parent: Ino; name: Buffer; isOpen: (ino: Ino) => boolean },
): Ino {
  const parent = directory(txn, wanted.parent);
  checkName(wanted.name);
  const { ino } = txn.entry(wanted.parent, wanted.name);
  if (isDirectory(txn.inode(ino))) throw new StatusError("is-directory", "it is a directory");
  txn.removeEntry(wanted.parent, wanted.name);
  dropLink(txn, { ino, parent: wanted.parent, isOpen: wanted.isOpen(ino) });
  touchDirectory(txn, wanted.parent, parent);
  return ino;
}

/** rmdir(2). A directory that has snapshots is not empty, since they would be lost with it. */
export function removeDirectory(txn: Txn, wanted: { parent: Ino; name: Buffer }): Ino {
  const parent = directory(txn, wanted.parent);
  checkName(wanted.name);
  const { ino } = txn.entry(wanted.parent, wanted.name);
  const inode = txn.inode(ino);
  if (!isDirectory(inode)) throw new StatusError("not-directory", "it is not a directory");
  checkRemovable(txn, ino);
  txn.removeEntry(wanted.parent, wanted.name);
  txn.putInode(ino, { ...inode, nlink: 0, parent: noIno, ctime: txn.nowNs });
  discard(txn, ino, false);
  touchDirectory(txn, wanted.parent, parent, -1);
  return ino;
}

export function checkRemovable(txn: Txn, dir: Ino): void {
  if (txn.hasEntries(dir)) throw new StatusError("not-empty", "the directory is not empty");
  if (txn.snapshots.ofDirectory(dir).length > 0) {
    throw new StatusError("not-empty", "the directory has snapshots");
  }
}
