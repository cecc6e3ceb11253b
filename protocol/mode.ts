/** The bits of an inode's mode (inode(7)): they are Linux's, on the wire and on disk. */

export const typeMask = 0o170000;
export const fileType = {
  fifo: 0o010000,
  characterDevice: 0o020000,
  directory: 0o040000,
  blockDevice: 0o060000,
  regular: 0o100000,
  symlink: 0o120000,
  socket: 0o140000,
} as const;

export const setuidBit = 0o4000;
export const setgidBit = 0o2000;
export const groupExecuteBit = 0o010;
/** What chmod can change. */
export const permissionMask = 0o7777;

export function isDirectory(inode: { mode: number }): boolean {
  return (inode.mode & typeMask) === fileType.directory;
}

export function isRegular(inode: { mode: number }): boolean {
  return (inode.mode & typeMask) === fileType.regular;
}

export function isSymlink(inode: { mode: number }): boolean {
  return (inode.mode & typeMask) === fileType.symlink;
}
