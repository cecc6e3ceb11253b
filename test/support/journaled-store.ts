import { randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { type Log, silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { systemJournalDirectory } from "../../common/os/journal-file.ts";
import { type JournalLimits, openJournaledStore } from "../../master/store/journaled.ts";
import { openLmdbBase } from "../../master/store/lmdb.ts";
import type { Store } from "../../master/store/store.ts";

/** The store as `gfs-master` opens it, in `directory`. */
export function openRealStore(
  directory: string,
  options: { log?: Log; limits?: Partial<JournalLimits> } = {},
): Promise<Store> {
  mkdirSync(directory, { recursive: true });
  return openJournaledStore({
    base: openLmdbBase(directory),
    directory: systemJournalDirectory(directory),
    clock: systemClock,
    log: silentLog,
    uuid: randomUUID,
    ...options,
  });
}
