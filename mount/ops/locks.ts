import { StatusError } from "../../protocol/status.ts";
import type { FileSystem } from "../fuse/filesystem.ts";

type Group = Pick<FileSystem, "getLock" | "setLock">;

/** flock(2) and fcntl(2) locks. */
export function lockOps(): Group {
  const none = (): Promise<never> =>
    Promise.reject(new StatusError("not-implemented", "not implemented"));
  return { getLock: none, setLock: none };
}
