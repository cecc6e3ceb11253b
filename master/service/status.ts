import type { Clock } from "../../common/clock.ts";
import type { Ino } from "../../protocol/id.ts";
import { statusSnapshotsMax } from "../../protocol/limits.ts";
import type { ReplyOf } from "../../protocol/method.ts";
import type { listServers, status } from "../../protocol/methods/admin.ts";
import type { statfs } from "../../protocol/methods/namespace.ts";
import type { Fsck } from "../background/fsck.ts";
import type { Repair } from "../background/repair/repair.ts";
import type { ServerModes } from "../fleet/modes.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { Committer } from "../namespace/committer.ts";
import type { NamespaceReader } from "../namespace/ops/read.ts";
import type { Sessions } from "./sessions.ts";

/** Replicas of what is created in the root unless told otherwise; free space is divided by it. */
export const replicasDefault = 3;

/**
 * Names looked at for the snapshots' paths in one report: some 50 ms of the master's time. Beyond,
 * "?" stands for a name.
 */
const namesPerReport = 20_000;

interface Parts {
  cluster: string;
  version: string;
  /** HOST:PORT where the master listens. */
  address: () => string;
  committer: Committer;
  fleet: Fleet;
  modes: ServerModes;
  repair: Repair;
  fsck: Fsck;
  sessions: Sessions;
  reader: NamespaceReader;
  clock: Clock;
}

/** What the master can tell of itself and the cluster. */
export class StatusService {
  readonly #parts: Parts;
  readonly #startedMs: number;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#startedMs = parts.clock.nowMs();
  }

  statfs(): ReplyOf<typeof statfs> {
    const { fleet, committer } = this.#parts;
    const up = fleet.up();
    const replicas = Math.max(1, Math.min(replicasDefault, up.length));
    const free = up.reduce((sum, server) => sum + server.usage.freeBytes, 0);
    const used = up.reduce((sum, server) => sum + server.usage.usedBytes, 0);
    return {
      totalBytes: Math.floor((free + used) / replicas),
      freeBytes: Math.floor(free / replicas),
      inodes: committer.store.count("inode"),
    };
  }

  async report(): Promise<ReplyOf<typeof status>> {
    const { cluster, version, address, committer, repair, fsck, clock } = this.#parts;
    const { servers } = this.servers();
    const corrupt = servers.reduce((sum, server) => sum + server.corruptBlocks, 0);
    return {
      cluster,
      version,
      master: {
        address: address(),
        upMs: Math.round(clock.nowMs() - this.#startedMs),
        pid: process.pid,
        inodes: committer.store.count("inode"),
      },
      chunks: { ...(await repair.counts()), corrupt, damaged: fsck.damaged },
      repair: repair.load,
      servers,
      mounts: this.#mounts(),
      snapshots: this.#snapshots(),
      snapshotCount: committer.snapshots.all.length,
    };
  }

  servers(): ReplyOf<typeof listServers> {
    const { fleet, modes, clock } = this.#parts;
    const servers = fleet
      .all()
      .toSorted((a, b) => a.id - b.id)
      .map((server) => ({
        id: server.id,
        address: server.address,
        rack: server.rack,
        state: fleet.stateOf(server),
        ...modes.shown(server),
        lastSeenMs: Math.round(clock.nowMs() - server.lastSeenMs),
        ...server.usage,
      }));
    return { servers };
  }

  #mounts(): ReplyOf<typeof status>["mounts"] {
    return this.#parts.sessions.mounts().map((session) => ({
      session: session.id,
      name: session.name,
      mountpoint: session.mountpoint,
      connected: session.connection !== undefined,
    }));
  }

  #snapshots(): ReplyOf<typeof status>["snapshots"] {
    const { committer, reader } = this.#parts;
    const budget = { names: namesPerReport };
    const paths = new Map<Ino, string>();
    const pathOf = (dir: Ino): string => {
      const path = paths.get(dir) ?? (reader.pathOf(dir, budget).toString() || "/");
      paths.set(dir, path);
      return path;
    };
    return committer.snapshots.all.slice(-statusSnapshotsMax).map((snapshot) => ({
      path: pathOf(snapshot.dir),
      name: snapshot.name.toString(),
      createdAt: new Date(Number(snapshot.createdAt / 1_000_000n)).toISOString(),
      epoch: snapshot.epoch,
    }));
  }
}
