import { assert } from "../../common/assert.ts";
import { StatusError } from "../../protocol/status.ts";

/**
 * POSIX access control lists (POSIX.1e draft 17, acl(5)) as values: what of them has to be known
 * besides storing them. The kernel checks permissions with them itself.
 *
 * In an extended attribute (linux/posix_acl_xattr.h), little-endian:
 *
 *   0  u32  version: 2
 *   4  …    entries of 8 bytes:  0 u16 tag   2 u16 permissions   4 u32 user or group
 */

export const aclTag = {
  userObject: 0x01,
  user: 0x02,
  groupObject: 0x04,
  group: 0x08,
  mask: 0x10,
  other: 0x20,
} as const;

export interface AclEntry {
  tag: number;
  /** Read 4, write 2, execute 1. */
  permissions: number;
  /** Of `user` and `group` entries; of the others `noId`. */
  id: number;
}
export type Acl = readonly AclEntry[];

const version = 2;
const headBytes = 4;
const entryBytes = 8;
/** ACL_UNDEFINED_ID, which is no user's and no group's number. */
const noId = 0xffff_ffff;
const permissionBits = 0o7;
const allBits = 0o777;

/**
 * The list in an attribute's value, checked; undefined if it has no entries, which takes the ACL
 * away. `invalid` (EINVAL), `not-supported` (EOPNOTSUPP) for another version.
 */
export function decodeAcl(value: Buffer): Acl | undefined {
  if (value.length === 0) return undefined;
  if (value.length < headBytes) throw malformed("is too short");
  if (value.readUInt32LE(0) !== version) {
    throw new StatusError("not-supported", "the ACL has another version");
  }
  if ((value.length - headBytes) % entryBytes !== 0) throw malformed("has half an entry");
  const acl: AclEntry[] = [];
  for (let at = headBytes; at < value.length; at += entryBytes) {
    const tag = value.readUInt16LE(at);
    const hasId = tag === aclTag.user || tag === aclTag.group;
    const id = hasId ? value.readUInt32LE(at + 4) : noId;
    acl.push({ tag, permissions: value.readUInt16LE(at + 2), id });
  }
  if (acl.length === 0) return undefined;
  checkAcl(acl);
  return acl;
}

export function encodeAcl(acl: Acl): Buffer {
  const value = Buffer.alloc(headBytes + acl.length * entryBytes);
  value.writeUInt32LE(version, 0);
  acl.forEach(({ tag, permissions, id }, i) => {
    const at = headBytes + i * entryBytes;
    value.writeUInt16LE(tag, at);
    value.writeUInt16LE(permissions, at + 2);
    value.writeUInt32LE(id, at + 4);
  });
  return value;
}

/**
 * The rules of acl_valid(3) that Linux has: entries in the order of their tags, one each for owner,
 * group and others, and a mask if users or groups are named.
 */
function checkAcl(acl: Acl): void {
  const counts = new Map<number, number>();
  let last = 0;
  for (const { tag, permissions, id } of acl) {
    if (!knownTags.has(tag)) throw malformed("has an unknown tag");
    if ((permissions & ~permissionBits) !== 0) throw malformed("has unknown permissions");
    if (tag < last) throw malformed("is not in order");
    const named = tag === aclTag.user || tag === aclTag.group;
    if (named && id === noId) throw malformed("names nobody");
    const count = (counts.get(tag) ?? 0) + 1;
    if (!named && count > 1) throw malformed("has an entry twice");
    counts.set(tag, count);
    last = tag;
  }
  for (const tag of [aclTag.userObject, aclTag.groupObject, aclTag.other]) {
    if (!counts.has(tag)) throw malformed("lacks the owner's, the group's or the others' entry");
  }
  const namesSomebody = counts.has(aclTag.user) || counts.has(aclTag.group);
  if (namesSomebody && !counts.has(aclTag.mask)) throw malformed("lacks the mask");
}

const knownTags: ReadonlySet<number> = new Set(Object.values(aclTag));

function malformed(what: string): StatusError {
  return new StatusError("invalid", `the ACL ${what}`);
}

/** True when permission bits say all that the list does: then there is no need of it. */
export function isMinimal(acl: Acl): boolean {
  return acl.every(({ tag }) => tag in objectShift);
}

/** Where in a mode an entry's permissions are, unless a mask takes the group's place. */
const objectShift: Record<number, number> = {
  [aclTag.userObject]: 6,
  [aclTag.groupObject]: 3,
  [aclTag.other]: 0,
};

/** The permission bits that go with the list: those of the group are the mask, if there is one. */
export function permissionsOf(acl: Acl): number {
  let bits = 0;
  for (const { entry, shift } of classes(acl)) bits |= entry.permissions << shift;
  assert((bits & ~allBits) === 0, "permissions of three classes");
  return bits;
}

/** The entries that stand for the three classes of a mode, and where. */
function classes(acl: Acl): { entry: AclEntry; shift: number }[] {
  const mask = acl.find(({ tag }) => tag === aclTag.mask);
  const found: { entry: AclEntry; shift: number }[] = [];
  for (const entry of acl) {
    const shift = entry === mask ? 3 : objectShift[entry.tag];
    if (shift === undefined || (mask && entry.tag === aclTag.groupObject)) continue;
    found.push({ entry, shift });
  }
  return found;
}

/** chmod(2): the list after the permission bits have become those of `mode`. */
export function changedByMode(acl: Acl, mode: number): Acl {
  return withClasses(acl, (_permissions, shift) => (mode >> shift) & permissionBits);
}

/**
 * What a new file begins with where `inherited` is the directory's default ACL: the list, reduced
 * to what `mode` asks for, and with it the permission bits. The umask has no part in it.
 */
export function inheritedBy(inherited: Acl, mode: number): { acl: Acl; permissions: number } {
  const acl = withClasses(inherited, (permissions, shift) => permissions & (mode >> shift));
  return { acl, permissions: permissionsOf(acl) };
}

function withClasses(acl: Acl, change: (permissions: number, shift: number) => number): Acl {
  const shifts = new Map(classes(acl).map(({ entry, shift }) => [entry, shift]));
  return acl.map((entry) => {
    const shift = shifts.get(entry);
    if (shift === undefined) return entry;
    return { ...entry, permissions: change(entry.permissions, shift) };
  });
}
