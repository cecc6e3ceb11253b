import { type Ino, noIno, rootIno } from "../../../protocol/id.ts";
import { StatusError } from "../../../protocol/status.ts";
import { nameKey } from "../../store/bytes.ts";
import { encodeSnapshot } from "../../store/tables.ts";
import type { LiveSnapshot } from "../snapshots.ts";
import type { Txn } from "../txn.ts";
import { checkName, directory } from "./common.ts";

/** More would make every first change after a snapshot look at all of them. */
const snapshotsMax = 10_000;

/**
 * Takes a snapshot of a directory: one record, whatever lies below. It has the current epoch; the
 * caller raises the epoch in the same batch.
 */
export function takeSnapshot(txn: Txn, dir: Ino, name: Buffer): LiveSnapshot {
  directory(txn, dir);
  checkName(name);
  if (txn.snapshots.find(dir, name)) throw taken(name);
  if (txn.snapshots.all.length >= snapshotsMax) {
    throw new StatusError("no-space", `there are ${snapshotsMax} snapshots, the most there can be`);
  }
  const snapshot = { dir, name, epoch: txn.epoch, createdAt: txn.nowNs };
  txn.put("snapshot", nameKey(dir, name), encodeSnapshot(snapshot));
  txn.afterCommit(() => txn.snapshots.add(snapshot));
  return snapshot;
}

/** Removes the record; what only this snapshot showed is swept later. */
export function dropSnapshot(txn: Txn, dir: Ino, name: Buffer): void {
  if (!txn.snapshots.find(dir, name)) throw missing(name);
  txn.put("snapshot", nameKey(dir, name), undefined);
  txn.unshares = true;
  txn.afterCommit(() => txn.snapshots.remove(dir, name));
}

export function renameSnapshot(txn: Txn, dir: Ino, name: Buffer, newName: Buffer): void {
  checkName(newName);
  const snapshot = txn.snapshots.find(dir, name);
  if (!snapshot) throw missing(name);
  if (txn.snapshots.find(dir, newName)) throw taken(newName);
  txn.put("snapshot", nameKey(dir, name), undefined);
  txn.put("snapshot", nameKey(dir, newName), encodeSnapshot(snapshot));
  txn.afterCommit(() => {
    txn.snapshots.remove(dir, name);
    txn.snapshots.add({ ...snapshot, name: Buffer.from(newName) });
  });
}

function missing(name: Buffer): StatusError {
  const known = "gfs snapshot list DIR names those that there are";
  return new StatusError(
    "not-found",
    `the directory has no snapshot '${name.toString()}': ${known}`,
  );
}

function taken(name: Buffer): StatusError {
  return new StatusError("exists", `the directory has a snapshot '${name.toString()}' already`);
}

/** The default name: UTC, fixed width, sortable, legal everywhere: 2026-11-21T22-04-11Z. */
export function snapshotName(nowNs: bigint): string {
  const iso = new Date(Number(nowNs / 1_000_000n)).toISOString();
  return `${iso.slice(0, 19).replaceAll(":", "-")}Z`;
}

/** The ancestors of `dir`, nearest first, from itself to the root. */
export function ancestors(txn: Pick<Txn, "findInode">, dir: Ino): Ino[] {
  const line: Ino[] = [dir];
  for (let ino = dir; ino !== rootIno;) {
    const parent = txn.findInode(ino)?.parent ?? noIno;
    if (parent === 0) break;
    line.push(parent);
    ino = parent;
  }
  return line;
}
