import type { Ino } from "../../../protocol/id.ts";
import { xattrBytesMax } from "../../../protocol/limits.ts";
import { isDirectory, isSymlink, setgidBit } from "../../../protocol/mode.ts";
import { StatusError } from "../../../protocol/status.ts";
import { checkXattrName, defaultAclName, isAclName } from "../../../protocol/xattr-names.ts";
import type { Inode } from "../../store/tables.ts";
import { decodeAcl, permissionsOf } from "../acl.ts";
import type { Txn } from "../txn.ts";
import { storeAcl, storeXattr } from "./acl.ts";

const permissionClasses = 0o777;

interface SetXattr {
  ino: Ino;
  name: Buffer;
  value: Buffer;
  mode: "any" | "create" | "replace";
  /** Setting this access ACL takes the setgid bit away (FUSE_SETXATTR_ACL_KILL_SGID). */
  killSgid?: boolean | undefined;
}

/** setxattr(2). The attributes of the inode afterwards. */
export function setXattr(txn: Txn, wanted: SetXattr): Inode {
  checkXattrName(wanted.name);
  const inode = txn.inode(wanted.ino);
  const exists = txn.xattr(wanted.ino, wanted.name) !== undefined;
  if (wanted.mode === "create" && exists) throw new StatusError("exists", "the attribute exists");
  if (wanted.mode === "replace" && !exists) {
    throw new StatusError("no-attribute", "no such attribute");
  }
  if (!exists) checkListFits(txn, wanted.ino, wanted.name);
  const stored = isAclName(wanted.name)
    ? setAcl(txn, inode, wanted)
    : storeXattr(txn, wanted.ino, inode, wanted);
  const changed = { ...stored, ctime: txn.nowNs };
  txn.putInode(wanted.ino, changed);
  return changed;
}

/** An access ACL sets the permission bits too; an empty one is taken away and leaves them. */
function setAcl(txn: Txn, inode: Inode, { ino, name, value, killSgid }: SetXattr): Inode {
  if (isSymlink(inode)) {
    throw new StatusError("not-supported", "a symlink has no ACL");
  }
  const isDefault = name.equals(defaultAclName);
  if (isDefault && !isDirectory(inode) && value.length > 0) {
    throw new StatusError("no-access", "only directories have default ACLs");
  }
  const acl = decodeAcl(value);
  if (isDefault) return storeAcl(txn, ino, inode, { name, acl });
  const stored = storeAcl(txn, ino, inode, { name, acl });
  if (!acl) return stored;
  const kept = inode.mode & ~permissionClasses & ~(killSgid ? setgidBit : 0);
  return { ...stored, mode: kept | permissionsOf(acl) };
}

/** listxattr(2) cannot return more names than XATTR_LIST_MAX bytes. */
function checkListFits(txn: Txn, ino: Ino, name: Buffer): void {
  let bytes = name.length + 1;
  for (const { key } of txn.rows("xattr", ino)) bytes += key.length - 8 + 1;
  if (bytes > xattrBytesMax) throw new StatusError("no-space", "too many attributes");
}

/**
 * removexattr(2). The mode stays as an access ACL has left it; an ACL that is not there is removed
 * without complaint (posix_acl_xattr_set in Linux).
 */
export function removeXattr(txn: Txn, wanted: { ino: Ino; name: Buffer }): Inode {
  checkXattrName(wanted.name);
  const inode = txn.inode(wanted.ino);
  if (txn.xattr(wanted.ino, wanted.name) === undefined) {
    if (isAclName(wanted.name)) return inode;
    throw new StatusError("no-attribute", "no such attribute");
  }
  const stored = storeXattr(txn, wanted.ino, inode, { name: wanted.name, value: undefined });
  const changed = { ...stored, ctime: txn.nowNs };
  txn.putInode(wanted.ino, changed);
  return changed;
}
