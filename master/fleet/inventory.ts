import type { Log } from "../../common/log.ts";
import { type ChunkHandle, type ServerId, serverId } from "../../protocol/id.ts";
import { chunksPerPageMax, heartbeatMs, serverLeaseMs } from "../../protocol/limits.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import type { Connection } from "../../protocol/connection.ts";
import type {
  heartbeat,
  holdings,
  inventory,
  register,
  replicaBad,
  writeFailed,
} from "../../protocol/methods/fleet.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Clock } from "../../common/clock.ts";
import type { Chunks } from "../chunks/chunks.ts";
import type { Committer } from "../namespace/committer.ts";
import { BadReplicas } from "./bad-replicas.ts";
import type { ChunkServer, Fleet, Usage } from "./fleet.ts";

type Report = RequestOf<typeof inventory>["chunks"][number];

type FailedWrite = RequestOf<typeof writeFailed>;

/** Chunks made even at once: each waits for its servers, of which one may be slow. */
const settlesAtOnce = 64;
/** Failed writes that wait to be settled: what does not fit is told again. */
const failedWritesMax = 100_000;

/** What a chunk server held before it registered again and has not mentioned yet. */
interface Reporting {
  server: ChunkServer;
  unmentioned: Set<ChunkHandle>;
}

/** The chunk servers' side of the master: registering, inventories, heartbeats, bad replicas. */
export class FleetService {
  readonly #committer: Committer;
  readonly #fleet: Fleet;
  readonly #chunks: Chunks;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #reporting = new Map<Connection, Reporting>();
  /** Replicas known to be bad that are still in their sets. */
  readonly bad: BadReplicas;
  /** Told by chunk servers, and not looked at yet. */
  readonly #failedWrites = new Map<ChunkHandle, FailedWrite>();
  /** Called when repair has something to look at. */
  onChange: () => void = () => undefined;

  constructor(options: {
    committer: Committer;
    fleet: Fleet;
    chunks: Chunks;
    clock: Clock;
    log: Log;
  }) {
    this.#committer = options.committer;
    this.#fleet = options.fleet;
    this.#chunks = options.chunks;
    this.#clock = options.clock;
    this.#log = options.log;
    this.bad = new BadReplicas({ ...options, sets: options.chunks.sets });
  }

  async register(
    params: RequestOf<typeof register>,
    connection: Connection,
  ): Promise<ReplyOf<typeof register>> {
    if (this.#reporting.has(connection)) {
      throw new StatusError("protocol", "this connection has registered already");
    }
    const id = params.server ?? serverId(this.#committer.ids.next("server"));
    if (id >= this.#committer.ids.limit("server")) {
      throw new StatusError("wrong-cluster", `this master never gave out server id ${id}`);
    }
    await this.#committer.run((txn) => this.#fleet.store(txn, id, params.address, params.rack));
    const server = this.#fleet.join(id, params.address, params.rack);
    if (server.connection !== connection) server.connection?.close("the server registered again");
    server.connection = connection;
    server.lastSeenMs = this.#clock.nowMs();
    server.inventoried = false;
    server.usage = usageOf(params);
    this.#reporting.set(connection, {
      server,
      unmentioned: this.#chunks.sets.locations.heldBy(id),
    });
    connection.onClose(() => {
      this.#reporting.delete(connection);
      if (server.connection === connection) server.connection = undefined;
      this.#log.warn("server.disconnected", { server: id, address: server.address });
      this.onChange();
    });
    this.#log.event("server.registered", { server: id, address: params.address });
    return {
      server: id,
      epoch: this.#committer.fencedEpoch,
      heartbeatMs,
      leaseMs: serverLeaseMs,
    };
  }

  async inventory(
    params: RequestOf<typeof inventory>,
    connection: Connection,
  ): Promise<ReplyOf<typeof inventory>> {
    const reporting = this.#reporting.get(connection);
    if (!reporting) throw new StatusError("protocol", "register first");
    const { server, unmentioned } = reporting;
    server.lastSeenMs = this.#clock.nowMs();
    const remove: ChunkHandle[] = [];
    for (const report of params.chunks) {
      unmentioned.delete(report.handle);
      if (!(await this.#isUnwanted(server.id, report))) continue;
      remove.push(report.handle);
      // Until the server says that it is done, it gets no new replica of this chunk.
      server.removals.announce(report.handle);
    }
    // Why it has to delete chunks, and that some are in doubt, which it says once only.
    await this.#committer.synced();
    for (const handle of remove) {
      if (server.removals.has(handle)) server.removals.order(handle);
    }
    if (params.last) this.#complete(server, unmentioned);
    // One that is copied to this server meanwhile is not to be deleted any more.
    return { remove: remove.filter((handle) => server.removals.has(handle)) };
  }

  /** Takes one reported replica in. Returns true if the server shall delete it. */
  async #isUnwanted(server: ServerId, report: Report): Promise<boolean> {
    const { handle, version } = report;
    const { sets } = this.#chunks;
    if (!sets.isKnown(handle)) {
      // A handle that this master never gave out is not its to delete: its metadata may be too old.
      const ours = handle < this.#committer.ids.limit("handle");
      if (!ours) this.#log.error("inventory.unknown-handle", { server, handle });
      return ours;
    }
    const chunk = sets.find(handle);
    if (!chunk) {
      // It is being made, and will be on record in a moment, perhaps without this server.
      sets.noteLeftOver(handle, server);
      return false;
    }
    const isMember = chunk.servers.includes(server);
    if (!isMember && sets.isCopying(handle, server)) return false;
    if (!isMember || version < chunk.version) return this.#isStale(server, handle, chunk.goal);
    if (version > chunk.version) return this.#adopt(server, report);
    if (report.dirty) {
      await this.#committer.run((txn) => sets.unsettled.add(txn, handle, server));
      sets.locations.remove(handle, server);
    } else if (!sets.unsettled.of(handle).has(server)) sets.locations.add(handle, server);
    return false;
  }

  /**
   * The master stopped after it had told servers a new version and before it had recorded it. Only
   * the next version can come about so; any other is a fault, and neither used nor deleted.
   */
  async #adopt(server: ServerId, report: Report): Promise<boolean> {
    const { handle, version } = report;
    const { sets } = this.#chunks;
    this.#log.warn("inventory.version-ahead", { server, ...report });
    await this.#committer.run((txn) => {
      const chunk = txn.findChunk(handle);
      if (!chunk || version !== chunk.version + 1) return;
      txn.putChunk(handle, { ...chunk, version });
      // The raise may have been the one that found a write which is not on all, and answered that
      // to the master before this one, or it came with a doubt that is not on record any more.
      sets.unsettled.set(txn, handle, chunk.servers);
      txn.afterCommit(() => sets.locations.set(handle, []));
    });
    return false;
  }

  /**
   * An out-of-date replica goes, unless it may be the last there is, or the chunk lacks a replica:
   * then most of a copy's blocks are here already.
   */
  #isStale(server: ServerId, handle: ChunkHandle, goal: number): boolean {
    const { sets } = this.#chunks;
    sets.locations.remove(handle, server);
    const current = sets.present(handle).filter((id) => this.#fleet.isUp(id));
    const useful = current.length < goal && sets.stale.add(handle, server);
    const removed = current.length > 0 && !useful;
    this.#log.warn("inventory.stale", { server, handle, removed });
    return removed;
  }

  #complete(server: ChunkServer, unmentioned: ReadonlySet<ChunkHandle>): void {
    for (const handle of unmentioned) this.#chunks.sets.locations.remove(handle, server.id);
    server.inventoried = true;
    const chunks = this.#chunks.sets.locations.countOf(server.id);
    this.#log.event("server.inventoried", { server: server.id, chunks });
    this.onChange();
  }

  heartbeat(
    params: RequestOf<typeof heartbeat>,
    connection: Connection,
  ): ReplyOf<typeof heartbeat> {
    const server = this.#serverOf(connection);
    server.lastSeenMs = this.#clock.nowMs();
    server.usage = usageOf(params);
    server.recent = 0;
    for (const handle of params.removed) this.#removed(server.id, handle);
    const remove = server.removals.next(chunksPerPageMax);
    return { remove, epoch: this.#committer.fencedEpoch };
  }

  #removed(server: ServerId, handle: ChunkHandle): void {
    const { sets } = this.#chunks;
    this.#fleet.get(server)?.removals.end(handle);
    if (!sets.present(handle).includes(server)) return;
    // Never expected; but what is not there must not count.
    this.#log.error("replica.removed", { handle, server });
    sets.locations.remove(handle, server);
    this.onChange();
  }

  /** A replica turned out to be bad: it is mended in the background. */
  replicaBad(server: ServerId, params: RequestOf<typeof replicaBad>): ReplyOf<typeof replicaBad> {
    this.#log.error("replica.bad", { server, ...params });
    this.bad.note(params.handle, server);
    return {};
  }

  /**
   * A write did not reach every replica, and nobody else may say so: see `settleFailedWrites`. Of a
   * chunk that is deleted the server shall speak no more: it may not have been in the set any more.
   */
  async writeFailed(
    params: RequestOf<typeof writeFailed>,
    connection: Connection,
  ): Promise<ReplyOf<typeof writeFailed>> {
    const { handle } = params;
    const server = this.#serverOf(connection);
    if (this.#chunks.sets.isKnown(handle)) {
      if (this.#failedWrites.size < failedWritesMax) this.#failedWrites.set(handle, params);
    } else if (handle < this.#committer.ids.limit("handle")) {
      await this.#committer.synced();
      this.#chunks.sets.noteLeftOver(handle, server.id);
    }
    return {};
  }

  /** Replicas that a failed write may have left different, without a client that sends it again. */
  async settleFailedWrites(): Promise<void> {
    const some = [...this.#failedWrites.values()].slice(0, settlesAtOnce);
    for (const { handle } of some) this.#failedWrites.delete(handle);
    const settle = async ({ handle, version, servers }: FailedWrite): Promise<void> => {
      try {
        await this.#chunks.sets.replicasFailed(handle, version, servers);
      } catch (error) {
        this.#log.warn("write-failed.not-settled", { handle, version, error }); // It is told again.
      }
    };
    await Promise.all(some.map(settle));
  }

  /** What a server has, and does not belong there: nobody else may know of it. */
  async holdings(
    { handles }: RequestOf<typeof holdings>,
    connection: Connection,
  ): Promise<ReplyOf<typeof holdings>> {
    const { id } = this.#serverOf(connection);
    const { sets } = this.#chunks;
    const limit = this.#committer.ids.limit("handle");
    const belongs = (handle: ChunkHandle): boolean =>
      handle >= limit ||
      sets.isCopying(handle, id) ||
      sets.find(handle)?.servers.includes(id) === true;
    const leftOver = handles.filter((handle) => !belongs(handle));
    if (leftOver.length === 0) return {};
    await this.#committer.synced();
    for (const handle of leftOver) if (!sets.isCopying(handle, id)) sets.noteLeftOver(handle, id);
    return {};
  }

  serverIdOf(connection: Connection): ServerId {
    return this.#serverOf(connection).id;
  }

  #serverOf(connection: Connection): ChunkServer {
    const server = this.#reporting.get(connection)?.server;
    if (!server) throw new StatusError("protocol", "register first");
    return server;
  }
}

function usageOf(params: Usage): Usage {
  const { usedBytes, freeBytes, chunks, corruptBlocks, disk, diskTrouble, scrub } = params;
  return {
    usedBytes,
    freeBytes,
    chunks,
    corruptBlocks,
    disk,
    ...(diskTrouble === undefined ? {} : { diskTrouble }),
    ...(scrub ? { scrub } : {}),
  };
}
