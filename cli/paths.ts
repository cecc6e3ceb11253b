import { resolve } from "node:path";
import { listMounts } from "./mounts.ts";

/**
 * A directory as the user names it: below a gfs mount, or, where none is, from the root of the
 * filesystem.
 */
export interface InnerPath {
  /** From the root of the filesystem, beginning with "/". */
  inner: string;
  /** What the user gave. */
  given: string;
  /** The mount it is below, if any. */
  mountpoint: string | undefined;
}

export function innerPath(given: string): InnerPath {
  const path = resolve(given);
  const mount = listMounts()
    .filter(({ type, source }) => type === "fuse.gfs" || (type === "fuse" && source === "gfs"))
    .map(({ mountpoint }) => mountpoint)
    .filter((mountpoint) => path === mountpoint || path.startsWith(`${mountpoint}/`))
    .toSorted((a, b) => b.length - a.length)[0];
  const inner = mount === undefined ? path : path.slice(mount.length) || "/";
  return { inner, given, mountpoint: mount };
}
