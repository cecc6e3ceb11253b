import { nameBytesMax } from "./limits.ts";
import { StatusError } from "./status.ts";

/** The names that extended attributes have (xattr(7)). */

/** An access ACL belongs to any inode but a symlink. */
export const accessAclName = Buffer.from("system.posix_acl_access");
/** A default ACL belongs to a directory: what is made in it begins with this one. */
export const defaultAclName = Buffer.from("system.posix_acl_default");
/** File capabilities (capabilities(7)). */
export const capabilityName = Buffer.from("security.capability");

const trustedPrefix = Buffer.from("trusted.");
const prefixes = [Buffer.from("user."), trustedPrefix, Buffer.from("security.")];

export function isAclName(name: Buffer): boolean {
  return name.equals(accessAclName) || name.equals(defaultAclName);
}

/** For the eyes of CAP_SYS_ADMIN only, also in lists. */
export function isTrustedName(name: Buffer): boolean {
  return startsWith(name, trustedPrefix);
}

/**
 * `not-supported` (EOPNOTSUPP) for a name outside the known namespaces, as on other filesystems; of
 * "system", POSIX ACLs are all there is.
 */
export function checkXattrName(name: Buffer): void {
  if (name.length === 0 || name.length > nameBytesMax) {
    throw new StatusError("range", "the attribute's name has no or too many bytes");
  }
  if (isAclName(name)) return;
  const prefix = prefixes.find((known) => startsWith(name, known));
  if (!prefix) throw new StatusError("not-supported", "no such namespace of attributes");
  if (name.length === prefix.length || name.includes(0)) {
    throw new StatusError("invalid", "the attribute's name is not valid");
  }
}

function startsWith(name: Buffer, prefix: Buffer): boolean {
  return name.subarray(0, prefix.length).equals(prefix);
}
