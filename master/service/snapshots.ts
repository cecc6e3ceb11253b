import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { type Epoch, epoch as toEpoch, type Ino, rootIno } from "../../protocol/id.ts";
import { serverLeaseMs } from "../../protocol/limits.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import type { createSnapshot, listSnapshots } from "../../protocol/methods/admin.ts";
import { fence } from "../../protocol/methods/chunk.ts";
import type { Snapshot } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Chunks } from "../chunks/chunks.ts";
import type { ChunkServer, Fleet } from "../fleet/fleet.ts";
import type { Committer } from "../namespace/committer.ts";
import type { NamespaceReader } from "../namespace/ops/read.ts";
import { ancestors, snapshotName, takeSnapshot } from "../namespace/ops/snapshot.ts";
import type { LiveSnapshot } from "../namespace/snapshots.ts";
import type { Mutate } from "./files.ts";
import type { Sessions } from "./sessions.ts";

/**
 * A chunk server that answers but cannot end the writes it has begun holds up nobody for longer.
 */
const fenceMs = 2 * serverLeaseMs;
/** How often a silent server is looked at while its lease runs out. */
const pollMs = 200;

/** Snapshots: one batch on the master, and one message to every chunk server before it. */
export class SnapshotService {
  readonly #committer: Committer;
  readonly #chunks: Chunks;
  readonly #fleet: Fleet;
  readonly #sessions: Sessions;
  readonly #reader: NamespaceReader;
  readonly #clock: Clock;
  readonly #log: Log;

  constructor(options: {
    committer: Committer;
    chunks: Chunks;
    fleet: Fleet;
    sessions: Sessions;
    reader: NamespaceReader;
    clock: Clock;
    log: Log;
  }) {
    this.#committer = options.committer;
    this.#chunks = options.chunks;
    this.#fleet = options.fleet;
    this.#sessions = options.sessions;
    this.#reader = options.reader;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  /**
   * Takes a snapshot: mounts flush, chunk servers refuse the old epoch, one batch records it.
   * Nobody is granted a chunk from the fence to the batch, so no write can be on the wrong side of
   * it.
   */
  async create(
    params: RequestOf<typeof createSnapshot>,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof createSnapshot>> {
    const unflushed = await this.#sessions.flushAll();
    const startedMs = this.#clock.nowMs();
    const reply = await this.fenced(() =>
      mutate((txn) => {
        const name = params.name ? Buffer.from(params.name) : this.#freeName(params.dir, txn.nowNs);
        const taken = takeSnapshot(txn, params.dir, name);
        this.#committer.raiseEpoch(txn);
        return { snapshot: shown(taken, unflushed) };
      }),
    );
    await this.#committer.synced();
    const tookMs = Math.round(this.#clock.nowMs() - startedMs);
    this.#log.event("snapshot.taken", { dir: params.dir, epoch: reply.snapshot.epoch, tookMs });
    return reply;
  }

  /** Two snapshots of a directory within one second get different names. */
  #freeName(dir: Ino, nowNs: bigint): Buffer {
    const base = snapshotName(nowNs);
    for (let n = 2; ; n += 1) {
      const name = Buffer.from(n === 2 ? base : `${base.slice(0, -1)}-${n - 1}Z`);
      if (!this.#committer.snapshots.find(dir, name)) return name;
    }
  }

  /**
   * Runs `work`, which raises the epoch, while no write of a client is under way and nobody is
   * granted a chunk: what was granted before is out of date afterwards.
   */
  fenced<T>(work: () => Promise<T>): Promise<T> {
    return this.#chunks.withoutGrants(() => this.#fenced(work));
  }

  /**
   * Runs `work` when all chunk servers refuse the current epoch. Whatever comes of it, the master's
   * epoch is the servers' afterwards, or nobody could write any more. (A master that stops in
   * between raises the epoch when it starts, by one: so the last raise is on the disk first.)
   */
  async #fenced<T>(work: () => Promise<T>): Promise<T> {
    await this.#committer.synced();
    const next = toEpoch(this.#committer.epoch + 1);
    // Servers that register meanwhile are told this one.
    this.#committer.fencedEpoch = next;
    try {
      await this.#fenceAll({ epoch: next, forwarded: false });
      return await work();
    } finally {
      if (this.#committer.epoch < next) {
        await this.#committer.run((txn) => this.#committer.raiseEpoch(txn));
      }
    }
  }

  /**
   * A server that did not answer takes no writes any more, but may still be passing on what it took
   * before: one that was stopped for a while, for example. By then the others have ended all of
   * theirs, so they can refuse whatever is passed on under an older epoch.
   */
  async #fenceAll(order: RequestOf<typeof fence>): Promise<void> {
    const servers = this.#fleet.all();
    const answered = await Promise.all(servers.map((server) => this.#fence(server, order)));
    if (answered.includes(false) && !order.forwarded) {
      await this.#fenceAll({ ...order, forwarded: true });
    }
  }

  /** False if the server has not answered and cannot be taking writes any more (GFS §3.1). */
  async #fence(server: ChunkServer, order: RequestOf<typeof fence>): Promise<boolean> {
    const untilMs = this.#clock.nowMs() + fenceMs;
    while (!this.#fleet.leaseRunOut(server)) {
      if (this.#clock.nowMs() > untilMs) {
        const message = `chunk server ${server.address} does not end its writes: try again`;
        throw new StatusError("busy", message);
      }
      const { connection } = server;
      if (connection && !connection.closed) {
        try {
          await connection.call(fence, order, { deadlineMs: serverLeaseMs });
          return true;
        } catch (error) {
          this.#log.warn("fence.failed", { server: server.id, error });
        }
      }
      await sleep(this.#clock, pollMs);
    }
    return false;
  }

  list(params: RequestOf<typeof listSnapshots>): ReplyOf<typeof listSnapshots> {
    const index = this.#committer.snapshots;
    const { dir } = params;
    if (dir === undefined) return { snapshots: index.all.map((s) => shown(s, [])) };
    const own = index.ofDirectory(dir);
    if (!params.inherited || dir === rootIno) return { snapshots: own.map((s) => shown(s, [])) };
    const seen = new Set(own.map((s) => s.name.toString("latin1")));
    const inherited: LiveSnapshot[] = [];
    for (const ancestor of this.#ancestorsOf(dir).slice(1)) {
      for (const snapshot of index.ofDirectory(ancestor)) {
        const name = snapshot.name.toString("latin1");
        if (seen.has(name) || !index.covers(this.#committer.store, snapshot, dir)) continue;
        seen.add(name);
        inherited.push(snapshot);
      }
    }
    return { snapshots: [...own, ...inherited].map((s) => shown(s, [])) };
  }

  #ancestorsOf(dir: Ino): Ino[] {
    return ancestors({ findInode: (ino) => this.#reader.findInode(ino, undefined) }, dir);
  }

  requireEpoch(at: Epoch | undefined): Epoch | undefined {
    if (at !== undefined && !this.#committer.snapshots.hasEpoch(at)) {
      throw new StatusError("stale", "the snapshot has been deleted");
    }
    return at;
  }
}

function shown(snapshot: LiveSnapshot, unflushed: string[]): Snapshot {
  const { dir, name, epoch, createdAt } = snapshot;
  return { dir, name, epoch, createdAt, unflushed };
}
