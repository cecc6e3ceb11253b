import { ino as toIno } from "../../protocol/id.ts";
import type { Committer } from "../namespace/committer.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey, sinceOf } from "../store/bytes.ts";
import { parseHistoryKey } from "../store/history.ts";
import { decodeChunkRef } from "../store/tables.ts";

/** History rows looked at in one transaction. */
const rowsMax = 500;

/**
 * Removes history that no live snapshot shows, after a snapshot has been deleted; the chunk
 * references in it go with it. `signal` ends it early: what is left is found by the next sweep.
 */
export async function sweepHistory(committer: Committer, signal: AbortSignal): Promise<void> {
  let from: Buffer | undefined = Buffer.alloc(0);
  while (from && !signal.aborted) {
    const start: Buffer = from;
    from = await committer.run((txn) => sweepSome(txn, start));
  }
}

/** Returns the key to go on from, or undefined at the end. */
function sweepSome(txn: Txn, from: Buffer): Buffer | undefined {
  let seen = 0;
  for (const { key, value } of txn.before.range("history", { from })) {
    if (seen === rowsMax) return Buffer.from(key);
    seen += 1;
    const parsed = parseHistoryKey(key);
    if (!parsed) continue;
    const ino = toIno(numberFromKey(parsed.key, 0));
    if (txn.snapshots.shows(txn.before, ino, sinceOf(value), parsed.until)) continue;
    if (parsed.table === "chunkmap") txn.dropReference(decodeChunkRef(value).handle);
    txn.put("history", Buffer.from(key), undefined);
  }
  return undefined;
}
