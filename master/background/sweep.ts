import { ino as toIno } from "../../protocol/id.ts";
import type { Committer } from "../namespace/committer.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey, sinceOf } from "../store/bytes.ts";
import { parseHistoryKey } from "../store/history.ts";
import { decodeChunkRef } from "../store/tables.ts";

/** History rows looked at in one transaction. */
const rowsMax = 500;

/**
 * Removes history that no live snapshot shows, after a snapshot has been deleted; the chunk
 * references in it go with it. `signal` ends it early: what is left is found by the next sweep.
 * Damaged records stay where they are, and `onDamaged` is told of each.
 */
export async function sweepHistory(
  committer: Committer,
  signal: AbortSignal,
  onDamaged: (error: unknown) => void,
): Promise<void> {
  let from: Buffer | undefined = Buffer.alloc(0);
  while (from && !signal.aborted) {
    const start: Buffer = from;
    from = await committer.run((txn) => sweepSome(txn, start, onDamaged));
  }
}

/** Returns the key to go on from, or undefined at the end. */
function sweepSome(
  txn: Txn,
  from: Buffer,
  onDamaged: (error: unknown) => void,
): Buffer | undefined {
  let seen = 0;
  for (const { key, value } of txn.before.range("history", { from })) {
    if (seen === rowsMax) return Buffer.from(key);
    seen += 1;
    try {
      sweepRow(txn, key, value);
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      onDamaged(error);
    }
  }
  return undefined;
}

/** Reads all that it needs before it changes anything. */
function sweepRow(txn: Txn, key: Buffer, value: Buffer): void {
  const parsed = parseHistoryKey(key);
  if (!parsed) return;
  const ino = toIno(numberFromKey(parsed.key, 0));
  if (txn.snapshots.shows(txn.before, ino, sinceOf(value), parsed.until)) return;
  if (parsed.table === "chunkmap") txn.dropReference(decodeChunkRef(value).handle);
  txn.put("history", Buffer.from(key), undefined);
}
