import { Type } from "typebox";
import { method, mutation } from "../method.ts";
import {
  Count,
  InoShape,
  List,
  Name,
  Opt,
  ServerShape,
  SessionShape,
  SnapshotShape,
  Text,
} from "../shapes.ts";
import { DiskHealth, Scrub } from "./fleet.ts";

/** mount and `gfs` → master: snapshots and the state of the cluster. */

/** Without `name` the master makes one from the time, `2026-11-21T22-04-11Z`. */
export const createSnapshot = mutation({
  code: 90,
  name: "snapshot.create",
  request: { dir: InoShape, name: Opt(Name) },
  reply: { snapshot: SnapshotShape },
});

/** The snapshots in which directory `dir` is: its own and, with `inherited`, its ancestors'. */
export const listSnapshots = method({
  code: 91,
  name: "snapshot.list",
  request: { dir: Opt(InoShape), inherited: Type.Boolean() },
  reply: { snapshots: List(SnapshotShape, 10_000) },
});

export const deleteSnapshot = mutation({
  code: 92,
  name: "snapshot.delete",
  request: { dir: InoShape, name: Name },
  reply: {},
});

export const renameSnapshot = mutation({
  code: 93,
  name: "snapshot.rename",
  request: { dir: InoShape, name: Name, newName: Name },
  reply: {},
});

/** The path of an inode from the root, for messages: one of them, if it has several. */
export const pathOf = method({
  code: 94,
  name: "admin.path",
  request: { ino: InoShape },
  reply: { path: Type.Unsafe<Buffer>({}) },
});

export const ServerState = Type.Union([
  Type.Literal("up"),
  Type.Literal("suspect"),
  Type.Literal("dead"),
]);

/** What `gfs status` shows. The names are stable: scripts read them. */
export const status = method({
  code: 100,
  name: "admin.status",
  request: {},
  reply: {
    cluster: Text,
    version: Text,
    master: Type.Object({ address: Text, upMs: Count, pid: Count, inodes: Count }),
    chunks: Type.Object({ total: Count, belowGoal: Count, lost: Count, corrupt: Count }),
    servers: List(
      Type.Object({
        id: ServerShape,
        address: Text,
        rack: Text,
        state: ServerState,
        chunks: Count,
        usedBytes: Count,
        freeBytes: Count,
        corruptBlocks: Count,
        lastSeenMs: Count,
        disk: DiskHealth,
        diskTrouble: Opt(Text),
        scrub: Opt(Scrub),
      }),
      10_000,
    ),
    mounts: List(
      Type.Object({
        session: SessionShape,
        name: Text,
        mountpoint: Text,
        connected: Type.Boolean(),
      }),
      10_000,
    ),
    snapshots: List(Type.Object({ path: Text, name: Text, createdAt: Text, epoch: Count }), 10_000),
  },
});
