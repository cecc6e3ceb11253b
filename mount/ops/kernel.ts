import type { FileSystem } from "../fuse/filesystem.ts";

type Group = Pick<FileSystem, "mounted" | "validMs">;

/** What the kernel may keep. */
export function kernelOps(): Group {
  return { mounted: () => undefined, validMs: () => 0 };
}
