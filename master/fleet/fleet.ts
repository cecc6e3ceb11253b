import type { Clock } from "../../common/clock.ts";
import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import type { Connection } from "../../protocol/connection.ts";
import { type ChunkHandle, type ServerId, serverId } from "../../protocol/id.ts";
import { deadMs, serverLeaseMs, suspectMs } from "../../protocol/limits.ts";
import type { RequestOf } from "../../protocol/method.ts";
import type { heartbeat } from "../../protocol/methods/fleet.ts";
import type { Replica } from "../../protocol/shapes.ts";
import type { Candidate } from "../chunks/placement.ts";
import { prefixEnd, type StoreReader } from "../store/store.ts";
import { Removals } from "./removals.ts";
import type { Txn } from "../namespace/txn.ts";

type ServerState = "up" | "suspect" | "dead";

/**
 * What an operator wants of a server. `drained`: nothing depends on it any more, and nothing new is
 * placed there. `maintenance`: it will be away for a while, and its replicas are waited for.
 */
type ServerMode = "active" | "draining" | "drained" | "maintenance";

/** A mode with what belongs to it, as it is kept on disk. */
export interface Duty {
  mode: ServerMode;
  /** Drained at the cost of replicas, if the other servers cannot have them all. */
  forced: boolean;
  /** When maintenance ends, in ms since 1970; else 0. */
  untilMs: number;
}

export const activeDuty: Duty = { mode: "active", forced: false, untilMs: 0 };

type DiskHealth = RequestOf<typeof heartbeat>["disk"];

export interface Usage {
  usedBytes: number;
  freeBytes: number;
  chunks: number;
  corruptBlocks: number;
  disk: DiskHealth;
  diskTrouble?: string;
  scrub?: NonNullable<RequestOf<typeof heartbeat>["scrub"]>;
}

/**
 * After a restart of the master, servers get this long to register before they count as missing.
 */
const awaitMs = 15_000;
/**
 * A server that may have the better replica is waited for so long: a rack without power comes back,
 * starts, and reads again what was being written.
 */
export const goneMs = 900_000;

/** A chunk server as the master knows it. */
export interface ChunkServer {
  readonly id: ServerId;
  address: string;
  rack: string;
  usage: Usage;
  connection: Connection | undefined;
  /** When it was last heard, on the monotonic clock. */
  lastSeenMs: number;
  /** True once its inventory is complete: what it did not list, it does not have. */
  inventoried: boolean;
  /** Chunks it has to delete. */
  readonly removals: Removals;
  /** Chunks placed on it since its last heartbeat. */
  recent: number;
  /** What an operator wants of it. */
  duty: Duty;
}

const metaPrefix = "server:";
const keyOf = (id: ServerId): Buffer => Buffer.from(`${metaPrefix}${id}`);
const noUsage: Usage = {
  usedBytes: 0,
  freeBytes: 0,
  chunks: 0,
  corruptBlocks: 0,
  disk: "ok",
};

/** The chunk servers: who is there, who is not, and what they said of themselves. */
export class Fleet {
  readonly #servers = new Map<ServerId, ChunkServer>();
  readonly #clock: Clock;
  readonly #graceMs: number;

  /** `graceMs`: a server that is silent for longer counts as dead. */
  constructor(clock: Clock, options: { graceMs?: number | undefined } = {}) {
    this.#clock = clock;
    this.#graceMs = options.graceMs ?? deadMs;
  }

  /** Servers known from before a restart count as just seen: they get time to come back. */
  load(store: StoreReader): void {
    const from = Buffer.from(metaPrefix);
    for (const { key, value } of store.range("meta", { from, to: prefixEnd(from) })) {
      const id = serverId(Number(key.toString().slice(metaPrefix.length)));
      const stored = decodeCbor(value).value as { address: string; rack: string; duty?: Duty };
      const server = this.#blank(id, stored.address, stored.rack);
      this.#servers.set(id, { ...server, duty: stored.duty ?? activeDuty });
    }
  }

  /** Remembers a server across restarts of the master. */
  store(txn: Txn, id: ServerId, address: string, rack: string): void {
    const duty = this.#servers.get(id)?.duty ?? activeDuty;
    txn.put("meta", keyOf(id), encodeCbor({ address, rack, duty }));
  }

  /** What an operator wants of a server from now on. */
  setDuty(txn: Txn, server: ChunkServer, duty: Duty): void {
    const { address, rack } = server;
    txn.put("meta", keyOf(server.id), encodeCbor({ address, rack, duty }));
    txn.afterCommit(() => {
      server.duty = duty;
    });
  }

  /** A server that nothing depends on is no part of the cluster any more. */
  forget(txn: Txn, id: ServerId): void {
    txn.put("meta", keyOf(id), undefined);
    txn.afterCommit(() => this.#servers.delete(id));
  }

  all(): ChunkServer[] {
    return [...this.#servers.values()];
  }

  get(id: ServerId): ChunkServer | undefined {
    return this.#servers.get(id);
  }

  /** The server with this id, made if it is new. */
  join(id: ServerId, address: string, rack: string): ChunkServer {
    const server = this.#servers.get(id) ?? this.#blank(id, address, rack);
    this.#servers.set(id, server);
    server.address = address;
    server.rack = rack;
    return server;
  }

  stateOf(server: ChunkServer): ServerState {
    const silentMs = this.#clock.nowMs() - server.lastSeenMs;
    if (server.connection && silentMs < suspectMs) return "up";
    return silentMs < this.#graceMs ? "suspect" : "dead";
  }

  /** True for a server that is to be emptied: an operator wants it so, or its disk fails. */
  isLeaving({ duty, usage }: ChunkServer): boolean {
    const failing = usage.disk === "failing" || usage.disk === "read-only";
    return failing || duty.mode === "draining" || duty.mode === "drained";
  }

  isUp(id: ServerId): boolean {
    const server = this.#servers.get(id);
    return server !== undefined && this.stateOf(server) === "up";
  }

  up(): ChunkServer[] {
    return this.all().filter((server) => this.stateOf(server) === "up");
  }

  /** True when the server cannot be taking writes from clients any more. */
  leaseRunOut(server: ChunkServer): boolean {
    return this.#clock.nowMs() - server.lastSeenMs > serverLeaseMs;
  }

  /** True for a server that has not reported since the master started, and may yet. */
  isAwaited(id: ServerId): boolean {
    const server = this.#servers.get(id);
    if (!server || server.inventoried) return false;
    return this.#clock.nowMs() - server.lastSeenMs < awaitMs;
  }

  /** True for a server that nobody waits for any more: long dead, or no more known. */
  isGone(id: ServerId): boolean {
    const server = this.#servers.get(id);
    if (!server) return true;
    const silentMs = this.#clock.nowMs() - server.lastSeenMs;
    return server.duty.mode !== "maintenance" && silentMs > Math.max(goneMs, this.#graceMs);
  }

  /** True while servers that were here before are still expected back. */
  expectsMore(): boolean {
    return this.all().some((server) => this.isAwaited(server.id));
  }

  /** It is still to delete an old replica, and could delete a new one with the same order. */
  isDeleting(id: ServerId, handle: ChunkHandle): boolean {
    return this.#servers.get(id)?.removals.has(handle) === true;
  }

  replica(id: ServerId): Replica | undefined {
    const server = this.#servers.get(id);
    return server && { server: id, address: server.address, rack: server.rack };
  }

  /** Servers that can be given a new chunk of `bytes`. */
  candidates(bytes: number): Candidate[] {
    return this.up()
      .filter(({ duty, usage }) => {
        return duty.mode === "active" && usage.disk === "ok" && usage.freeBytes > bytes;
      })
      .map((server) => this.candidate(server));
  }

  candidate(server: ChunkServer): Candidate {
    const total = server.usage.usedBytes + server.usage.freeBytes;
    return {
      id: server.id,
      host: server.address.slice(0, server.address.lastIndexOf(":")),
      rack: server.rack,
      used: total === 0 ? 0 : server.usage.usedBytes / total,
      recent: server.recent,
    };
  }

  #blank(id: ServerId, address: string, rack: string): ChunkServer {
    return {
      id,
      address,
      rack,
      usage: noUsage,
      connection: undefined,
      lastSeenMs: this.#clock.nowMs(),
      inventoried: false,
      removals: new Removals(),
      recent: 0,
      duty: activeDuty,
    };
  }
}
