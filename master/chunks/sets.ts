import type { Log } from "../../common/log.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import {
  type ChunkHandle,
  chunkHandle,
  type ChunkVersion,
  chunkVersion,
  type ServerId,
} from "../../protocol/id.ts";
import { cloneChunk, raiseVersion } from "../../protocol/methods/chunk.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { Committer } from "../namespace/committer.ts";
import { changedMeanwhile, type CutCopy } from "../namespace/ops/contents.ts";
import { numberKey } from "../store/bytes.ts";
import { type Chunk, decodeChunk } from "../store/tables.ts";
import { Locations } from "./locations.ts";
import { ChunkOrders } from "./orders.ts";
import { bestSource } from "./source.ts";
import { StaleReplicas } from "./stale.ts";
import { Unsettled } from "./unsettled.ts";

/**
 * What a raise does with replicas in doubt: they leave the set; or stay in it, still in doubt; or
 * are in doubt no more, as they have been compared.
 */
type Doubt = "exclude" | "keep" | "resolved";

/**
 * The sets of servers that hold chunks, and every step that changes one.
 *
 * The invariant: a write is acknowledged only if every server of the set has applied it under the
 * chunk's version. The set is in the chunk's record and changes only together with the version, in
 * one commit, after the servers that stay have been told the new version. So a server that is in
 * the set, and has the version, has every acknowledged byte; one that is not in the set is out of
 * date whatever its version (it may have carried out an order whose answer was lost).
 *
 * What takes several steps for one chunk runs under that chunk's lock. Each step can be repeated,
 * so a crash in between does no harm: at worst servers have the version after the record's, which
 * is adopted when they report. That holds for a loss of power too, since what an order follows from
 * is on the disk before it is sent, and a new version is before anybody may write under it.
 */
export class ChunkSets {
  /** Members of sets that are known to be up to date: they have reported, or were told. */
  readonly locations = new Locations();
  readonly unsettled = new Unsettled();
  /** What servers that are up still have of chunks whose sets they have left. */
  readonly stale = new StaleReplicas();
  /** Called when a chunk's set has become smaller. */
  onShrunk: (handle: ChunkHandle) => void = () => undefined;
  /** A chunk is not written to with fewer servers, if it shall have as many. At least 1. */
  minReplicas = 1;
  readonly #committer: Committer;
  readonly #fleet: Fleet;
  readonly #log: Log;
  readonly #orders: ChunkOrders;
  readonly #locks = new KeyedMutex<ChunkHandle>();
  readonly #making = new Set<ChunkHandle>();

  constructor(options: { committer: Committer; fleet: Fleet; log: Log }) {
    this.#committer = options.committer;
    this.#fleet = options.fleet;
    this.#log = options.log;
    this.#orders = new ChunkOrders(options);
  }

  /** It may have been deleted meanwhile: that takes no lock. */
  #expect(handle: ChunkHandle): Chunk {
    const chunk = this.find(handle);
    if (!chunk) throw changedMeanwhile();
    return chunk;
  }

  find(handle: ChunkHandle): Chunk | undefined {
    const record = this.#committer.store.get("chunk", numberKey(handle));
    return record && decodeChunk(record);
  }

  /** Members that a reader can be sent to. */
  present(handle: ChunkHandle): readonly ServerId[] {
    return this.locations.of(handle);
  }

  /** True when every server of the set is up and known to have the version. */
  isWhole(handle: ChunkHandle, chunk: Chunk): boolean {
    const present = this.present(handle);
    return (
      chunk.servers.length > 0 &&
      chunk.servers.every((id) => present.includes(id) && this.#fleet.isUp(id))
    );
  }

  busy(handle: ChunkHandle): boolean {
    return this.#locks.busy(handle);
  }

  /** Runs `work` alone among everything that takes several steps for this chunk. */
  locked<T>(handle: ChunkHandle, work: () => Promise<T>): Promise<T> {
    return this.#locks.run(handle, work);
  }

  /** True for a chunk that is on record, or being copied and not on record yet. */
  isKnown(handle: ChunkHandle): boolean {
    return this.#making.has(handle) || this.find(handle) !== undefined;
  }

  silent(handle: ChunkHandle): StatusError {
    return new StatusError("unavailable", `no server with chunk ${handle} answers`);
  }

  /**
   * Why no replica is at hand: `unavailable`, for which waiting helps, or `lost` if all of the set
   * are there, and each has said, now (`without`) or when it registered, that it has none.
   */
  nobody(handle: ChunkHandle, chunk: Chunk, without: readonly ServerId[] = []): StatusError {
    const present = this.present(handle);
    const isWithout = (id: ServerId): boolean =>
      this.#fleet.isUp(id) &&
      this.#fleet.get(id)?.inventoried === true &&
      (without.includes(id) || !present.includes(id));
    const doubtful = this.unsettled.of(handle).size > 0 && without.length === 0;
    if (doubtful || !chunk.servers.every(isWithout)) return this.silent(handle);
    return new StatusError("lost", `chunk ${handle}: none of its servers has it: see gfs fsck`);
  }

  /**
   * Gives the chunk a new version with `wanted` as its set, less those that do not carry it out; a
   * pending cut goes along. If a write under the old version may not be on all of them, they are
   * compared and made equal (so nobody's retry is needed for that). Runs under the lock.
   */
  async raise(handle: ChunkHandle, wanted: readonly ServerId[]): Promise<void> {
    const { uneven } = await this.#raise(handle, wanted, "exclude");
    if (uneven.size > 0) await this.#settleReplicas(handle, uneven);
  }

  /**
   * For a chunk without committed data, servers that say they do not have it become the set if
   * nobody has it: the next write creates it there. `uneven`: the servers that know of a write that
   * is not on all; then all of the set are in doubt, which is on record.
   */
  async #raise(
    handle: ChunkHandle,
    wanted: readonly ServerId[],
    doubt: Doubt,
  ): Promise<{ set: readonly ServerId[]; uneven: ReadonlySet<ServerId> }> {
    const chunk = this.#expect(handle);
    await this.#committer.synced();
    const doubtful = this.unsettled.of(handle);
    const servers = doubt === "exclude" ? wanted.filter((id) => !doubtful.has(id)) : wanted;
    const newVersion = chunkVersion(chunk.version + 1);
    const cut = chunk.cutTo === undefined ? {} : { length: chunk.cutTo };
    const order = { handle, version: chunk.version, newVersion, ...cut };
    const { done, replies, lacking, bad } = await this.#orders.toAll(servers, raiseVersion, order);
    const set = done.length > 0 || chunk.written ? done : lacking;
    if (set.length === 0) throw this.nobody(handle, chunk, [...lacking, ...bad]);
    const named = done.filter((id) => replies.get(id)?.uneven);
    const uneven = new Set(doubt === "exclude" && set.length > 1 ? named : []);
    await this.#committer.run((txn) => {
      const current = txn.findChunk(handle);
      if (!current || current.version >= newVersion) return;
      const cutTo = current.cutTo === chunk.cutTo ? undefined : current.cutTo;
      txn.putChunk(handle, { ...current, version: newVersion, servers: set, cutTo });
      const doubted =
        uneven.size > 0 ? set : set.filter((id) => doubt === "keep" && doubtful.has(id));
      if (doubt !== "keep" && doubtful.size + doubted.length > 0) {
        this.unsettled.set(txn, handle, doubted);
      }
      const present = set.filter((id) => !doubted.includes(id));
      txn.afterCommit(() => this.#setChanged(handle, { before: chunk.servers, set, present }));
    });
    await this.#committer.synced();
    this.#log.event("chunk.raised", { handle, version: newVersion, servers: set });
    return { set, uneven };
  }

  #setChanged(
    handle: ChunkHandle,
    sets: { before: readonly ServerId[]; set: readonly ServerId[]; present: readonly ServerId[] },
  ): void {
    this.locations.set(handle, sets.present);
    const left = sets.before.filter((id) => !sets.set.includes(id));
    // One without a connection is found by its inventory; one merely silent sends no new one.
    for (const id of left) if (this.#fleet.get(id)?.connection) this.stale.add(handle, id);
    if (left.length > 0) this.onShrunk(handle);
  }

  /** Applies a truncation that is on record to the replicas; servers that do not answer go. */
  async cut(handle: ChunkHandle): Promise<void> {
    const chunk = this.find(handle);
    if (chunk?.cutTo !== undefined) await this.raise(handle, chunk.servers);
  }

  // Changing sets

  /**
   * Makes a chunk ready to be granted: cut, its replicas equal, without servers that are not there.
   * Waits, by `unavailable`, for servers that have not had the time to come back after a restart.
   */
  async settle(handle: ChunkHandle): Promise<void> {
    await this.settleReplicas(handle);
    await this.cut(handle);
    const chunk = this.find(handle);
    if (!chunk || this.isWhole(handle, chunk)) return;
    const awaited = chunk.servers.filter((id) => this.#fleet.isAwaited(id));
    if (awaited.length > 0) {
      throw new StatusError("unavailable", `chunk ${handle}: waiting for server ${awaited[0]}`);
    }
    const up = chunk.servers.filter((id) => this.#fleet.isUp(id));
    const present = this.present(handle);
    const staying = chunk.written ? up.filter((id) => present.includes(id)) : up;
    if (chunk.written && staying.length > 0) this.checkEnough(chunk, staying);
    await this.raise(handle, staying);
  }

  /** With fewer servers than this a chunk of that goal is not written to. */
  least(goal: number): number {
    return Math.min(this.minReplicas, goal);
  }

  /** Throws `unavailable` if too few servers are there for writers to go on with (minReplicas). */
  checkEnough(chunk: Pick<Chunk, "goal">, servers: readonly ServerId[]): void {
    const least = this.least(chunk.goal);
    if (servers.length >= least) return;
    const there = `${servers.length} of at least ${least} replicas`;
    throw new StatusError("unavailable", `writers wait: ${there} are there`);
  }

  /**
   * Servers did not take part in a write under `version`: they leave the set. Without any, only the
   * version is raised, after a write that failed everywhere.
   */
  async replicasFailed(
    handle: ChunkHandle,
    version: ChunkVersion,
    servers: readonly ServerId[],
  ): Promise<void> {
    await this.locked(handle, async () => {
      const chunk = this.find(handle);
      if (chunk?.version !== version) return;
      this.#log.warn("chunk.replicas-failed", { handle, version, servers });
      const staying = chunk.servers.filter((id) => !servers.includes(id));
      // If nobody is left, the client could not reach them for a moment: they get another chance.
      const again = chunk.servers.filter((id) => this.#fleet.isUp(id));
      await this.raise(handle, staying.length > 0 ? staying : again);
    });
  }

  /**
   * Replicas that were being written when their server stopped are compared with those that went
   * on, or with each other if there are none, and the blocks that differ are copied over. So are
   * all that had a write which failed on some. Runs under the lock.
   */
  settleReplicas(handle: ChunkHandle): Promise<void> {
    return this.#settleReplicas(handle, new Set());
  }

  /** `uneven`: they took part in a write that others lack, and are not the measure if they can. */
  async #settleReplicas(handle: ChunkHandle, uneven: ReadonlySet<ServerId>): Promise<void> {
    const doubtful = this.unsettled.of(handle);
    const chunk = this.find(handle);
    if (doubtful.size === 0) return;
    if (!chunk) {
      await this.#committer.run((txn) => this.unsettled.clear(txn, handle));
      return;
    }
    const sure = this.present(handle).filter((id) => this.#fleet.isUp(id) && !doubtful.has(id));
    const unsure = chunk.servers.filter((id) => doubtful.has(id) && this.#fleet.isUp(id));
    if (sure.length === 0) this.#checkNobodyMissing(handle, chunk, unsure);
    // With a new version nobody writes while they are compared.
    const { set } = await this.#raise(handle, [...sure, ...unsure], "keep");
    const sums = await this.#orders.sums(handle, this.#expect(handle).version, set);
    const source = sure.find((id) => sums.has(id)) ?? bestSource(sums, uneven);
    if (source === undefined) throw this.silent(handle);
    const different = set.filter((id) => sums.get(id)?.text !== sums.get(source)?.text);
    if (different.length === 0) {
      await this.#committer.run((txn) => {
        this.unsettled.clear(txn, handle);
        txn.afterCommit(() => this.locations.set(handle, set));
      });
      return;
    }
    this.#log.warn("chunk.replicas-differ", { handle, source, different });
    const equal = set.filter((id) => !different.includes(id));
    await this.#raise(handle, equal, "resolved");
    for (const target of different) await this.#copyInto(handle, target);
  }

  /**
   * When all replicas at hand are in doubt, one that is not there may be the better one: it is
   * waited for until it is long dead, or says that it has none.
   */
  #checkNobodyMissing(handle: ChunkHandle, chunk: Chunk, unsure: readonly ServerId[]): void {
    if (unsure.length === 0) throw this.silent(handle);
    const missing = chunk.servers.filter((id) => !unsure.includes(id));
    const awaited = missing.find((id) => !this.#fleet.isGone(id) && !this.#isWithout(handle, id));
    if (awaited === undefined) return;
    const why = `the replicas at hand may lack bytes: waiting for server ${awaited}`;
    throw new StatusError("unavailable", `chunk ${handle}: ${why}`);
  }

  /** True if a server of the set that is not there, or in doubt, may turn out to have the chunk. */
  mayHaveMore(handle: ChunkHandle, chunk: Chunk): boolean {
    const present = this.present(handle);
    return chunk.servers.some(
      (id) => !present.includes(id) && !this.#fleet.isGone(id) && !this.#isWithout(handle, id),
    );
  }

  /** True if the server is there and has said that it has no replica of use. */
  #isWithout(handle: ChunkHandle, id: ServerId): boolean {
    const told = this.#fleet.isUp(id) && this.#fleet.get(id)?.inventoried === true;
    return told && !this.present(handle).includes(id) && !this.unsettled.of(handle).has(id);
  }

  /**
   * Adds a replica on `target`. Most is copied while writers go on; then they are held off, by the
   * lock and a new version, while what they have changed since is copied (GFS §4.3). `from`: the
   * server to copy from, if it can be.
   */
  async addReplica(handle: ChunkHandle, target: ServerId, from?: ServerId): Promise<void> {
    const draft = this.find(handle);
    if (!draft?.written || draft.servers.includes(target)) return;
    await this.#orderCopy(handle, target, { draft: true, from });
    await this.locked(handle, async () => {
      const chunk = this.find(handle);
      if (!chunk?.written || chunk.servers.includes(target)) return;
      const up = this.present(handle).filter((id) => this.#fleet.isUp(id));
      if (up.length === 0) throw this.silent(handle);
      await this.raise(handle, up);
      await this.#copyInto(handle, target, from);
    });
  }

  /**
   * Makes a bad replica good from others that are bad too, elsewhere: each block comes from any
   * that has it. Nothing has changed if there is a block that nobody has: `corrupt`, or whatever
   * else went wrong.
   */
  async mendReplica(handle: ChunkHandle, target: ServerId): Promise<void> {
    await this.#orderCopy(handle, target, { draft: true });
    await this.locked(handle, async () => {
      const others = this.present(handle).filter((id) => this.#fleet.isUp(id) && id !== target);
      if (!this.find(handle)?.servers.includes(target) || others.length === 0) return;
      await this.raise(handle, others);
      await this.#copyInto(handle, target);
    });
  }

  /**
   * Gives a chunk without committed data one more server. Repair does not look at those, but its
   * writers wait if too few servers have taken part so far (minReplicas).
   */
  async widen(handle: ChunkHandle, target: ServerId): Promise<void> {
    await this.locked(handle, async () => {
      const before = this.find(handle);
      if (!before || before.written || before.servers.includes(target)) return;
      await this.raise(handle, before.servers);
      try {
        await this.#copyInto(handle, target);
      } catch (error) {
        // A raise leaves servers that have the chunk, or else those that do not: then none has it,
        // and the next write creates it on all.
        if (statusOf(error) !== "no-chunk") throw error;
        const { version } = this.#expect(handle);
        await this.#addToSet(handle, version, target);
      }
    });
  }

  /**
   * Takes a server out of a set that can do without it, and has its replica deleted. `unavailable`
   * unless all others of the set are there and up to date: a raise without them would drop them
   * too.
   */
  async dropReplica(handle: ChunkHandle, server: ServerId): Promise<void> {
    await this.locked(handle, async () => {
      await this.settleReplicas(handle);
      const chunk = this.find(handle);
      if (!chunk?.servers.includes(server)) return;
      const staying = chunk.servers.filter((id) => id !== server);
      if (!this.isWhole(handle, { ...chunk, servers: staying })) {
        throw new StatusError(
          "unavailable",
          `chunk ${handle}: its other servers are not all there`,
        );
      }
      await this.raise(handle, staying);
      // If the raise has lost some of them, the replica may be needed: it is stale now.
      const now = this.#expect(handle).servers;
      if (!staying.every((id) => now.includes(id))) throw this.silent(handle);
      this.stale.remove(handle, server);
      this.#orderRemoval(handle, server);
    });
  }

  /** The chunk has its replicas: what servers still have from before is deleted. */
  discardStale(handle: ChunkHandle): void {
    const chunk = this.find(handle);
    for (const id of this.stale.of(handle)) {
      if (this.isCopying(handle, id)) continue;
      if (!chunk?.servers.includes(id)) this.#orderRemoval(handle, id);
      this.stale.remove(handle, id);
    }
  }

  /** What a copy that is on its way leaves there is seen to when it has ended. */
  #orderRemoval(handle: ChunkHandle, server: ServerId): void {
    if (this.isCopying(handle, server)) return;
    this.#fleet.get(server)?.removals.order(handle);
  }

  isCopying(handle: ChunkHandle, target: ServerId): boolean {
    return this.#orders.isCopying(handle, target);
  }

  /** Something of the chunk may be on a server that is none of its set. */
  noteLeftOver(handle: ChunkHandle, server: ServerId): void {
    const chunk = this.find(handle);
    if (chunk?.servers.includes(server)) return;
    if (chunk || this.#making.has(handle)) this.stale.add(handle, server);
    else this.#orderRemoval(handle, server);
  }

  /** Copies a chunk whose writers are held off, and takes the new replica into the set. */
  async #copyInto(handle: ChunkHandle, target: ServerId, from?: ServerId): Promise<void> {
    const version = await this.#orderCopy(handle, target, { draft: false, from });
    await this.#addToSet(handle, version, target);
    if (this.find(handle)?.servers.includes(target)) return;
    // It was deleted, or changed, while it was copied: nobody else knows of this replica.
    await this.#committer.synced();
    this.noteLeftOver(handle, target);
  }

  async #addToSet(handle: ChunkHandle, version: ChunkVersion, target: ServerId): Promise<void> {
    await this.#committer.run((txn) => {
      const chunk = txn.findChunk(handle);
      if (chunk?.version !== version || chunk.servers.includes(target)) return;
      txn.putChunk(handle, { ...chunk, servers: [...chunk.servers, target] });
      txn.afterCommit(() => {
        this.locations.add(handle, target);
        this.stale.remove(handle, target);
      });
    });
  }

  async #orderCopy(
    handle: ChunkHandle,
    target: ServerId,
    { draft, from }: { draft: boolean; from?: ServerId | undefined },
  ): Promise<ChunkVersion> {
    const { version } = this.#expect(handle);
    const holders = this.present(handle).filter((id) => this.#fleet.isUp(id) && id !== target);
    const first = holders.toSorted((a, b) => Number(b === from) - Number(a === from));
    if (first.length === 0) throw this.silent(handle);
    try {
      await this.#orders.copy({ handle, version, draft }, target, first);
    } catch (error) {
      await this.#committer.synced();
      this.noteLeftOver(handle, target);
      throw error;
    }
    if (!this.isKnown(handle)) {
      await this.#committer.synced();
      this.noteLeftOver(handle, target);
    }
    return version;
  }

  // Copies on write

  /**
   * A copy of a shared chunk on the servers that hold it, under a new handle (GFS §3.4), at most
   * `length` long; undefined if the source has no data anywhere. Until it is on record nobody
   * refers to it, and a lost one is garbage. Tell `copyMade` what came of it.
   */
  async makeCopy(source: ChunkHandle, length: number | undefined): Promise<CutCopy | undefined> {
    return this.locked(source, async () => {
      await this.cut(source);
      const chunk = this.#expect(source);
      const handle = chunkHandle(this.#committer.ids.next("handle"));
      const cutAt = length === undefined ? {} : { length };
      const order = { handle: source, version: chunk.version, target: handle, ...cutAt };
      this.#making.add(handle);
      const { done, lacking, bad } = await this.#orders.toAll(chunk.servers, cloneChunk, order);
      // Others may have carried it out all the same.
      for (const id of chunk.servers) if (!done.includes(id)) this.stale.add(handle, id);
      if (done.length > 0) {
        this.locations.set(handle, done);
        return { source, handle, servers: done };
      }
      this.#making.delete(handle);
      this.discardStale(handle);
      const nowhere = !chunk.written && lacking.length === chunk.servers.length;
      if (nowhere) return undefined;
      throw this.nobody(source, chunk, [...lacking, ...bad]);
    });
  }

  /** A copy from `makeCopy` is on record now, or else not wanted. */
  copyMade(copy: CutCopy, used: boolean): void {
    this.#making.delete(copy.handle);
    if (used) return;
    // When the disk fails, nobody knows whether it is on record.
    this.#committer.syncedSoon().then(
      () => this.discard(copy.handle, copy.servers),
      () => undefined,
    );
  }

  /**
   * Nobody refers to the chunk any more, and that is on the disk: servers are told with their next
   * heartbeat.
   */
  discard(handle: ChunkHandle, servers: readonly ServerId[]): void {
    for (const id of new Set([...this.present(handle), ...servers])) {
      this.#orderRemoval(handle, id);
    }
    this.discardStale(handle);
    this.locations.set(handle, []);
  }
}
