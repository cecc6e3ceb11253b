import { mkdtempSync, readdirSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { must } from "../../common/assert.ts";
import type { Disk } from "../../common/disk.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { systemDisk } from "../../common/os/disk.ts";
import { ChunkServer } from "../../chunkd/server.ts";
import { Master } from "../../master/master.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import type { Store } from "../../master/store/store.ts";
import { connectFileSystem } from "../../mount/filesystem.ts";
import type { FileSystem } from "../../mount/fuse/filesystem.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import { Handlers } from "../../protocol/connection.ts";
import { dial, Pool, websocketConnect } from "../../protocol/dial.ts";
import { type BootId, bootId, ino } from "../../protocol/id.ts";
import { grant, writeChunk } from "../../protocol/methods/chunk.ts";
import { takeTail } from "../../protocol/methods/namespace.ts";
import { openSession } from "../../protocol/methods/session.ts";
import { listen, type Listener } from "../../protocol/websocket.ts";

/**
 * A whole cluster in this process, with everything real but the kernel: a master on an in-memory
 * store, chunk servers on temporary directories, and mounts' clients, joined by sockets.
 */

interface Teardown {
  teardown(work: () => unknown): unknown;
}

interface LiveMount {
  readonly fileSystem: FileSystem;
  close(): Promise<void>;
}

const chunkBytes = 1024 * 1024;
const firstBoot = bootId(1);
const loopback = "127.0.0.1";

export class LiveCluster {
  readonly chunkBytes = chunkBytes;
  readonly store: Store = createMemoryStore();
  readonly servers: ChunkServer[] = [];
  master: Master;
  readonly #root = mkdtempSync(path.join(tmpdir(), "gfs-live-"));
  /** The chunk servers'. */
  readonly #disk: Disk;
  readonly #mounts = new Set<LiveMount>();
  #listener: Listener | undefined;
  #uuids = 0;

  private constructor(disk = systemDisk) {
    this.#disk = disk;
    this.master = this.#newMaster();
  }

  static async start(
    t: Teardown,
    { servers, disk }: { servers: number; disk?: Disk },
  ): Promise<LiveCluster> {
    const cluster = new LiveCluster(disk);
    t.teardown(() => cluster.#stop());
    await cluster.#startMaster(0);
    for (let i = 0; i < servers; i += 1) await cluster.addServer();
    return cluster;
  }

  async addServer(): Promise<ChunkServer> {
    const server = await this.#startServer(this.servers.length, firstBoot);
    this.servers.push(server);
    return server;
  }

  /** The server stops without warning, and starts again. Only its process has ended. */
  async killServer(i: number): Promise<void> {
    await this.#restartServer(i, () => firstBoot);
  }

  /** The server's machine has no power for a moment: its page cache is gone. */
  async losePower(i: number): Promise<void> {
    await this.#restartServer(i, (chunkFiles) => {
      for (const file of chunkFiles) truncateSync(file, 0); // As if none had been synced.
      return bootId(firstBoot + 1);
    });
  }

  async #restartServer(i: number, between: (chunkFiles: string[]) => BootId): Promise<void> {
    await must(this.servers[i], "a server").halt();
    const directory = path.join(this.#root, `c${i}`, "chunks");
    const entries = readdirSync(directory, { withFileTypes: true, recursive: true });
    const files = entries.filter((entry) => entry.isFile());
    const boot = between(files.map((entry) => path.join(entry.parentPath, entry.name)));
    this.servers[i] = await this.#startServer(i, boot);
  }

  async #startServer(i: number, boot: BootId): Promise<ChunkServer> {
    const server = await ChunkServer.start({
      root: path.join(this.#root, `c${i}`),
      boot,
      master: this.#address,
      listen: { host: loopback, port: 0 },
      ...{ rack: "", name: "test", reserveBytes: 0, disk: this.#disk },
      ...{ clock: systemClock, log: silentLog, random: Math.random },
      connect: websocketConnect(systemClock),
    });
    await server.joined();
    return server;
  }

  async mount(): Promise<LiveMount> {
    const mount = await connectFileSystem({
      master: this.#address,
      ...{ soft: false, timeoutMs: 0, showSnapshots: false, accessTimes: true },
      ...{ mountpoint: "/live", rack: "" },
      ...{ clock: systemClock, log: silentLog, random: Math.random },
      uuid: () => this.#uuid(),
    });
    this.#mounts.add(mount);
    const close = async (): Promise<void> => {
      if (this.#mounts.delete(mount)) await mount.close();
    };
    return { fileSystem: mount.fileSystem, close };
  }

  /**
   * Plays a mount that makes a file longer, and dies before it has told the master. Its session has
   * run out when this resolves.
   */
  async writeAndDie(
    node: number,
    writes: readonly { index: number; offset: number; data: Buffer }[],
  ): Promise<void> {
    const connect = websocketConnect(systemClock);
    const handlers = new Handlers();
    const dialled = { connect, role: "mount", name: "dying", handlers } as const;
    const options = { ...dialled, cluster: "", clock: systemClock, log: silentLog };
    const { connection } = await dial({ ...options, address: this.#address });
    const pool = new Pool({ ...options, cluster: this.master.cluster }, Math.random);
    const secret = this.#uuid();
    const { session } = await connection.call(openSession, {
      ...{ mountpoint: "/dying", secret, opens: [ino(node)] },
    });
    await connection.call(takeTail, { ino: ino(node) });
    for (const { index, offset, data } of writes) {
      const request = { ino: ino(node), index, seq: 0, acked: 0 };
      const { grant: leave } = await connection.call(grant, request);
      const { handle, version, epoch, fresh, replicas } = leave;
      const [primary, ...chain] = replicas;
      await pool.call(
        must(primary, "a primary").address,
        writeChunk,
        {
          ...{ handle, version, epoch, offset, crcs: crcsByBlock(data, offset) },
          ...{ create: fresh, forwarded: false, chain },
        },
        { payload: data },
      );
    }
    connection.close("died");
    pool.close();
    await this.master.sessions.end(must(this.master.sessions.byId(session), "its session"));
  }

  /** The master stops without warning and starts again on what it has stored. */
  async restartMaster(): Promise<void> {
    const { port } = this.#address;
    await this.#listener?.close();
    await this.master.stop();
    this.master = this.#newMaster();
    await this.#startMaster(port);
  }

  get #address(): { host: string; port: number } {
    return must(this.#listener, "the master listens").address;
  }

  #uuid(): string {
    this.#uuids += 1;
    return `uuid-${this.#uuids}`;
  }

  #newMaster(): Master {
    return new Master({
      store: { ...this.store, close: () => Promise.resolve() },
      ...{ clock: systemClock, log: silentLog, random: Math.random },
      ...{ uuid: () => this.#uuid(), version: "test", owner: { uid: 0, gid: 0 } },
      chunkBytes,
    });
  }

  async #startMaster(port: number): Promise<void> {
    await this.master.start();
    this.#listener = await listen({
      address: { host: loopback, port },
      clock: systemClock,
      onTransport: (transport, peer) => this.master.accept(transport, peer),
    });
  }

  async #stop(): Promise<void> {
    await Promise.all([...this.#mounts].map((mount) => mount.close()));
    for (const server of this.servers) await server.halt().catch(() => undefined);
    await this.#listener?.close();
    await this.master.stop();
    rmSync(this.#root, { recursive: true, force: true });
  }
}
