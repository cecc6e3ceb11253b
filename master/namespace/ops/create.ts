import type { Ino } from "../../../protocol/id.ts";
import { symlinkBytesMax } from "../../../protocol/limits.ts";
import {
  fileType,
  isDirectory,
  isRegular,
  permissionMask,
  typeMask,
} from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { Inode } from "../../store/tables.ts";
import type { Txn } from "../txn.ts";
import {
  addInode,
  checkNewName,
  directory,
  linkableOrphan,
  newInode,
  orphanKey,
} from "./common.ts";

interface Owner {
  uid: number;
  gid: number;
}

/** `umask` absent: exactly `mode`, whatever default ACL the parent has. */
interface Making extends Owner {
  mode: number;
  umask?: number | undefined;
}

/** open(2) with O_CREAT: makes a regular file or finds the one there is. */
export function createFile(
  txn: Txn,
  wanted: Making & { parent: Ino; name: Buffer; exclusive: boolean },
): { ino: Ino; inode: Inode; created: boolean } {
  const parent = directory(txn, wanted.parent);
  checkNewName(wanted.name);
  const existing = txn.findEntry(wanted.parent, wanted.name);
  if (existing) {
    if (wanted.exclusive) throw new StatusError("exists", "the name exists");
    const inode = txn.inode(existing.ino);
    if (isDirectory(inode)) throw new StatusError("is-directory", "the name is a directory");
    // Whoever asks did not know of it: looking again, he follows the symlink or opens the fifo.
    if (!isRegular(inode)) throw new StatusError("stale", "the name is not a regular file");
    return { ino: existing.ino, inode, created: false };
  }
  const mode = fileType.regular | (wanted.mode & permissionMask);
  const made = addInode(txn, { ino: wanted.parent, inode: parent }, wanted.name, {
    ...wanted,
    mode,
  });
  return { ...made, created: true };
}

/**
 * open(2) with O_TMPFILE: a regular file without an entry, which the caller counts as open. Until
 * it is closed, link(2) can give it a name if it is `linkable`.
 */
export function createTmpfile(
  txn: Txn,
  wanted: Making & { parent: Ino; linkable: boolean },
): { ino: Ino; inode: Inode } {
  const parent = { ino: wanted.parent, inode: directory(txn, wanted.parent) };
  const mode = fileType.regular | (wanted.mode & permissionMask);
  const made = newInode(txn, parent, { ...wanted, mode });
  txn.putInode(made.ino, made.inode);
  txn.put("orphan", orphanKey(made.ino), wanted.linkable ? linkableOrphan : Buffer.alloc(0));
  return made;
}

/** mkdir(2). */
export function makeDirectory(
  txn: Txn,
  wanted: Making & { parent: Ino; name: Buffer },
): { ino: Ino; inode: Inode } {
  const parent = { ino: wanted.parent, inode: directory(txn, wanted.parent) };
  const mode = fileType.directory | (wanted.mode & permissionMask);
  return addInode(txn, parent, wanted.name, { ...wanted, mode });
}

/** mknod(2): everything but directories and symlinks. */
export function makeNode(
  txn: Txn,
  wanted: Making & { parent: Ino; name: Buffer; rdev: number },
): { ino: Ino; inode: Inode } {
  const parent = { ino: wanted.parent, inode: directory(txn, wanted.parent) };
  const kind = wanted.mode & typeMask || fileType.regular;
  if (kind === fileType.directory || kind === fileType.symlink) {
    throw new StatusError("invalid", "mknod does not make directories or symlinks");
  }
  const isDevice = kind === fileType.characterDevice || kind === fileType.blockDevice;
  return addInode(txn, parent, wanted.name, {
    ...wanted,
    mode: kind | (wanted.mode & permissionMask),
    rdev: isDevice ? wanted.rdev : 0,
  });
}

/** symlink(2). */
export function makeSymlink(
  txn: Txn,
  wanted: Owner & { parent: Ino; name: Buffer; target: Buffer },
): { ino: Ino; inode: Inode } {
  const parent = { ino: wanted.parent, inode: directory(txn, wanted.parent) };
  if (wanted.target.length === 0) throw new StatusError("not-found", "the target is empty");
  if (wanted.target.length > symlinkBytesMax) {
    throw new StatusError("name-too-long", "the target is too long");
  }
  return addInode(txn, parent, wanted.name, { ...wanted, mode: fileType.symlink | 0o777 });
}
