import { rootIno } from "../../protocol/id.ts";
import { fileBytesMax } from "../../protocol/limits.ts";
import { fileType, typeMask } from "../../protocol/mode.ts";
import { accessAclName, defaultAclName } from "../../protocol/xattr-names.ts";
import { decodeAcl, isMinimal, permissionsOf } from "../namespace/acl.ts";
import { numberFromKey } from "../store/bytes.ts";
import {
  decodeChunkRef,
  decodeInode,
  decodeLink,
  decodeXattr,
  type Inode,
} from "../store/tables.ts";
import { Along, kind, type Scan } from "./scan.ts";

/**
 * The inodes, and along with them, as they are in the same order, their chunks, attributes and
 * further parents.
 */

const knownTypes: ReadonlySet<number> = new Set(Object.values(fileType));
const permissionClasses = 0o777;

export function checkInodes(scan: Scan): void {
  const chunks = new Along(scan.table("chunkmap", 16));
  const xattrs = new Along(scan.table("xattr", 9));
  const links = new Along(scan.table("link", 16));
  for (const { key, value } of scan.table("inode", 8)) {
    const ino = numberFromKey(key, 0);
    const inode = scan.decoded(`inode ${ino}`, () => decodeInode(value));
    if (inode) checkInode(scan, ino, inode);
    else scan.kinds.set(ino, kind.damaged);
    const own = {
      chunks: chunksOf(scan, chunks, ino, inode),
      xattrs: xattrsOf(scan, xattrs, ino, inode),
      links: linksOf(scan, links, ino, inode),
    };
    if (inode) compare(scan, ino, inode, own);
  }
  // What is left belongs to inodes after the last one.
  chunksOf(scan, chunks, Infinity, undefined);
  xattrsOf(scan, xattrs, Infinity, undefined);
  linksOf(scan, links, Infinity, undefined);
  if (scan.kinds.get(rootIno) % 8 !== kind.directory) {
    scan.fault("inode 1: there is no root directory");
  }
}

function checkInode(scan: Scan, ino: number, inode: Inode): void {
  const what = `inode ${ino}`;
  const type = inode.mode & typeMask;
  scan.since(what, inode);
  if (ino === 0 || ino >= scan.limit("ino")) scan.fault(`${what}: this id was never given out`);
  if (!knownTypes.has(type))
    scan.fault(`${what}: mode ${inode.mode.toString(8)} has no known type`);
  if (inode.size > fileBytesMax) scan.fault(`${what}: its size is ${inode.size}`);
  if (inode.replicas < 1) scan.fault(`${what}: it wants ${inode.replicas} replicas`);
  const hasTarget = inode.target.length > 0;
  if (
    hasTarget !== (type === fileType.symlink) ||
    (hasTarget && inode.size !== inode.target.length)
  )
    scan.fault(`${what}: a symlink's target of ${inode.target.length} bytes does not fit it`);
  if (inode.parent === ino || (ino === rootIno) !== (inode.parent === 0 && inode.nlink > 0))
    scan.fault(`${what}: its parent cannot be ${inode.parent}`);
  const own = kindOf(type);
  scan.kinds.set(ino, own + 8 * (type >>> 12));
  scan.nlinks.set(ino, inode.nlink);
  scan.parents.set(ino, inode.parent);
  if (own !== kind.directory && inode.nlink > 1) {
    addHardLinks(scan, ino, inode.parent, 1);
  }
}

function kindOf(type: number): number {
  switch (type) {
    case fileType.directory:
      return kind.directory;
    case fileType.regular:
      return kind.regular;
    case fileType.symlink:
      return kind.symlink;
    default:
      return kind.other;
  }
}

export function addHardLinks(scan: Scan, ino: number, parent: number, change: number): void {
  const key = `${ino}:${parent}`;
  const count = (scan.hardLinks.get(key) ?? 0) + change;
  if (count === 0) scan.hardLinks.delete(key);
  else scan.hardLinks.set(key, count);
}

function compare(
  scan: Scan,
  ino: number,
  inode: Inode,
  own: { chunks: number; xattrs: number; links: number },
): void {
  const what = `inode ${ino}`;
  if (own.chunks !== inode.chunks) {
    scan.fault(`${what}: counts ${inode.chunks} chunks, ${own.chunks} are mapped`);
  }
  if (own.xattrs !== inode.xattrs) {
    scan.fault(`${what}: counts ${inode.xattrs} attributes, ${own.xattrs} are stored`);
  }
  if ((inode.mode & typeMask) === fileType.directory) {
    if (own.links > 0) scan.fault(`${what}: a directory has further parents`);
  } else if (inode.nlink > 0 && own.links + 1 !== inode.nlink) {
    scan.fault(`${what}: counts ${inode.nlink} links, its parents count ${own.links + 1}`);
  }
}

/** A row without an inode is a fault; those of `ino` itself are visited. */
function visit(
  scan: Scan,
  table: string,
  rows: Along,
  ino: number,
  own: (row: { key: Buffer; value: Buffer }) => void,
  any: (row: { key: Buffer; value: Buffer }, owner: number) => void = () => undefined,
): void {
  for (let taken = rows.take(ino); taken; taken = rows.take(ino)) {
    if (taken.ino !== ino) scan.fault(`${table} of inode ${taken.ino}: there is no such inode`);
    any(taken.row, taken.ino);
    if (taken.ino === ino) own(taken.row);
  }
}

function chunksOf(scan: Scan, rows: Along, ino: number, inode: Inode | undefined): number {
  let count = 0;
  const own = (): void => {
    count += 1;
    if (count === 1 && inode && (inode.mode & typeMask) !== fileType.regular) {
      scan.fault(`inode ${ino}: has chunks, but is no regular file`);
    }
  };
  visit(scan, "chunkmap", rows, ino, own, ({ key, value }, owner) => {
    const what = `chunk ${numberFromKey(key, 8)} of inode ${owner}`;
    const ref = scan.decoded(what, () => decodeChunkRef(value));
    if (!ref) return;
    scan.since(what, ref);
    scan.references.add(ref.handle, 1);
  });
  return count;
}

function xattrsOf(scan: Scan, rows: Along, ino: number, inode: Inode | undefined): number {
  let count = 0;
  visit(scan, "xattr", rows, ino, ({ key, value }) => {
    count += 1;
    const name = key.subarray(8);
    const what = `attribute ${JSON.stringify(name.toString())} of inode ${ino}`;
    const xattr = scan.decoded(what, () => decodeXattr(value));
    if (!xattr) return;
    scan.since(what, xattr);
    if (inode) checkAcl(scan, what, inode, { name, value: xattr.value });
  });
  return count;
}

/** An ACL and the mode say the same of the three classes. */
function checkAcl(
  scan: Scan,
  what: string,
  { mode }: Inode,
  { name, value }: { name: Buffer; value: Buffer },
): void {
  const isAccess = name.equals(accessAclName);
  if (!isAccess && !name.equals(defaultAclName)) return;
  const acl = scan.decoded(what, () => decodeAcl(value));
  if (!acl) return;
  const type = mode & typeMask;
  const fits = isAccess ? type !== fileType.symlink : type === fileType.directory;
  if (!fits) return scan.fault(`${what}: this type of inode has no such ACL`);
  if (!isAccess) return;
  if (isMinimal(acl)) scan.fault(`${what}: an ACL that says no more than the mode is stored`);
  const bits = mode & permissionClasses;
  if (permissionsOf(acl) !== bits) {
    const both = `${permissionsOf(acl).toString(8)}, the mode ${bits.toString(8)}`;
    scan.fault(`${what}: the ACL says ${both}`);
  }
}

function linksOf(scan: Scan, rows: Along, ino: number, inode: Inode | undefined): number {
  let count = 0;
  visit(scan, "link", rows, ino, ({ key, value }) => {
    const parent = numberFromKey(key, 8);
    const what = `link of inode ${ino} in directory ${parent}`;
    const link = scan.decoded(what, () => decodeLink(value));
    if (!link) return;
    scan.since(what, link);
    if (link.count === 0) scan.fault(`${what}: counts nothing`);
    count += link.count;
    if (!inode) return;
    if (inode.nlink > 1) addHardLinks(scan, ino, parent, link.count);
    else scan.fault(`${what}: the inode has one link`);
  });
  return count;
}
