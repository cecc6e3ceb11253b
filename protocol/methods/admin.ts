import { Type } from "typebox";
import { method, mutation } from "../method.ts";
import { fsckHandlesMax, fsckProblemsMax, statusSnapshotsMax } from "../limits.ts";
import {
  bytes,
  Count,
  HandleShape,
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

/**
 * What is wanted of a server: `draining` until nothing depends on it, then `drained`;
 * `maintenance`: it will be away for a while; `emptying`: as draining, by itself, because its disk
 * fails.
 */
export const ServerMode = Type.Union([
  Type.Literal("active"),
  Type.Literal("draining"),
  Type.Literal("drained"),
  Type.Literal("maintenance"),
  Type.Literal("emptying"),
]);

/** A chunk server as an operator names it: its id or HOST:PORT. */
const named = { server: Text };
const drainState = {
  server: ServerShape,
  address: Text,
  mode: ServerMode,
  /** Chunks that depend on it. */
  left: Count,
  /** A sentence, if not all of them can leave it as things are. */
  stuck: Opt(Text),
};

/**
 * Empties a server: its chunks are copied to others, then dropped. Refused if the others cannot
 * hold what their goals want, unless `force`: then they have as many replicas as there are servers.
 */
export const drain = method({
  code: 102,
  name: "admin.drain",
  request: { ...named, force: Type.Boolean() },
  reply: drainState,
});

/** The server is given chunks again. */
export const undrain = method({
  code: 103,
  name: "admin.undrain",
  request: named,
  reply: drainState,
});

/** How far the draining of a server is. */
export const drainProgress = method({
  code: 104,
  name: "admin.drain-progress",
  request: named,
  reply: drainState,
});

/** The server will be away for `forMs`: its replicas are waited for. Absent: it is back. */
export const maintenance = method({
  code: 105,
  name: "admin.maintenance",
  request: { ...named, forMs: Opt(Count) },
  reply: drainState,
});

/** The server is no part of the cluster any more. Refused while it runs or is depended on. */
export const forgetServer = method({
  code: 106,
  name: "admin.forget",
  request: named,
  reply: { server: ServerShape, address: Text },
});

const ServerList = List(
  Type.Object({
    id: ServerShape,
    address: Text,
    rack: Text,
    state: ServerState,
    mode: ServerMode,
    /** Of one that is being emptied: chunks that still depend on it. */
    left: Opt(Count),
    /** Of one in maintenance: until it ends. */
    maintenanceMs: Opt(Count),
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
);

/** The chunk servers, as in `admin.status`: for who asks again and again, also of a new master. */
export const listServers = method({
  code: 107,
  name: "admin.servers",
  request: {},
  reply: { servers: ServerList },
});

/** What `gfs status` shows. The names are stable: scripts read them. */
export const status = method({
  code: 100,
  name: "admin.status",
  request: {},
  reply: {
    cluster: Text,
    version: Text,
    master: Type.Object({ address: Text, upMs: Count, pid: Count, inodes: Count }),
    /** `damaged`: chunks of which every replica is known to be bad, in some block at least. */
    chunks: Type.Object({
      total: Count,
      belowGoal: Count,
      lost: Count,
      corrupt: Count,
      damaged: Count,
    }),
    /** Copies under way, and chunks that something is to be done for. */
    repair: Type.Object({ copying: Count, waiting: Count }),
    servers: ServerList,
    mounts: List(
      Type.Object({
        session: SessionShape,
        name: Text,
        mountpoint: Text,
        connected: Type.Boolean(),
      }),
      10_000,
    ),
    /** The latest; `snapshotCount` is of all. */
    snapshots: List(
      Type.Object({ path: Text, name: Text, createdAt: Text, epoch: Count }),
      statusSnapshotsMax,
    ),
    snapshotCount: Count,
  },
});

/**
 * What is wrong with a chunk. `lost`: no server that is up has a replica. `corrupt`: the same
 * blocks are bad in all replicas. `mendable`: each replica has bad blocks, which others have good.
 */
export const ChunkProblem = Type.Object({
  handle: HandleShape,
  problem: Type.Union([Type.Literal("lost"), Type.Literal("corrupt"), Type.Literal("mendable")]),
  /** The numbers of the blocks that no replica has good; none: the whole chunk. */
  blocks: List(Count, 1_024),
});

/** What is wrong with chunks from `from` on, a part of them at a time: until `next` is absent. */
export const fsckChunks = method({
  code: 108,
  name: "admin.fsck-chunks",
  request: { from: HandleShape },
  reply: {
    chunks: Count,
    belowGoal: Count,
    problems: List(ChunkProblem, fsckProblemsMax),
    next: Opt(HandleShape),
  },
});

/**
 * The files, and files in snapshots, to which chunks belong: a part of all rows at a time, until
 * `next` is absent. `offset`: where in the file the chunk begins.
 */
export const fsckFiles = method({
  code: 109,
  name: "admin.fsck-files",
  request: { handles: List(HandleShape, fsckHandlesMax), from: Opt(bytes(1_024)) },
  reply: {
    files: List(
      Type.Object({
        handle: HandleShape,
        ino: InoShape,
        offset: Count,
        /** From the root, in a snapshot with `.snapshots/NAME` in it: bytes, as names are. */
        path: Type.Unsafe<Buffer>({}),
      }),
      100_000,
    ),
    chunkBytes: Count,
    next: Opt(bytes(1_024)),
  },
});
