import { systemClock } from "../../common/os/clock.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import type { Store } from "../../master/store/store.ts";
import { JournalDisk } from "./journal-disk.ts";

/**
 * The store for a test of what stands on it: in memory, or with GFS_TEST_STORE=journal the
 * journaled one, on a disk in memory and always in the middle of a checkpoint.
 */
export function newTestStore(): Promise<Store> {
  if (process.env["GFS_TEST_STORE"] !== "journal") return Promise.resolve(createMemoryStore());
  const limits = { journalBytes: 2_000, checkpointAfterMs: 20, syncAfterMs: 5, sliceRows: 10 };
  return new JournalDisk({ timer: systemClock.timer }).open(limits);
}
