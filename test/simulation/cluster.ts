import { must } from "../../common/assert.ts";
import { formatAddress } from "../../common/address.ts";
import { errnoName } from "../../common/disk.ts";
import { UserError } from "../../common/program.ts";
import { ChunkServer } from "../../chunkd/server.ts";
import { Master } from "../../master/master.ts";
import type { SyncMode } from "../../master/namespace/committer.ts";
import { connectFileSystem } from "../../mount/filesystem.ts";
import type { FileSystem } from "../../mount/fuse/filesystem.ts";
import { type BootId, bootId } from "../../protocol/id.ts";
import { statusOf } from "../../protocol/status.ts";
import { JournalDisk } from "../support/journal-disk.ts";
import { SimDisk } from "./disk.ts";
import { IndexDisk } from "./memory-index.ts";
import { Network } from "./network.ts";
import { type Life, SimNode, type World } from "./world.ts";

/** A master, chunk servers and clients: the real code of all three, on a machine that is not. */

export type End = "kill" | "power";

/** The smallest there is: what a mount sends is cut at multiples of 1 MiB. */
export const chunkBytes = 1024 * 1024;
const masterAddress = { host: "master", port: 9400 };
const serverPort = 9500;
const serversCount = 5;
const clientsCount = 3;
/** Small, so that a run of a minute sees many checkpoints. */
const journalLimits = { journalBytes: 24_000, checkpointAfterMs: 4_000, sliceRows: 20 };

interface ClusterOptions {
  world: World;
  sync: SyncMode;
}

export class SimCluster {
  readonly world: World;
  readonly network: Network;
  readonly master: SimMaster;
  readonly servers: SimServer[];
  readonly clients: SimClient[];
  /** More than one disk may fail. */
  disksFail = false;
  #uuids = 0;

  constructor({ world, sync }: ClusterOptions) {
    this.world = world;
    this.network = new Network(world);
    this.master = new SimMaster(this, sync);
    this.servers = Array.from({ length: serversCount }, (_, i) => new SimServer(this, i + 1));
    this.clients = Array.from({ length: clientsCount }, (_, i) => new SimClient(this, i + 1));
  }

  get nodes(): SimNode[] {
    return [this.master, ...this.servers, ...this.clients].map(({ node }) => node);
  }

  uuid(): string {
    this.#uuids += 1;
    return this.#uuids.toString(16).padStart(32, "0").split("").toReversed().join("");
  }

  start(): void {
    this.master.start();
    for (const server of this.servers) server.start();
    for (const client of this.clients) client.start();
  }
}

class SimMaster {
  readonly node: SimNode;
  readonly disk: JournalDisk;
  /** The program, once it has started. */
  program: Master | undefined;
  readonly #cluster: SimCluster;
  readonly #sync: SyncMode;

  constructor(cluster: SimCluster, sync: SyncMode) {
    this.#cluster = cluster;
    this.#sync = sync;
    const node = (this.node = new SimNode(cluster.world, "master"));
    this.disk = new JournalDisk({
      timer: (ms, fire) => node.life.clock.timer(ms, fire),
      takesTime: () =>
        new Promise((resolve) => node.life.after(node.life.random.about(1), resolve)),
    });
  }

  start(): void {
    this.node.begin(async (life) => {
      const { world, network } = this.#cluster;
      world.note(`${life.name} starts`);
      const store = await this.disk.open(journalLimits);
      const master = new Master({
        store,
        clock: life.clock,
        log: life.log,
        random: life.random.next,
        uuid: () => this.#cluster.uuid(),
        version: "simulated",
        chunkBytes,
        owner: { uid: 0, gid: 0 },
        sync: this.#sync,
      });
      master.address = formatAddress(masterAddress);
      await master.start();
      await network.listenFor(life)({
        address: masterAddress,
        clock: life.clock,
        onTransport: (transport, peer) => master.accept(transport, peer),
      });
      this.program = master;
    });
  }

  end(how: End): void {
    this.#cluster.world.note(`master ends: ${how}`);
    this.program = undefined;
    this.node.life.end();
    this.disk.end(how, this.#cluster.world.random.next);
  }
}

export class SimServer {
  readonly node: SimNode;
  readonly root: string;
  readonly disk: SimDisk;
  readonly index: IndexDisk;
  program: ChunkServer | undefined;
  /** Each loss of power leads to the next. */
  #boot: BootId;
  readonly #cluster: SimCluster;

  constructor(cluster: SimCluster, number: number) {
    this.#cluster = cluster;
    this.node = new SimNode(cluster.world, `s${number}`);
    this.#boot = bootId(number * 1_000);
    this.root = `/${this.node.name}`;
    this.disk = new SimDisk(cluster.world.random.fork());
    this.index = new IndexDisk();
  }

  /** Its id, once the master has given it one. */
  get id(): number | undefined {
    return this.program?.directory.identity?.server;
  }

  /** On a disk that fails it may not start: then somebody starts it again. */
  start(): void {
    this.node.begin(async (life) => {
      try {
        await this.#start(life);
      } catch (error) {
        const isFault = error instanceof UserError || errnoName(error) !== undefined;
        if (!isFault && statusOf(error) === "internal") throw error;
        this.#cluster.world.note(`${life.name} does not start: ${String(error)}`);
        this.node.world.after(1_000, life, () => this.start());
      }
    });
  }

  async #start(life: Life): Promise<void> {
    const { world, network } = this.#cluster;
    world.note(`${life.name} starts`);
    const server = await ChunkServer.start({
      root: this.root,
      master: masterAddress,
      listen: { host: this.node.name, port: serverPort },
      rack: "",
      name: this.node.name,
      reserveBytes: 0,
      disk: this.disk.openFor(life),
      clock: life.clock,
      log: life.log,
      random: life.random.next,
      boot: this.#boot,
      connect: network.connectFor(life),
      listenWith: network.listenFor(life),
      openIndex: () => this.index.open(life),
    });
    this.program = server;
    server.failed.catch((error: unknown) => {
      if (!life.ended) world.failed(`${life.name} ended by itself`, error);
    });
  }

  end(how: End): void {
    const { world } = this.#cluster;
    world.note(`${this.node.name} ends: ${how}`);
    this.program = undefined;
    this.node.life.end();
    if (how === "power") this.#boot = bootId(this.#boot + 1);
    this.disk.end(how);
    this.index.end(how, world.random);
  }
}

/** A mount's driver, without a kernel: what the kernel would ask is asked by the workload. */
export class SimClient {
  readonly node: SimNode;
  readonly number: number;
  fileSystem: FileSystem | undefined;
  readonly #cluster: SimCluster;

  constructor(cluster: SimCluster, number: number) {
    this.#cluster = cluster;
    this.number = number;
    this.node = new SimNode(cluster.world, `c${number}`);
  }

  start(): void {
    this.node.begin((life) => this.#connect(life));
  }

  /** A driver that cannot reach the master at its start ends; an operator starts it again. */
  async #connect(life: Life): Promise<void> {
    const { world, network } = this.#cluster;
    world.note(`${life.name} starts`);
    for (;;) {
      try {
        const { fileSystem } = await connectFileSystem({
          master: masterAddress,
          ...{ soft: false, timeoutMs: 0, showSnapshots: false, accessTimes: false },
          ...{ mountpoint: `/${this.node.name}`, rack: "" },
          ...{ clock: life.clock, log: life.log, random: life.random.next },
          uuid: () => this.#cluster.uuid(),
          connect: network.connectFor(life),
        });
        this.fileSystem = fileSystem;
        return;
      } catch (error) {
        if (!(error instanceof Error) || error.name !== "StatusError") throw error;
        await new Promise<void>((resolve) => life.after(500, resolve));
      }
    }
  }

  end(): void {
    this.#cluster.world.note(`${this.node.name} ends`);
    this.fileSystem = undefined;
    this.node.life.end();
  }

  get ready(): FileSystem {
    return must(this.fileSystem, "a mount that answers");
  }
}
