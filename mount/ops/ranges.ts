import { StatusError } from "../../protocol/status.ts";
import type { FileSystem } from "../fuse/filesystem.ts";

type Group = Pick<FileSystem, "fallocate" | "seek" | "copyFileRange">;

/** Ranges of files: allocated, punched, searched for data, copied by sharing chunks. */
export function rangeOps(): Group {
  const none = (): Promise<never> =>
    Promise.reject(new StatusError("not-implemented", "not implemented"));
  return { fallocate: none, seek: none, copyFileRange: none };
}
