import { must } from "../../common/assert.ts";
import type { Log } from "../../common/log.ts";
import type { ChunkHandle, Epoch, Ino, ServerId, SessionId } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import type { Grant, Location, Replica } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { Committer } from "../namespace/committer.ts";
import { addChunk, type CutCopy, putCopy } from "../namespace/ops/contents.ts";
import type { Txn } from "../namespace/txn.ts";
import { numberFromKey, numberKey } from "../store/bytes.ts";
import { recordAt, rowsAt } from "../store/history.ts";
import { decodeChunkRef } from "../store/tables.ts";
import { place } from "./placement.ts";
import { ChunkSets } from "./sets.ts";

/** A grant, or what has to come first: waiting for a snapshot, or steps on chunk servers. */
type GrantPlan =
  | { kind: "granted"; grant: Grant }
  | { kind: "wait" }
  | { kind: "copy" | "settle" | "widen"; handle: ChunkHandle };

/** Chunks of files: where they are, and who may write them. */
export class Chunks {
  readonly sets: ChunkSets;
  /** Called when somebody is kept waiting, or from a choice, by replicas that a chunk lacks. */
  onAwaited: (handle: ChunkHandle) => void = () => undefined;
  readonly #committer: Committer;
  readonly #fleet: Fleet;
  readonly #chunkBytes: number;
  readonly #random: () => number;
  /** Held back while a snapshot is being taken: nobody is granted a chunk then. */
  #gate: Promise<void> | undefined;

  constructor(options: {
    committer: Committer;
    fleet: Fleet;
    log: Log;
    chunkBytes: number;
    random: () => number;
    minReplicas?: number | undefined;
  }) {
    this.sets = new ChunkSets(options);
    this.sets.minReplicas = options.minReplicas ?? 1;
    this.#committer = options.committer;
    this.#fleet = options.fleet;
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

  /**
   * Where chunks of a file are, in epoch `at` or now. Chunks without data are holes. Throws `stale`
   * for a file that is no more, or was not kept by a loss of power: that has no holes.
   */
  async locate(
    ino: Ino,
    at: Epoch | undefined,
    range: { first: number; count: number },
  ): Promise<Location[]> {
    if (!recordAt(this.#committer.store, "inode", numberKey(ino), at)) {
      throw new StatusError("stale", `inode ${ino} does not exist any more`);
    }
    const found: { index: number; handle: ChunkHandle }[] = [];
    const options = { prefix: numberKey(ino), from: numberKey(ino, range.first), at };
    for (const { key, value } of rowsAt(this.#committer.store, "chunkmap", options)) {
      const index = numberFromKey(key, 8);
      if (index >= range.first + range.count || found.length === chunksPerPageMax) break;
      found.push({ index, handle: decodeChunkRef(value).handle });
    }
    const locations: Location[] = [];
    for (const { index, handle } of found) {
      const location =
        index === range.first
          ? await this.#location(index, handle)
          : await this.#furtherLocation(index, handle);
      if (location) locations.push(location);
    }
    return locations;
  }

  /** Of a chunk that the reader has not come to: what is wrong with it does not keep the first. */
  async #furtherLocation(index: number, handle: ChunkHandle): Promise<Location | undefined> {
    try {
      return await this.#location(index, handle);
    } catch (error) {
      const chunk = this.sets.find(handle);
      if (!(error instanceof StatusError) || !chunk) throw error;
      // Without replicas, it is asked for again when it is wanted. (Left out, it would be a hole.)
      return { index, handle, version: chunk.version, replicas: [] };
    }
  }

  /** Throws `lost`, or `unavailable` while replicas in doubt cannot be compared. */
  async #location(index: number, handle: ChunkHandle): Promise<Location | undefined> {
    const { sets } = this;
    // A truncation comes first; and replicas in doubt, if there is nothing better.
    const pending = sets.find(handle)?.cutTo !== undefined;
    if (pending) await sets.locked(handle, () => sets.cut(handle));
    const inDoubt = sets.present(handle).length === 0 && sets.unsettled.of(handle).size > 0;
    if (inDoubt) await sets.locked(handle, () => sets.settleReplicas(handle));
    const chunk = sets.find(handle);
    if (!chunk) throw new StatusError("io-error", `chunk ${handle} is not recorded`);
    if (!chunk.written) return undefined;
    const replicas = this.#forReading(handle);
    if (replicas.length === 0) {
      const why = sets.nobody(handle, chunk);
      if (why.status === "lost") throw why;
    }
    const more = sets.mayHaveMore(handle, chunk);
    return { index, handle, version: chunk.version, replicas, ...(more ? { more } : {}) };
  }

  /** Replicas for a reader: servers that are up first. */
  #forReading(handle: ChunkHandle): Replica[] {
    const servers = this.sets.present(handle);
    const up = servers.filter((id) => this.#fleet.isUp(id));
    const rest = servers.filter((id) => !up.includes(id));
    if (up.length < 2 && rest.length + up.length > 1) this.onAwaited(handle);
    return [...up, ...rest].flatMap((id) => this.#fleet.replica(id) ?? []);
  }

  // Grants

  /** A new chunk as part of an operation that creates the file. */
  planFirst(txn: Txn, ino: Ino): Grant | undefined {
    if (this.#gate) return undefined;
    const goal = must(txn.findInode(ino), "inode").replicas;
    const servers = this.#place(goal);
    if (servers.length < this.sets.least(goal)) return undefined;
    return this.#add(txn, ino, 0, servers);
  }

  #add(txn: Txn, ino: Ino, index: number, servers: readonly ServerId[]): Grant {
    const handle = txn.newHandle();
    addChunk(txn, { ino, index, handle, servers });
    txn.afterCommit(() => this.sets.locations.set(handle, servers));
    return this.#grantOf(txn, index, handle);
  }

  /**
   * The first server of a grant is the primary. Which one must follow from the chunk and its
   * version alone: it decides the order of writes, so two mounts must not have different ones.
   */
  #grantOf(txn: Txn, index: number, handle: ChunkHandle): Grant {
    const { version, written, servers } = txn.chunk(handle);
    const sorted = servers.toSorted((a, b) => a - b);
    const start = (handle + version) % sorted.length;
    const ordered = [...sorted.slice(start), ...sorted.slice(0, start)];
    const replicas = ordered.map((id) => must(this.#fleet.replica(id), "server of a set"));
    return { index, handle, version, epoch: txn.epoch, fresh: !written, replicas };
  }

  /** Servers for a new chunk. */
  #place(count: number): ServerId[] {
    const options = { present: [], random: this.#random };
    const chosen = place(this.#fleet.candidates(this.#chunkBytes), count, options);
    for (const id of chosen) must(this.#fleet.get(id), "server").recent += 1;
    return chosen;
  }

  /**
   * Leave to write chunk `index` of a file. A hole gets a chunk, a shared chunk a copy of its own;
   * a chunk with servers missing goes on with those that are there, under a new version.
   */
  async grant(ino: Ino, index: number, session: SessionId): Promise<Grant> {
    for (;;) {
      while (this.#gate) await this.#gate;
      const plan = await this.#committer.run((txn) => this.#planGrant(txn, ino, index), {
        session,
        seq: 0,
      });
      switch (plan.kind) {
        case "granted":
          // What shared the chunk until a moment ago could come back with the next loss of power.
          await this.#committer.unshared();
          return plan.grant;
        case "wait":
          break;
        case "copy":
          await this.#copyForWriting(ino, index, plan.handle);
          break;
        case "settle":
          this.onAwaited(plan.handle);
          await this.sets.locked(plan.handle, () => this.sets.settle(plan.handle));
          break;
        case "widen":
          await this.#widen(plan.handle);
          break;
      }
    }
  }

  /** Grants what can be granted at once, or says which step on chunk servers has to come first. */
  #planGrant(txn: Txn, ino: Ino, index: number): GrantPlan {
    if (this.#gate) return { kind: "wait" };
    const ref = txn.findChunkRef(ino, index);
    if (!ref) {
      const goal = txn.inode(ino).replicas;
      const servers = this.#place(goal);
      if (servers.length < this.sets.least(goal)) throw this.#noServers(goal);
      return { kind: "granted", grant: this.#add(txn, ino, index, servers) };
    }
    const { handle } = ref;
    const chunk = txn.chunk(handle);
    if (!txn.isExclusive(ino, ref)) return { kind: "copy", handle };
    const ready = this.sets.isWhole(handle, chunk) && chunk.cutTo === undefined;
    if (!ready || this.sets.busy(handle)) return { kind: "settle", handle };
    const enough = chunk.servers.length >= this.sets.least(chunk.goal);
    if (!enough && !chunk.written) return { kind: "widen", handle };
    this.sets.checkEnough(chunk, chunk.servers);
    return { kind: "granted", grant: this.#grantOf(txn, index, handle) };
  }

  /** One more server for a chunk that has too few to be written to. */
  async #widen(handle: ChunkHandle): Promise<void> {
    const chunk = this.sets.find(handle);
    if (!chunk) return;
    const present = chunk.servers.flatMap((id) => this.#fleet.get(id) ?? []);
    const candidates = this.#fleet
      .candidates(this.#chunkBytes)
      .filter(({ id }) => !chunk.servers.includes(id) && !this.#fleet.isDeleting(id, handle));
    const [target] = place(candidates, 1, {
      present: present.map((server) => this.#fleet.candidate(server)),
      random: this.#random,
    });
    if (target === undefined) throw this.#noServers(chunk.goal);
    await this.sets.widen(handle, target);
  }

  #noServers(goal: number): StatusError {
    const up = this.#fleet.up().length;
    const least = this.sets.least(goal);
    if (up >= least) {
      return new StatusError("no-space", "no chunk server has room for another chunk");
    }
    const wanted = up === 0 ? "no chunk server is up" : `${up} of ${least} chunk servers are up`;
    return new StatusError("unavailable", wanted);
  }

  async #copyForWriting(ino: Ino, index: number, source: ChunkHandle): Promise<void> {
    const copy = await this.sets.makeCopy(source, undefined);
    let used = false;
    try {
      used = await this.#committer.run((txn) => {
        const ref = txn.findChunkRef(ino, index);
        if (ref?.handle !== source || txn.isExclusive(ino, ref)) return false;
        replaceChunk(txn, ino, index, copy);
        return true;
      });
    } finally {
      if (copy) this.sets.copyMade(copy, used);
    }
  }
}

/** A shared chunk gives way to its copy; one without data anywhere, to a hole. */
function replaceChunk(txn: Txn, ino: Ino, index: number, copy: CutCopy | undefined): void {
  if (copy) return putCopy(txn, ino, index, copy);
  txn.setChunkRef(ino, index, undefined);
  const inode = txn.inode(ino);
  txn.putInode(ino, { ...inode, chunks: inode.chunks - 1 });
}
