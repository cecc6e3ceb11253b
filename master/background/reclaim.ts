import { type Ino, ino as toIno } from "../../protocol/id.ts";
import type { Committer } from "../namespace/committer.ts";
import { trashKey } from "../namespace/ops/common.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey } from "../store/bytes.ts";
import { keyAfter } from "../store/store.ts";
import { StatusError } from "../../protocol/status.ts";

/** Rows removed in one transaction, so that deleting a huge file does not hold up everybody. */
const rowsMax = 500;
const filesMax = 100;

/**
 * Takes back what deleted files still hold (GFS §4.4): chunk references, attributes, the inode
 * itself. Returns true if there is more to do. What a snapshot shows moves to history on the way.
 */
export async function reclaimTrash(
  committer: Committer,
  onDamaged: (error: unknown) => void = () => undefined,
): Promise<boolean> {
  if (committer.store.count("trash") === 0) return false;
  try {
    return await committer.run((txn) => reclaimSome(txn, Buffer.alloc(0), filesMax).more);
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    return reclaimEach(committer, onDamaged);
  }
}

/** One by one, so that a file whose records are damaged does not keep the others. */
async function reclaimEach(
  committer: Committer,
  onDamaged: (error: unknown) => void,
): Promise<boolean> {
  let from = Buffer.alloc(0);
  for (let done = 0; done < filesMax; done += 1) {
    let next: Buffer | undefined;
    for (const { key } of committer.store.range("trash", { from, limit: 1 })) next = keyAfter(key);
    if (!next) return false;
    const start = from;
    await committer.run((txn) => reclaimSome(txn, start, 1)).catch(onDamaged);
    from = Buffer.from(next);
  }
  return false;
}

/** Reclaims up to `files` files from the trash; `more` if it had to stop before its end. */
function reclaimSome(txn: Txn, from: Buffer, files: number): { more: boolean } {
  let budget = rowsMax;
  let seen = 0;
  for (const { key } of txn.before.range("trash", { from, limit: files })) {
    const whenMs = numberFromKey(key, 0);
    const ino = toIno(numberFromKey(key, 8));
    budget -= reclaimRows(txn, ino, budget);
    seen += 1;
    if (budget <= 0) return { more: true };
    if (txn.findInode(ino)) txn.removeInode(ino);
    txn.put("trash", trashKey(BigInt(whenMs) * 1_000_000n, ino), undefined);
  }
  return { more: seen === files };
}

/** Removes at most `most` rows that belong to `ino`; returns how many. */
function reclaimRows(txn: Txn, ino: Ino, most: number): number {
  let rows = 0;
  for (const { key } of txn.rows("chunkmap", ino)) {
    if (rows >= most) return rows;
    txn.setChunkRef(ino, numberFromKey(key, 8), undefined);
    rows += 1;
  }
  for (const { key } of txn.rows("xattr", ino)) {
    if (rows >= most) return rows;
    txn.putXattr(ino, Buffer.from(key.subarray(8)), undefined);
    rows += 1;
  }
  return rows;
}
