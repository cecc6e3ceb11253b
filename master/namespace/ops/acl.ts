import type { Ino } from "../../../protocol/id.ts";
import { accessAclName, capabilityName, defaultAclName } from "../../../protocol/xattr-names.ts";
import { RecordWriter } from "../../store/bytes.ts";
import { decodeXattr, type Inode } from "../../store/tables.ts";
import { type Acl, changedByMode, decodeAcl, encodeAcl, inheritedBy, isMinimal } from "../acl.ts";
import type { Txn } from "../txn.ts";

/**
 * Extended attributes that belong to an inode's permissions: ACLs, which have to agree with its
 * mode, and capabilities, which end when what they were given to is changed.
 */

/** What a umask takes from: read, write and execute of owner, group and others. */
const permissionClasses = 0o777;

function xattrValue(txn: Txn, ino: Ino, inode: Inode, name: Buffer): Buffer | undefined {
  const record = inode.xattrs > 0 ? txn.xattr(ino, name) : undefined;
  return record && decodeXattr(record).value;
}

/** Sets an attribute, or removes it. The inode that results is the caller's to put. */
export function storeXattr(
  txn: Txn,
  ino: Ino,
  inode: Inode,
  xattr: { name: Buffer; value: Buffer | undefined },
): Inode {
  const { name, value } = xattr;
  const had = txn.xattr(ino, name) !== undefined;
  if (value === undefined && !had) return inode;
  const record = value && new RecordWriter(8 + value.length).u53(txn.epoch).rest(value).end();
  txn.putXattr(ino, name, record);
  return { ...inode, xattrs: inode.xattrs + (value ? 1 : 0) - (had ? 1 : 0) };
}

/** An ACL is stored as it was checked; of a minimal access ACL, the mode says all. */
export function storeAcl(
  txn: Txn,
  ino: Ino,
  inode: Inode,
  stored: { name: Buffer; acl: Acl | undefined },
): Inode {
  const { name, acl } = stored;
  const needed = acl && !(name.equals(accessAclName) && isMinimal(acl));
  return storeXattr(txn, ino, inode, { name, value: needed ? encodeAcl(acl) : undefined });
}

function storedAcl(txn: Txn, ino: Ino, inode: Inode, name: Buffer): Acl | undefined {
  const value = xattrValue(txn, ino, inode, name);
  return value && decodeAcl(value);
}

/** chmod(2): the access ACL follows the mode. */
export function chmodAcl(txn: Txn, ino: Ino, inode: Inode, mode: number): Inode {
  const acl = storedAcl(txn, ino, inode, accessAclName);
  if (!acl) return inode;
  return storeAcl(txn, ino, inode, { name: accessAclName, acl: changedByMode(acl, mode) });
}

/** What a new inode gets of its permissions from the directory. */
interface Inherited {
  mode: number;
  acls: readonly (readonly [name: Buffer, acl: Acl])[];
}

/**
 * The mode and ACLs of what is made in a directory: by its default ACL if it has one, else by the
 * umask. Without `umask` the maker wants exactly `mode`, as a restore does.
 */
export function inherit(
  txn: Txn,
  dir: { ino: Ino; inode: Inode },
  made: { mode: number; umask: number | undefined; isDirectory: boolean },
): Inherited {
  const { mode, umask, isDirectory } = made;
  if (umask === undefined) return { mode, acls: [] };
  const acl = storedAcl(txn, dir.ino, dir.inode, defaultAclName);
  if (!acl) return { mode: mode & ~(umask & permissionClasses), acls: [] };
  const child = inheritedBy(acl, mode);
  const access = [accessAclName, child.acl] as const;
  return {
    mode: (mode & ~permissionClasses) | child.permissions,
    acls: isDirectory ? [access, [defaultAclName, acl]] : [access],
  };
}

/** A file that is written, cut or given away loses its capabilities (file_remove_privs). */
export function dropCapability(txn: Txn, ino: Ino, inode: Inode): Inode {
  if (inode.xattrs === 0) return inode;
  return storeXattr(txn, ino, inode, { name: capabilityName, value: undefined });
}
