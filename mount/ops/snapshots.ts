import type { Ino } from "../../protocol/id.ts";
import {
  createSnapshot,
  deleteSnapshot,
  listSnapshots,
  renameSnapshot,
} from "../../protocol/methods/admin.ts";
import type { Snapshot } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Caller } from "../fuse/filesystem.ts";
import type { Context } from "./context.ts";
import { checkNameLength, type NodeRef } from "./nodes.ts";

/** `.snapshots`: in every live directory, reachable by name, listed only on request. */
export const snapshotsName = Buffer.from(".snapshots");

export function isSnapshotsName(name: Buffer): boolean {
  return name.equals(snapshotsName);
}

/** The snapshots in which directory `dir` is: its own first, then its ancestors'. */
export async function snapshotsOf(context: Context, dir: Ino, caller: Caller): Promise<Snapshot[]> {
  const request = { dir, inherited: true };
  const { snapshots } = await context.master.read(listSnapshots, request, caller.signal);
  return snapshots;
}

/** Directory `dir` as it is in the snapshot called `name`. */
export async function findSnapshot(
  context: Context,
  dir: Ino,
  name: Buffer,
  caller: Caller,
): Promise<NodeRef> {
  const found = (await snapshotsOf(context, dir, caller)).find((s) => s.name.equals(name));
  if (!found) throw new StatusError("not-found", "no such snapshot");
  return { kind: "frozen", ino: dir, at: found.epoch };
}

/** mkdir in `.snapshots`: takes a snapshot of the directory. */
export async function takeSnapshot(
  context: Context,
  dir: Ino,
  name: Buffer,
  caller: Caller,
): Promise<NodeRef> {
  checkNameLength(name);
  const request = { dir, name: Buffer.from(name) };
  const { snapshot } = await context.master.mutate(createSnapshot, request, caller.signal);
  return { kind: "frozen", ino: dir, at: snapshot.epoch };
}

/** rmdir in `.snapshots`. A snapshot that an ancestor has is deleted there. */
export async function dropSnapshot(
  context: Context,
  dir: Ino,
  name: Buffer,
  caller: Caller,
): Promise<void> {
  await ownSnapshot(context, dir, name, caller);
  await context.master.mutate(deleteSnapshot, { dir, name }, caller.signal);
}

/** mv in `.snapshots`. */
export async function moveSnapshot(
  context: Context,
  dir: Ino,
  names: { name: Buffer; newName: Buffer },
  caller: Caller,
): Promise<void> {
  checkNameLength(names.newName);
  await ownSnapshot(context, dir, names.name, caller);
  await context.master.mutate(renameSnapshot, { dir, ...names }, caller.signal);
}

async function ownSnapshot(
  context: Context,
  dir: Ino,
  name: Buffer,
  caller: Caller,
): Promise<void> {
  const found = (await snapshotsOf(context, dir, caller)).find((s) => s.name.equals(name));
  if (!found) throw new StatusError("not-found", "no such snapshot");
  if (found.dir !== dir) {
    throw new StatusError("not-permitted", "this snapshot belongs to a directory above");
  }
}
