import type { Ino } from "../../../protocol/id.ts";
import { xattrBytesMax } from "../../../protocol/limits.ts";
import { StatusError } from "../../../protocol/status.ts";
import { decodeXattr, type Inode } from "../../store/tables.ts";
import { RecordWriter } from "../../store/bytes.ts";
import type { Txn } from "../txn.ts";
import { permissionMask, typeMask } from "./common.ts";

export interface AttrChanges {
  mode?: number | undefined;
  uid?: number | undefined;
  gid?: number | undefined;
  atime?: bigint | undefined;
  mtime?: bigint | undefined;
}

/** chmod(2), chown(2), utimensat(2): what is absent stays; ctime becomes now. */
export function setAttributes(txn: Txn, ino: Ino, changes: AttrChanges): Inode {
  const inode = txn.inode(ino);
  const changed: Inode = {
    ...inode,
    mode:
      changes.mode === undefined
        ? inode.mode
        : (inode.mode & typeMask) | (changes.mode & permissionMask),
    uid: changes.uid ?? inode.uid,
    gid: changes.gid ?? inode.gid,
    atime: changes.atime ?? inode.atime,
    mtime: changes.mtime ?? inode.mtime,
    ctime: txn.nowNs,
  };
  txn.putInode(ino, changed);
  return changed;
}

/** setxattr(2). */
export function setXattr(
  txn: Txn,
  wanted: { ino: Ino; name: Buffer; value: Buffer; mode: "any" | "create" | "replace" },
): void {
  const inode = txn.inode(wanted.ino);
  if (wanted.name.length === 0) throw new StatusError("range", "the attribute has no name");
  const exists = txn.xattr(wanted.ino, wanted.name) !== undefined;
  if (wanted.mode === "create" && exists) throw new StatusError("exists", "the attribute exists");
  if (wanted.mode === "replace" && !exists) {
    throw new StatusError("no-attribute", "no such attribute");
  }
  if (!exists) checkListFits(txn, wanted.ino, wanted.name);
  const record = new RecordWriter(8 + wanted.value.length).u53(txn.epoch).rest(wanted.value).end();
  txn.putXattr(wanted.ino, wanted.name, record);
  txn.putInode(wanted.ino, { ...inode, ctime: txn.nowNs });
}

/** listxattr(2) cannot return more names than XATTR_LIST_MAX bytes. */
function checkListFits(txn: Txn, ino: Ino, name: Buffer): void {
  let bytes = name.length + 1;
  for (const { key, value } of txn.rows("xattr", ino)) {
    decodeXattr(value);
    bytes += key.length - 8 + 1;
  }
  if (bytes > xattrBytesMax) throw new StatusError("no-space", "too many attributes");
}

/** removexattr(2). */
export function removeXattr(txn: Txn, wanted: { ino: Ino; name: Buffer }): void {
  const inode = txn.inode(wanted.ino);
  if (txn.xattr(wanted.ino, wanted.name) === undefined) {
    throw new StatusError("no-attribute", "no such attribute");
  }
  txn.putXattr(wanted.ino, wanted.name, undefined);
  txn.putInode(wanted.ino, { ...inode, ctime: txn.nowNs });
}
