import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Address } from "../../common/address.ts";
import { formatAddress, parseAddress } from "../../common/address.ts";
import { must } from "../../common/assert.ts";
import { type Clock, type Timer } from "../../common/clock.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import type { Disk } from "../../common/disk.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { systemDisk } from "../../common/os/disk.ts";
import { ChunkServer, type ServerOptions } from "../../chunkd/server.ts";
import { recover } from "../../chunkd/store/recover.ts";
import { openStore, type Store } from "../../chunkd/store/store.ts";
import { type Connection, Handlers } from "../../protocol/connection.ts";
import { accept, dial, Pool, websocketConnect } from "../../protocol/dial.ts";
import {
  bootId,
  type ChunkHandle,
  chunkHandle,
  type ChunkVersion,
  chunkVersion,
  epoch,
  serverId,
} from "../../protocol/id.ts";
import type { RequestOf } from "../../protocol/method.ts";
import { readChunk, syncChunks, writeChunk } from "../../protocol/methods/chunk.ts";
import {
  heartbeat,
  holdings,
  inventory,
  register,
  replicaBad,
  writeFailed,
} from "../../protocol/methods/fleet.ts";
import type { Replica } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import { listen, type Listener } from "../../protocol/websocket.ts";
import { DataDirectory } from "../../chunkd/store/directory.ts";
import { until as untilTrue } from "../support/until.ts";

interface Teardown {
  teardown(work: () => unknown): unknown;
}

/** A directory that is deleted when the test ends. */
export function temporaryDirectory(t: Teardown): string {
  const path = mkdtempSync(join(tmpdir(), "gfs-chunkd-test-"));
  t.teardown(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A promise, and what resolves it. */
export function barrier(): { passed: Promise<void>; open: () => void } {
  let open = (): void => undefined;
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { passed, open };
}

/** As `until` of test/support, with the condition itself for what is waited for. */
export async function until(condition: () => boolean): Promise<void> {
  await untilTrue(String(condition), condition);
}

export const h = chunkHandle;
export const v = chunkVersion;

/** Bytes that differ everywhere and from seed to seed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  let x = (seed * 2_654_435_761 + 1) >>> 0;
  for (let i = 0; i < length; i += 1) {
    x = (Math.imul(x, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = x >>> 24;
  }
  return bytes;
}

/** A clock whose timers run with the machine's, but whose time a test can push on. */
export class PushedClock implements Clock {
  #pushedMs = 0;

  push(ms: number): void {
    this.#pushedMs += ms;
  }

  nowMs(): number {
    return systemClock.nowMs() + this.#pushedMs;
  }

  wallNs(): bigint {
    return systemClock.wallNs();
  }

  timer(afterMs: number, fire: () => void): Timer {
    return systemClock.timer(afterMs, fire);
  }
}

/** A disk on which a test decides, site by site, what happens before and after a step. */
export class TamperedDisk {
  readonly steps: string[] = [];
  before: (site: string) => Promise<void> | void = () => undefined;
  after: (site: string) => Promise<void> | void = () => undefined;
  readonly disk: Disk;

  constructor(real: Disk = systemDisk) {
    this.disk = this.#wrap(real);
  }

  /** Fails the next steps at `site` with this errno, until told otherwise. */
  fail(site: string, code: string): void {
    this.before = (step) => {
      if (step === site) throw Object.assign(new Error(`${code} at ${site}`), { code });
    };
  }

  #wrap<T extends object>(real: T): T {
    return new Proxy(real, {
      get: (target, name) => {
        const method: unknown = Reflect.get(target, name);
        if (typeof method !== "function") return method;
        return async (...args: unknown[]): Promise<unknown> => {
          if (typeof args[0] === "string") {
            this.steps.push(args[0]);
            await this.before(args[0]);
          }
          const result: unknown = await Reflect.apply(method, target, args);
          if (typeof args[0] === "string") await this.after(args[0]);
          return name === "open" ? this.#wrap(result as object) : result;
        };
      },
    });
  }
}

/** A store without a server around it. `close` as a crash would: nothing is cleaned. */
export async function openTestStore(
  root: string,
  options: { disk?: Disk; clock?: Clock; registered?: boolean } = {},
): Promise<{ store: Store; close: () => Promise<void> }> {
  const disk = options.disk ?? systemDisk;
  const directory = await DataDirectory.open(disk, root);
  const clock = options.clock ?? systemClock;
  const store = openStore({ root, disk, clock, log: silentLog, reserveBytes: 0 });
  const registered = options.registered ?? false;
  await recover(store, { registered });
  await store.space.refresh();
  const close = async (): Promise<void> => {
    store.files.closeAll();
    await store.index.close();
    await directory.release();
  };
  return { store, close };
}

type Registration = RequestOf<typeof register>;

/** The master's side of registration and heartbeats, and a way to send orders. */
export class FakeMaster {
  readonly cluster: string;
  readonly registrations: Registration[] = [];
  readonly inventories: RequestOf<typeof inventory>["chunks"][] = [];
  readonly beats: RequestOf<typeof heartbeat>[] = [];
  readonly bad: RequestOf<typeof replicaBad>[] = [];
  readonly failedWrites: (RequestOf<typeof writeFailed> & { from: number })[] = [];
  readonly connections = new Map<number, Connection>();
  readonly holdings: ChunkHandle[][] = [];
  epoch = 1;
  heartbeatMs = 20;
  leaseMs = 60_000;
  remove: ChunkHandle[] = [];
  /** What a heartbeat is answered besides. */
  onBeat: (connection: Connection) => ChunkHandle[] = () => [];
  #listener: Listener | undefined;
  #nextServer = 1;

  constructor(cluster = "test-cluster") {
    this.cluster = cluster;
  }

  get address(): Address {
    return must(this.#listener, "a master that listens").address;
  }

  async start(t: Teardown, port = 0): Promise<this> {
    this.#listener = await listen({
      address: { host: "127.0.0.1", port },
      clock: systemClock,
      onTransport: (transport, peer) => {
        accept(transport, {
          peer,
          cluster: () => this.cluster,
          handlersFor: () => this.#handlers(),
          onReady: () => undefined,
          clock: systemClock,
          log: silentLog,
        });
      },
    });
    t.teardown(() => this.stop());
    return this;
  }

  async stop(): Promise<void> {
    await this.#listener?.close();
  }

  /** The connection over which `server` takes orders. */
  to(server: ChunkServer): Connection {
    const id = must(server.directory.identity, "a registered server").server;
    return must(this.connections.get(id), "a connected server");
  }

  #handlers(): Handlers {
    return new Handlers()
      .serve(register, (params, { connection }) => {
        this.registrations.push(params);
        const server = params.server ?? serverId(this.#nextServer++);
        this.connections.set(server, connection);
        const { heartbeatMs, leaseMs } = this;
        return { server, epoch: epoch(this.epoch), heartbeatMs, leaseMs };
      })
      .serve(inventory, ({ chunks }) => {
        this.inventories.push(chunks);
        return { remove: [] };
      })
      .serve(heartbeat, (params, { connection }) => {
        this.beats.push(params);
        const remove = [...this.remove, ...this.onBeat(connection)];
        return { remove, epoch: epoch(this.epoch) };
      })
      .serve(holdings, ({ handles }) => {
        this.holdings.push([...handles]);
        return {};
      })
      .serve(replicaBad, (params) => {
        this.bad.push(params);
        return {};
      })
      .serve(writeFailed, (params, { connection }) => {
        const [from] = [...this.connections].find(([, known]) => known === connection) ?? [0];
        this.failedWrites.push({ ...params, from });
        return {};
      });
  }
}

/** A chunk server on a port of its own that has joined `master`; stopped when the test ends. */
export async function startServer(
  t: Teardown,
  master: FakeMaster,
  options: Partial<ServerOptions> = {},
): Promise<ChunkServer> {
  const server = await ChunkServer.start(
    serverOptions(master.address, {
      root: options.root ?? temporaryDirectory(t),
      ...options,
    }),
  );
  t.teardown(() => server.halt().catch(() => undefined));
  await server.joined();
  return server;
}

export function serverOptions(
  master: Address,
  options: Partial<ServerOptions> & { root: string },
): ServerOptions {
  return {
    master,
    listen: { host: "127.0.0.1", port: 0 },
    rack: "",
    name: "test",
    reserveBytes: 0,
    disk: systemDisk,
    clock: systemClock,
    log: silentLog,
    random: () => 0.5,
    boot: bootId(1),
    connect: websocketConnect(systemClock),
    ...options,
  };
}

export function replicaOf(server: ChunkServer): Replica {
  const id = must(server.directory.identity, "a registered server").server;
  return { server: id, address: server.address, rack: "" };
}

/** A mount, as chunk servers see it. */
export class TestClient {
  readonly pool: Pool;

  constructor(t: Teardown, cluster = "test-cluster") {
    this.pool = new Pool(
      {
        connect: websocketConnect(systemClock),
        role: "mount",
        name: "test client",
        cluster,
        handlers: new Handlers(),
        clock: systemClock,
        log: silentLog,
      },
      () => 0.5,
    );
    t.teardown(() => this.pool.close());
  }

  async write(
    chain: readonly Replica[],
    payload: Buffer,
    change: Partial<RequestOf<typeof writeChunk>> & { handle: ChunkHandle },
  ): Promise<void> {
    const [primary, ...rest] = chain;
    const offset = change.offset ?? 0;
    const request = {
      version: v(1),
      epoch: epoch(1),
      offset,
      crcs: crcsByBlock(payload, offset),
      create: true,
      forwarded: false,
      chain: rest,
      ...change,
    };
    await this.pool.call(must(primary, "a primary").address, writeChunk, request, { payload });
  }

  async read(
    replica: Replica,
    request: { handle: ChunkHandle; version?: ChunkVersion; offset?: number; length?: number },
  ): Promise<Buffer> {
    const { payload, reply } = await this.pool.call(replica.address, readChunk, {
      version: v(1),
      offset: 0,
      length: 1024 * 1024,
      ...request,
    });
    const expected = crcsByBlock(payload, request.offset ?? 0);
    if (expected.join() !== reply.crcs.join()) throw new Error("the CRCs sent along are wrong");
    return Buffer.from(payload);
  }

  async sync(replica: Replica, handle: ChunkHandle, version = v(1)): Promise<void> {
    await this.pool.call(replica.address, syncChunks, { chunks: [{ handle, version }] });
  }
}

/** The status with which `work` fails, or "ok". */
export async function statusFrom(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "ok";
  } catch (error) {
    if (error instanceof StatusError) return error.status;
    throw error;
  }
}

/** The servers that a failed write names. */
export async function serversNamed(work: Promise<unknown>): Promise<readonly number[]> {
  try {
    await work;
    return [];
  } catch (error) {
    if (error instanceof StatusError) return error.servers;
    throw error;
  }
}

/** A connection of some role to a chunk server, for what a mount would not do. */
export async function dialAs(
  t: Teardown,
  server: ChunkServer,
  { role = "mount", cluster = "test-cluster" }: { role?: "mount" | "admin"; cluster?: string } = {},
): Promise<Connection> {
  const address = parseAddress(server.address);
  if (typeof address === "string") throw new Error(address);
  const { connection } = await dial({
    address,
    connect: websocketConnect(systemClock),
    role,
    name: `test ${role} at ${formatAddress(address)}`,
    cluster,
    handlers: new Handlers(),
    clock: systemClock,
    log: silentLog,
  });
  t.teardown(() => connection.close("test ends"));
  return connection;
}
