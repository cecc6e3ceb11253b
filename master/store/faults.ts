import { errnoName } from "../../common/disk.ts";
import { StatusError } from "../../protocol/status.ts";

/** What went wrong on the disk, as a status; everything else is passed on as it is. */
export function storeFailure(cause: unknown): unknown {
  if (!(cause instanceof Error) || cause instanceof StatusError) return cause;
  const code = errnoName(cause);
  if (
    code === "ENOSPC" ||
    code === "EDQUOT" ||
    /no space|ENOSPC|MDB_MAP_FULL/i.test(cause.message)
  ) {
    return new StatusError("no-space", "the master's disk is full", { cause });
  }
  if (code === "EIO" || code === "EROFS" || /input\/output error|EIO\b/i.test(cause.message)) {
    return new StatusError("io-error", `the master's disk: ${cause.message}`, { cause });
  }
  return cause;
}
