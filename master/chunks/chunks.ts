import { must } from "../../common/assert.ts";
import type { Log } from "../../common/log.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import {
  type ChunkHandle,
  chunkHandle,
  type ChunkVersion,
  chunkVersion,
  type Epoch,
  type Ino,
  type ServerId,
} from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import type { Method } from "../../protocol/method.ts";
import { cloneChunk, raiseVersion } from "../../protocol/methods/chunk.ts";
import type { Grant, Location, Replica } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { Committer } from "../namespace/committer.ts";
import { addChunk, changedMeanwhile, putCopy } from "../namespace/ops/contents.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey, numberKey } from "../store/bytes.ts";
import { rowsAt } from "../store/history.ts";
import { type Chunk, decodeChunk, decodeChunkRef } from "../store/tables.ts";
import { Locations } from "./locations.ts";
import { place } from "./placement.ts";

/** A grant, or what has to come first: waiting for a snapshot, or steps on chunk servers. */
type GrantPlan =
  | { kind: "granted"; grant: Grant }
  | { kind: "wait" }
  | { kind: "copy" | "settle"; handle: ChunkHandle };

/** A chunk server answers such an order after a copy on its own disk at the latest. */
const orderMs = 20_000;

/**
 * Chunks: where they are, who may write them, and what must happen on chunk servers first. What
 * takes several steps for one chunk runs under that chunk's lock; every step is repeatable, so that
 * a restart in between does no harm.
 *
 * The invariant behind it: a write is acknowledged only if every server of the set that the client
 * was granted has applied it under the chunk's version, and the set changes only together with the
 * version, which the servers that stay are told first. So whoever holds the current version holds
 * every acknowledged byte.
 */
export class Chunks {
  readonly locations = new Locations();
  readonly #committer: Committer;
  readonly #fleet: Fleet;
  readonly #log: Log;
  readonly #chunkBytes: number;
  readonly #random: () => number;
  readonly #locks = new KeyedMutex<ChunkHandle>();
  readonly #making = new Set<ChunkHandle>();
  /** Held back while a snapshot is being taken: nobody is granted a chunk then. */
  #gate: Promise<void> | undefined;

  constructor(options: {
    committer: Committer;
    fleet: Fleet;
    log: Log;
    chunkBytes: number;
    random: () => number;
  }) {
    this.#committer = options.committer;
    this.#fleet = options.fleet;
    this.#log = options.log;
    this.#chunkBytes = options.chunkBytes;
    this.#random = options.random;
  }

  /** Runs `work` while no chunk is granted to anybody. */
  async withoutGrants<T>(work: () => Promise<T>): Promise<T> {
    while (this.#gate) await this.#gate;
    let open = (): void => undefined;
    this.#gate = new Promise((resolve) => {
      open = resolve;
    });
    try {
      return await work();
    } finally {
      this.#gate = undefined;
      open();
    }
  }

  /** True while a snapshot holds grants back. */
  get gated(): boolean {
    return this.#gate !== undefined;
  }

  findChunk(handle: ChunkHandle): Chunk | undefined {
    const record = this.#committer.store.get("chunk", numberKey(handle));
    return record && decodeChunk(record);
  }

  /** Servers that hold the chunk, as its record and their reports say. */
  holders(handle: ChunkHandle, chunk: Chunk): readonly ServerId[] {
    const known = this.locations.of(handle);
    return known.length === 0 && chunk.planned.length > 0 ? chunk.planned : known;
  }

  // Reading

  /** Where chunks of a file are, in epoch `at` or now. Chunks without data are holes. */
  async locate(
    ino: Ino,
    at: Epoch | undefined,
    range: { first: number; count: number },
  ): Promise<Location[]> {
    const found: { index: number; handle: ChunkHandle }[] = [];
    const options = { prefix: numberKey(ino), from: numberKey(ino, range.first), at };
    for (const { key, value } of rowsAt(this.#committer.store, "chunkmap", options)) {
      const index = numberFromKey(key, 8);
      if (index >= range.first + range.count || found.length === chunksPerPageMax) break;
      found.push({ index, handle: decodeChunkRef(value).handle });
    }
    const locations: Location[] = [];
    for (const { index, handle } of found) {
      if (this.findChunk(handle)?.cutTo !== undefined)
        await this.#locked(handle, () => this.#cut(handle));
      const location = this.#location(index, handle);
      if (location) locations.push(location);
    }
    return locations;
  }

  #location(index: number, handle: ChunkHandle): Location | undefined {
    const chunk = this.findChunk(handle);
    if (!chunk) throw new StatusError("io-error", `chunk ${handle} is not recorded`);
    const holders = this.locations.of(handle);
    if (chunk.planned.length > 0) return undefined;
    const { version } = chunk;
    return { index, handle, version, replicas: this.#replicas(holders) };
  }

  /** Replicas for a reader: servers that are up first. */
  #replicas(servers: readonly ServerId[]): Replica[] {
    const up = servers.filter((id) => this.#fleet.isUp(id));
    const rest = servers.filter((id) => !up.includes(id));
    return [...up, ...rest].flatMap((id) => this.#fleet.replica(id) ?? []);
  }

  // Writing

  /** A new chunk as part of an operation that creates the file. */
  planFirst(txn: Txn, ino: Ino): Grant | undefined {
    if (this.#gate) return undefined;
    const planned = this.#place([], must(txn.findInode(ino), "inode").replicas);
    if (planned.length === 0) return undefined;
    return this.#add(txn, ino, 0, planned);
  }

  #add(txn: Txn, ino: Ino, index: number, planned: readonly ServerId[]): Grant {
    const handle = txn.newHandle();
    const version = addChunk(txn, { ino, index, handle, planned });
    txn.afterCommit(() => this.locations.set(handle, planned));
    return this.#grantOf({ index, handle, version, fresh: true }, txn.epoch, planned);
  }

  #grantOf(
    chunk: { index: number; handle: ChunkHandle; version: ChunkVersion; fresh: boolean },
    epoch: Epoch,
    servers: readonly ServerId[],
  ): Grant {
    const ordered = this.#shuffled(servers);
    return { ...chunk, epoch, replicas: ordered.flatMap((id) => this.#fleet.replica(id) ?? []) };
  }

  /**
   * The first server of a set is the chunk's primary: which one, chance decides, so load spreads.
   */
  #shuffled(servers: readonly ServerId[]): ServerId[] {
    const start = Math.floor(this.#random() * servers.length);
    return [...servers.slice(start), ...servers.slice(0, start)];
  }

  #place(present: readonly ServerId[], count: number): ServerId[] {
    const holders = present.flatMap((id) => this.#fleet.get(id) ?? []);
    const chosen = place(this.#fleet.candidates(this.#chunkBytes), count, {
      present: holders.map((server) => this.#fleet.candidate(server)),
      random: this.#random,
    });
    for (const id of chosen) must(this.#fleet.get(id), "server").recent += 1;
    return chosen;
  }

  /**
   * Leave to write chunk `index` of a file. A hole gets a chunk, a shared chunk a copy of its own;
   * a chunk with servers missing goes on with those that are there, under a new version.
   */
  async grant(ino: Ino, index: number): Promise<Grant> {
    for (;;) {
      while (this.#gate) await this.#gate;
      const plan = await this.#committer.run((txn) => this.#planGrant(txn, ino, index));
      if (plan.kind === "granted") return plan.grant;
      if (plan.kind === "wait") continue;
      await this.#locked(plan.handle, async () => {
        if (plan.kind === "copy") await this.#copyForWriting(ino, index, plan.handle);
        else await this.#settle(plan.handle);
      });
    }
  }

  /** Grants what can be granted at once, or says which step on chunk servers has to come first. */
  #planGrant(txn: Txn, ino: Ino, index: number): GrantPlan {
    if (this.#gate) return { kind: "wait" };
    const ref = txn.findChunkRef(ino, index);
    if (!ref) {
      const planned = this.#place([], txn.inode(ino).replicas);
      if (planned.length === 0) throw this.#noServers();
      return { kind: "granted", grant: this.#add(txn, ino, index, planned) };
    }
    const { handle } = ref;
    const chunk = txn.chunk(handle);
    if (!txn.isExclusive(ino, ref)) return { kind: "copy", handle };
    const holders = this.holders(handle, chunk);
    const allUp = holders.length > 0 && holders.every((id) => this.#fleet.isUp(id));
    if (!allUp || chunk.cutTo !== undefined || this.#locks.busy(handle)) {
      return { kind: "settle", handle };
    }
    const fresh = chunk.planned.length > 0;
    const { version } = chunk;
    const grant = this.#grantOf({ index, handle, version, fresh }, txn.epoch, holders);
    return { kind: "granted", grant };
  }

  #noServers(): StatusError {
    const full = this.#fleet.up().length > 0;
    return full
      ? new StatusError("no-space", "no chunk server has room for another chunk")
      : new StatusError("unavailable", "no chunk server is up");
  }

  /** Makes a chunk ready to be granted: cuts what must be cut, drops servers that are not there. */
  async #settle(handle: ChunkHandle): Promise<void> {
    const chunk = this.findChunk(handle);
    if (!chunk) return;
    if (chunk.cutTo !== undefined) await this.#cut(handle);
    const holders = this.holders(handle, chunk);
    const missing = holders.filter((id) => !this.#fleet.isUp(id));
    if (missing.length > 0 || holders.length === 0) await this.#drop(handle, missing);
  }

  /**
   * A client, or a chunk server, found that servers did not take part in a write under `version`.
   */
  async replicasFailed(
    handle: ChunkHandle,
    version: ChunkVersion,
    servers: readonly ServerId[],
  ): Promise<void> {
    await this.#locked(handle, async () => {
      if (this.findChunk(handle)?.version !== version) return;
      this.#log.warn("chunk.replicas-failed", { handle, version, servers });
      await this.#drop(handle, servers);
    });
  }

  /**
   * Takes servers out of a chunk's set. Those that stay are told the new version first; then it is
   * committed. A crash in between leaves servers with a version above the master's, which it
   * adopts.
   */
  async #drop(handle: ChunkHandle, failed: readonly ServerId[]): Promise<void> {
    const chunk = this.findChunk(handle);
    if (!chunk) return;
    const staying = this.holders(handle, chunk).filter((id) => !failed.includes(id));
    if (chunk.planned.length > 0) return this.#replan(handle, chunk, staying);
    const answered = await this.#raise(handle, chunk, staying);
    if (answered.length === 0) throw this.#silent(handle);
    this.locations.set(handle, answered);
    this.#log.event("chunk.set-changed", { handle, version: chunk.version + 1, servers: answered });
  }

  /**
   * The same for a chunk that nothing has been committed to. It may have been written all the same,
   * so only servers that say so do not have it; if none does, those create it under the new
   * version.
   */
  async #replan(handle: ChunkHandle, chunk: Chunk, staying: readonly ServerId[]): Promise<void> {
    const { done, lacking } = await this.#order(
      staying,
      raiseVersion,
      this.#raiseTo(handle, chunk),
    );
    const servers = done.length > 0 ? done : lacking;
    if (servers.length === 0) throw this.#silent(handle);
    const version = chunkVersion(chunk.version + 1);
    await this.#committer.run((txn) => {
      const current = txn.findChunk(handle);
      if (!current) return;
      const planned = current.planned.length > 0 ? servers : [];
      txn.putChunk(handle, { ...current, version, planned, cutTo: undefined });
      txn.afterCommit(() => this.locations.set(handle, servers));
    });
  }

  #silent(handle: ChunkHandle): StatusError {
    return new StatusError("unavailable", `no server with chunk ${handle} answers`);
  }

  #raiseTo(handle: ChunkHandle, chunk: Chunk) {
    const cut = chunk.cutTo === undefined ? {} : { length: chunk.cutTo };
    return { handle, version: chunk.version, newVersion: chunkVersion(chunk.version + 1), ...cut };
  }

  /** Raises the version on `servers` and then on record. Returns the servers that have it. */
  async #raise(
    handle: ChunkHandle,
    chunk: Chunk,
    servers: readonly ServerId[],
  ): Promise<ServerId[]> {
    const order = this.#raiseTo(handle, chunk);
    const { done: answered } = await this.#order(servers, raiseVersion, order);
    if (answered.length === 0) return [];
    await this.#committer.run((txn) => {
      const current = txn.findChunk(handle);
      if (!current || current.version > order.newVersion) return;
      const done = current.cutTo === chunk.cutTo ? undefined : current.cutTo;
      txn.putChunk(handle, { ...current, version: order.newVersion, cutTo: done });
    });
    return answered;
  }

  /**
   * Applies a truncation that is on record to the replicas. Servers that do not answer are dropped.
   */
  async cutNow(handle: ChunkHandle): Promise<void> {
    await this.#locked(handle, () => this.#cut(handle));
  }

  async #cut(handle: ChunkHandle): Promise<void> {
    const chunk = this.findChunk(handle);
    if (chunk?.cutTo === undefined) return;
    const holders = this.holders(handle, chunk);
    if (chunk.planned.length > 0) return this.#replan(handle, chunk, holders);
    const answered = await this.#raise(handle, chunk, holders);
    if (answered.length === 0) throw this.#silent(handle);
    this.locations.set(handle, answered);
  }

  /**
   * Sends the same order to several servers at once. `done` carried it out; `lacking` answered that
   * they do not have the chunk; the others did not answer or refused.
   */
  async #order<Request, Reply>(
    servers: readonly ServerId[],
    method: Method<Request, Reply>,
    params: Request,
  ): Promise<{ done: ServerId[]; lacking: ServerId[] }> {
    const done: ServerId[] = [];
    const lacking: ServerId[] = [];
    await Promise.all(
      servers.map(async (id) => {
        const connection = this.#fleet.get(id)?.connection;
        if (!connection) return;
        try {
          await connection.call(method, params, { deadlineMs: orderMs });
          done.push(id);
        } catch (error) {
          const status = statusOf(error);
          if (status === "no-chunk") lacking.push(id);
          const why = error instanceof Error ? error.message : String(error);
          this.#log.warn("chunk.order-failed", { order: method.name, server: id, status, why });
        }
      }),
    );
    return { done, lacking };
  }

  // Copies on write

  /**
   * A copy of a shared chunk on the servers that hold it, under a new handle (GFS §3.4). Until it
   * is on record nobody refers to it, and a lost one is garbage.
   */
  async makeCopy(source: ChunkHandle, length: number | undefined): Promise<ChunkHandle> {
    const chunk = this.findChunk(source);
    if (!chunk) throw changedMeanwhile();
    const target = chunkHandle(this.#committer.ids.next("handle"));
    const order = {
      handle: source,
      version: chunk.version,
      target,
      ...(length === undefined ? {} : { length }),
    };
    const holders = this.holders(source, chunk).filter((id) => this.#fleet.isUp(id));
    this.#making.add(target);
    const { done } = await this.#order(holders, cloneChunk, order);
    if (done.length === 0) {
      this.#making.delete(target);
      throw new StatusError("unavailable", `no server with chunk ${source} could copy it`);
    }
    this.locations.set(target, done);
    return target;
  }

  /** A copy from `makeCopy` is on record now, or else not wanted. */
  copyMade(handle: ChunkHandle, used: boolean): void {
    this.#making.delete(handle);
    if (!used) this.discard(handle, []);
  }

  /** True for a chunk that is on record, or being copied and not on record yet. */
  isKnown(handle: ChunkHandle): boolean {
    return this.#making.has(handle) || this.findChunk(handle) !== undefined;
  }

  async #copyForWriting(ino: Ino, index: number, source: ChunkHandle): Promise<void> {
    const chunk = this.findChunk(source);
    if (!chunk) return;
    if (chunk.planned.length > 0) return this.#freshInstead(ino, index, source);
    if (chunk.cutTo !== undefined) await this.#cut(source);
    const handle = await this.makeCopy(source, undefined);
    let used = false;
    try {
      used = await this.#committer.run((txn) => {
        const ref = txn.findChunkRef(ino, index);
        if (ref?.handle !== source || txn.isExclusive(ino, ref)) return false;
        putCopy(txn, ino, index, { source, handle });
        return true;
      });
    } finally {
      this.copyMade(handle, used);
    }
  }

  /** A shared chunk without data needs no copy: the file gets a hole there, then a new chunk. */
  async #freshInstead(ino: Ino, index: number, source: ChunkHandle): Promise<void> {
    await this.#committer.run((txn) => {
      if (txn.findChunkRef(ino, index)?.handle !== source) return;
      txn.setChunkRef(ino, index, undefined);
      const inode = txn.inode(ino);
      txn.putInode(ino, { ...inode, chunks: inode.chunks - 1 });
    });
  }

  /** Nobody refers to the chunk any more: servers are told with their next heartbeat. */
  discard(handle: ChunkHandle, planned: readonly ServerId[]): void {
    for (const id of new Set([...this.locations.of(handle), ...planned])) {
      this.#fleet.get(id)?.removals.add(handle);
    }
    this.locations.set(handle, []);
  }

  /** Runs `work` alone among everything that takes several steps for this chunk. */
  #locked<T>(handle: ChunkHandle, work: () => Promise<T>): Promise<T> {
    return this.#locks.run(handle, work);
  }

  // Repair

  /**
   * Adds a replica. Writers are held off by the chunk's lock and a raised version, so the copy is
   * of a chunk that does not change.
   */
  async addReplica(
    handle: ChunkHandle,
    copy: (order: { version: ChunkVersion; source: Replica }) => Promise<ServerId>,
  ): Promise<void> {
    await this.#locked(handle, async () => {
      const before = this.findChunk(handle);
      if (!before || before.planned.length > 0) return;
      const up = this.locations.of(handle).filter((id) => this.#fleet.isUp(id));
      const holders = await this.#raise(handle, before, up);
      const first = holders[0];
      if (first === undefined) throw this.#silent(handle);
      this.locations.set(handle, holders);
      const added = await copy(this.#copyOrder(handle, first));
      if (this.findChunk(handle)) this.locations.add(handle, added);
    });
  }

  #copyOrder(handle: ChunkHandle, from: ServerId): { version: ChunkVersion; source: Replica } {
    const { version } = must(this.findChunk(handle), "chunk");
    return { version, source: must(this.#fleet.replica(from), "replica") };
  }

  /**
   * Makes replicas equal that differ in unacknowledged bytes: the first is copied over the others.
   */
  async equalize(
    handle: ChunkHandle,
    copy: (
      target: ServerId,
      order: { version: ChunkVersion; source: Replica },
    ) => Promise<ServerId>,
  ): Promise<void> {
    await this.#locked(handle, async () => {
      const before = this.findChunk(handle);
      if (!before || before.planned.length > 0) return;
      const [first, ...others] = this.locations.of(handle).filter((id) => this.#fleet.isUp(id));
      if (first === undefined) throw this.#silent(handle);
      const [kept] = await this.#raise(handle, before, [first]);
      if (kept === undefined) throw this.#silent(handle);
      this.locations.set(handle, [kept]);
      this.#log.event("chunk.equalize", { handle, from: kept, to: others });
      for (const target of others) {
        this.locations.add(handle, await copy(target, this.#copyOrder(handle, kept)));
      }
    });
  }

  placeFor(handle: ChunkHandle): ServerId | undefined {
    return this.#place(this.locations.of(handle), 1)[0];
  }
}
