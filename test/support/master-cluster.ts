import type { Clock } from "../../common/clock.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import type { RepairOptions } from "../../master/background/repair/repair.ts";
import { Master } from "../../master/master.ts";
import type { SyncMode } from "../../master/namespace/committer.ts";
import type { Store } from "../../master/store/store.ts";
import { Connection, Handlers } from "../../protocol/connection.ts";
import type { Role } from "../../protocol/dial.ts";
import {
  type ChunkHandle,
  type ChunkVersion,
  chunkVersion,
  type Epoch,
  rootIno,
  type ServerId,
} from "../../protocol/id.ts";
import { cacheLeaseMs, cacheMarginMs } from "../../protocol/limits.ts";
import type { Method, RequestOf, Sequence } from "../../protocol/method.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import * as fleet from "../../protocol/methods/fleet.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import { flushSession, hello, openSession } from "../../protocol/methods/session.ts";
import { protocolVersion } from "../../protocol/methods.ts";
import type { Attr, Grant } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { transportPair } from "./memory-transport.ts";

/** A real master over in-memory connections, with chunk servers and mounts that a test plays. */
export class MasterCluster {
  store: Store;
  master: Master;
  nowMs = 1_000_000;
  readonly #clock: Clock;

  readonly #settings: { sync?: SyncMode; graceMs?: number; repair?: RepairOptions };

  constructor(
    store: Store,
    settings: { sync?: SyncMode; graceMs?: number; repair?: RepairOptions } = {},
  ) {
    this.store = store;
    this.#settings = settings;
    const startMs = this.nowMs;
    const wallNs = (): bigint =>
      systemClock.wallNs() + BigInt(Math.round(this.nowMs - startMs)) * 1_000_000n;
    this.#clock = { ...systemClock, nowMs: () => this.nowMs, wallNs };
    this.master = this.#newMaster();
  }

  #newMaster(): Master {
    let uuids = 0;
    return new Master({
      store: { ...this.store, close: () => Promise.resolve() },
      clock: this.#clock,
      log: silentLog,
      random: () => 0.5,
      uuid: () => `uuid-${(uuids += 1)}`,
      version: "test",
      chunkBytes: 1024 * 1024,
      owner: { uid: 0, gid: 0 },
      ...this.#settings,
    });
  }

  async start(): Promise<void> {
    await this.master.start();
  }

  /** The master stops without warning and starts again on the same store, or on what is left. */
  async restart(store: Store = this.store): Promise<void> {
    await this.master.stop();
    this.store = store;
    this.master = this.#newMaster();
    await this.start();
    // Mounts from before do not believe what they have cached any more.
    this.nowMs += cacheLeaseMs + cacheMarginMs;
  }

  async dial(role: Role, handlers: Handlers): Promise<Connection> {
    const [near, far] = transportPair();
    this.master.accept(far, "test");
    const options = { handlers, clock: systemClock, log: silentLog, peerName: "master" };
    const connection = new Connection(near, options);
    await connection.call(hello, { protocol: protocolVersion, role, name: role });
    return connection;
  }

  async mount(): Promise<TestMount> {
    const handlers = new Handlers()
      .serve(namespace.invalidate, () => ({}))
      .serve(flushSession, () => ({}));
    const connection = await this.dial("mount", handlers);
    await connection.call(openSession, { mountpoint: "/m", secret: "s", opens: [] });
    return new TestMount(connection);
  }

  async stop(): Promise<void> {
    await this.master.stop();
  }
}

export class TestMount {
  readonly connection: Connection;
  #seq = 0;

  constructor(connection: Connection) {
    this.connection = connection;
  }

  read<Request, Reply>(method: Method<Request, Reply>, params: Request): Promise<Reply> {
    return this.connection.call(method, params);
  }

  mutate<Request extends Sequence, Reply>(
    method: Method<Request, Reply>,
    params: Omit<Request, "seq" | "acked">,
  ): Promise<Reply> {
    this.#seq += 1;
    const request = { ...params, seq: this.#seq, acked: this.#seq - 1 };
    return this.connection.call(method, request as unknown as Request);
  }

  create(name: string): Promise<{ attr: Attr; grant?: Grant }> {
    return this.mutate(namespace.create, {
      ...{ parent: rootIno, name: Buffer.from(name), mode: 0o644, uid: 0, gid: 0 },
      ...{ exclusive: true, write: true },
    });
  }

  async grant(attr: Attr, index = 0): Promise<Grant> {
    return (await this.mutate(chunk.grant, { ino: attr.ino, index })).grant;
  }

  /** As if `size` bytes had been written under the grant. */
  async commit(attr: Attr, { index, handle }: Grant, size: number): Promise<void> {
    const written = [{ index, handle }];
    await this.mutate(namespace.commit, { ino: attr.ino, size, mtime: 1n, written });
  }
}

interface TestReplica {
  version: ChunkVersion;
  length: number;
  /** Stands for the bytes. */
  contents: string;
  dirty: boolean;
  /** A write failed on others: told with the next raise. */
  uneven?: boolean;
}

/** A chunk server of a test: it does what it is told, unless told otherwise. */
export class TestServer {
  readonly chunks = new Map<ChunkHandle, TestReplica>();
  readonly removed: ChunkHandle[] = [];
  rack = "";
  /** What it says of its disk. */
  usage: Omit<RequestOf<typeof fleet.heartbeat>, "removed"> = {
    ...{ usedBytes: 0, freeBytes: 2 ** 40, chunks: 0, corruptBlocks: 0, disk: "ok" },
  };
  id: ServerId | undefined;
  epoch: Epoch | undefined;
  connection: Connection | undefined;
  /** Carries orders out, but its answers are lost. */
  losesAnswers = false;
  hidesChecksums = false;
  /** Called with the name of each order that changes something here, before it is carried out. */
  onOrder: (order: string) => void = () => undefined;
  /** Copies to this server go on when it resolves. */
  beforeCopy: (source: ServerId) => Promise<void> = () => Promise.resolve();
  readonly #port: number;
  readonly #peers: readonly TestServer[];

  constructor(port: number, peers: readonly TestServer[]) {
    this.#port = port;
    this.#peers = peers;
  }

  get #usage(): typeof this.usage {
    return { ...this.usage, chunks: this.chunks.size };
  }

  get address(): string {
    return `host${this.#port}:${this.#port}`;
  }

  /** Connects, registers and tells everything it has; deletes what it is told to. */
  async join(cluster: MasterCluster, options: { inventory: boolean } = { inventory: true }) {
    this.connection?.close("again");
    this.connection = await cluster.dial("chunkd", this.#handlers());
    const reply = await this.connection.call(fleet.register, {
      ...(this.id === undefined ? {} : { server: this.id }),
      ...{ address: this.address, rack: this.rack, ...this.usage },
    });
    this.id = reply.server;
    this.epoch = reply.epoch;
    if (options.inventory) await this.tellInventory();
  }

  async tellInventory(): Promise<void> {
    const chunks = [...this.chunks].map(([handle, { version, dirty }]) => ({
      ...{ handle, version, dirty },
    }));
    const reply = await this.connection?.call(fleet.inventory, { chunks, last: true });
    for (const handle of reply?.remove ?? []) {
      this.chunks.delete(handle);
      this.removed.push(handle);
    }
    for (const replica of this.chunks.values()) replica.dirty = false;
  }

  /** Returns the chunks that it is told to delete. */
  async beat(): Promise<readonly ChunkHandle[]> {
    const reply = await this.connection?.call(fleet.heartbeat, { ...this.#usage, removed: [] });
    return reply?.remove ?? [];
  }

  /** A heartbeat, after which it deletes what it is told to, and says so. */
  async obey(): Promise<void> {
    const removed = [...(await this.beat())];
    for (const handle of removed) this.chunks.delete(handle);
    this.removed.push(...removed);
    if (removed.length > 0) {
      await this.connection?.call(fleet.heartbeat, { ...this.#usage, removed });
    }
  }

  leave(): void {
    this.connection?.close("gone");
  }

  /** A write under a grant, as the chain applies it here. */
  write({ handle, version }: Grant, contents: string): void {
    const { length } = contents;
    this.chunks.set(handle, { version, length, contents, dirty: false });
  }

  #replica(handle: ChunkHandle): TestReplica {
    const replica = this.chunks.get(handle);
    if (!replica) throw new StatusError("no-chunk", "not here");
    return replica;
  }

  #answer<T>(reply: T): T | Promise<T> {
    if (!this.losesAnswers) return reply;
    this.leave();
    return new Promise<T>(() => undefined);
  }

  #handlers(): Handlers {
    return new Handlers()
      .serve(chunk.fence, ({ epoch }) => {
        this.onOrder("fence");
        this.epoch = epoch;
        return this.#answer({});
      })
      .serve(chunk.raiseVersion, ({ handle, newVersion, length }) => {
        this.onOrder("raiseVersion");
        const replica = this.#replica(handle);
        const uneven = replica.uneven === true || replica.version === newVersion;
        replica.uneven = false;
        replica.version = newVersion;
        if (length !== undefined) replica.contents = replica.contents.slice(0, length);
        replica.length = replica.contents.length;
        return this.#answer({ uneven });
      })
      .serve(chunk.cloneChunk, ({ handle, target, length }) => {
        this.onOrder("cloneChunk");
        const { contents } = this.#replica(handle);
        const cut = contents.slice(0, length ?? contents.length);
        const version = chunkVersion(1);
        this.chunks.set(target, { version, length: cut.length, contents: cut, dirty: false });
        return this.#answer({});
      })
      .serve(chunk.checksums, ({ handle }) => {
        if (this.hidesChecksums) throw new StatusError("io-error", "the disk is slow to answer");
        const { length, contents } = this.#replica(handle);
        return { length, crcs: [...Buffer.from(contents)] };
      })
      .serve(chunk.copyChunk, async ({ handle, version, sources, draft }) => {
        this.onOrder(draft ? "draft" : "copyChunk");
        const source = sources[0]?.server;
        if (source !== undefined) await this.beforeCopy(source);
        const peer = this.#peers.find(({ id }) => id === source);
        if (!peer) throw new StatusError("unavailable", "no such peer");
        const { contents } = peer.#replica(handle);
        if (draft) return this.#answer({ length: contents.length, fetchedBytes: contents.length });
        this.chunks.set(handle, { version, length: contents.length, contents, dirty: false });
        return this.#answer({ length: contents.length, fetchedBytes: 0 });
      });
  }
}

export function testServers(count: number): TestServer[] {
  const servers: TestServer[] = [];
  for (let i = 0; i < count; i += 1) servers.push(new TestServer(9000 + i, servers));
  return servers;
}
