import type { StoreReader, Table } from "../store/store.ts";
import { checkEntries, checkReachable } from "./entries.ts";
import { checkInodes } from "./inodes.ts";
import {
  checkChunks,
  checkHistory,
  checkMeta,
  checkSessions,
  checkSnapshots,
  checkUnlinked,
} from "./others.ts";
import { Scan } from "./scan.ts";

interface CheckResult {
  faults: number;
  /** Rows that were looked at. */
  rows: ReadonlyMap<Table, number>;
}

/**
 * Verifies every table of the master against every other, and calls `onFault` with a sentence for
 * each thing that is wrong. Each table is read once, in its order; what is kept of it is numbers:
 * some 30 bytes an inode, 4 a chunk, 100 a hard link.
 *
 * What is left over for the background is no fault: trash, history that no snapshot shows any more,
 * orphans of mounts that are gone.
 */
export function checkStore(store: StoreReader, onFault: (text: string) => void): CheckResult {
  const scan = new Scan(store, onFault);
  checkMeta(scan);
  checkInodes(scan);
  checkEntries(scan);
  checkUnlinked(scan);
  checkReachable(scan);
  checkHistory(scan);
  checkChunks(scan);
  checkSnapshots(scan);
  checkSessions(scan);
  return { faults: scan.faults, rows: scan.rows };
}
