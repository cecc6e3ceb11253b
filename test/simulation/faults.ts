import { BitFlips } from "./bit-flips.ts";
import type { End, SimClient, SimCluster, SimServer } from "./cluster.ts";
import type { Model } from "./model.ts";
import { fairWeather } from "./network.ts";
import { PowerLosses } from "./power.ts";
import type { Random } from "./random.ts";
import type { SimNode, World } from "./world.ts";

/** Faults, by kind. A seed has some kinds of them: all at once would hide what one alone does. */
const faultKinds = [
  "packets",
  "breaks",
  "partition",
  "kill-server",
  "kill-master",
  "kill-client",
  "stop",
  "clock",
  "power-server",
  "power-master",
  "power-all",
  "crash-point",
  "bit-flip",
  "slow-disk",
  "full-disk",
  "bad-disk",
] as const;

type FaultKind = (typeof faultKinds)[number];

interface FaultPlan {
  kinds: ReadonlySet<FaultKind>;
  /** Statuses that an application may be told because of them. */
  tolerated: ReadonlySet<string>;
}

/** What an application may be told because of a fault, by kind. */
const statuses: Partial<Record<FaultKind, readonly string[]>> = {
  // What was made or linked in the last second is gone while clients have it open.
  "power-master": ["stale", "not-found", "exists", "io-error"],
  "power-all": ["stale", "not-found", "exists", "io-error"],
  "full-disk": ["no-space", "io-error"],
  // All servers may have had such a disk: none of them gets new chunks then.
  "bad-disk": ["io-error", "no-space"],
};

/** A bit that turns in the only replica left is a loss that nothing can mend. */
const notWithFlips: readonly FaultKind[] = [
  ...(["breaks", "partition", "kill-server", "stop", "power-server", "power-all"] as const),
  ...(["crash-point", "full-disk", "bad-disk"] as const),
];

export function planFaults(random: Random): FaultPlan {
  // Some seeds have many kinds, some one or two.
  const share = random.pick([0.1, 0.2, 0.4]);
  const kinds = new Set<FaultKind>(faultKinds.filter(() => random.chance(share)));
  if (kinds.has("bit-flip")) for (const kind of notWithFlips) kinds.delete(kind);
  const tolerated = new Set([...kinds].flatMap((kind) => statuses[kind] ?? []));
  return { kinds, tolerated };
}

/** Steps that take room on a disk. */
const needsSpace = /write|bytes|append|copy|clone|reflink|(?<!re)make|probe/;

/** Mean time between two faults. */
const pauseMs = 2_500;

export class Nemesis {
  readonly #world: World;
  readonly #cluster: SimCluster;
  readonly #model: Model;
  readonly #plan: FaultPlan;
  readonly #random: Random;
  /** What mends the faults that last. */
  readonly #mend = new Set<() => void>();
  readonly #badDisks = new Set<SimServer>();
  readonly #power: PowerLosses;
  readonly #flips: BitFlips;
  #ended = false;

  constructor(options: { cluster: SimCluster; model: Model; plan: FaultPlan }) {
    this.#cluster = options.cluster;
    this.#world = options.cluster.world;
    this.#model = options.model;
    this.#plan = options.plan;
    this.#random = this.#world.random.fork();
    this.#power = new PowerLosses(options);
    this.#flips = new BitFlips({ cluster: this.#cluster, random: this.#random });
  }

  start(): void {
    const { kinds } = this.#plan;
    const { network } = this.#cluster;
    const weather = { ...fairWeather };
    if (kinds.has("packets")) Object.assign(weather, { drop: 0.01, delay: 0.01, duplicate: 0.01 });
    if (kinds.has("breaks")) weather.break = 0.003;
    network.weather = weather;
    const acute = [...kinds].filter((kind) => kind !== "packets" && kind !== "breaks");
    if (acute.length > 0) void this.#strike(acute);
  }

  /** In some replica a bit has turned, of which a clone has a copy, with the CRC that says so. */
  get bitsTurned(): boolean {
    return this.#flips.count > 0;
  }

  /** A client is about to write. */
  beforeWrite(where: { ino: number; offset: number }): void {
    if (this.#ended || !this.#plan.kinds.has("bit-flip")) return;
    if (this.#random.chance(0.3)) this.#flips.under(where);
  }

  /** No more faults, and those that last are mended. */
  end(): void {
    this.#ended = true;
    this.#cluster.network.weather = fairWeather;
    for (const mend of this.#mend) mend();
    this.#cluster.master.disk.atStep = () => undefined;
    for (const { disk } of this.#cluster.servers) disk.atStep = () => undefined;
    for (const node of this.#cluster.nodes) node.go();
  }

  async #strike(kinds: readonly FaultKind[]): Promise<void> {
    for (;;) {
      await this.#world.pause(this.#random.about(pauseMs));
      if (this.#ended) return;
      this.#one(this.#random.pick(kinds));
    }
  }

  #one(kind: FaultKind): void {
    const { servers, clients } = this.#cluster;
    const node = this.#random.pick(this.#cluster.nodes);
    const server = this.#random.pick(servers);
    switch (kind) {
      case "packets":
      case "breaks":
        return;
      case "partition":
        return this.#partition();
      case "kill-server":
        return this.#endServer(server, "kill");
      case "power-server":
        if (server.node.alive && this.#power.losing(server)) this.#endServer(server, "power");
        return;
      case "kill-master":
        return this.#endMaster("kill");
      case "power-master":
        return this.#endMaster("power");
      case "power-all":
        return this.#endAll();
      case "kill-client":
        return this.#endClient(this.#random.pick(clients));
      case "crash-point":
        return this.#crashPoint(server);
      case "stop":
        return this.#stop(node);
      case "clock":
        this.#world.count("fault: clock set");
        node.wallJumpNs += BigInt(this.#random.between(-3_600_000, 3_600_000)) * 1_000_000n;
        return;
      case "bit-flip":
        return this.#flips.one();
      case "slow-disk":
      case "full-disk":
      case "bad-disk":
        return this.#disk(kind, server);
    }
  }

  #stop(node: SimNode): void {
    const ms = this.#random.chance(0.3) ? this.#random.about(30_000) : this.#random.about(3_000);
    this.#world.count("fault: stopped");
    this.#world.note(`${node.name} stopped for ${ms.toFixed(0)} ms`);
    node.stop(ms);
  }

  #endMaster(how: End): void {
    const { master } = this.#cluster;
    if (!master.node.alive) return;
    this.#world.count(`fault: master ${how === "kill" ? "killed" : "lost power"}`);
    if (how === "power") this.#model.masterLostPower();
    master.end(how);
    this.#later(this.#random.about(2_000), () => master.start());
  }

  #endClient(client: SimClient): void {
    if (!client.node.alive) return;
    this.#world.count("fault: client killed");
    client.end();
    this.#later(this.#random.about(4_000), () => client.start());
  }

  /** The building has no power. */
  #endAll(): void {
    const { master, servers } = this.#cluster;
    this.#world.count("fault: all lost power");
    this.#power.losingAll();
    for (const one of [master, ...servers]) {
      // A server whose program has ended before still had its page cache.
      if (one.node.alive || one !== master) one.end("power");
      this.#later(this.#random.about(3_000), () => {
        if (!one.node.alive) one.start();
      });
    }
  }

  /** Ends a program right after one of its next disk steps, with its answer still to be given. */
  #crashPoint(server: SimServer): void {
    const { master } = this.#cluster;
    let steps = this.#random.between(1, 30);
    if (this.#random.chance(0.4)) {
      master.disk.atStep = () => {
        steps -= 1;
        if (steps > 0 || this.#ended) return;
        master.disk.atStep = () => undefined;
        this.#world.count("fault: master killed at a disk step");
        this.#endMaster("kill");
      };
    } else {
      server.disk.atStep = () => {
        steps -= 1;
        if (steps > 0 || this.#ended) return;
        server.disk.atStep = () => undefined;
        this.#world.count("fault: server killed at a disk step");
        this.#endServer(server, "kill");
      };
    }
  }

  #disk(kind: "slow-disk" | "full-disk" | "bad-disk", server: SimServer): void {
    const { disk, index } = server;
    if (this.#badDisks.has(server)) return;
    this.#badDisks.add(server);
    this.#world.count(`fault: ${kind}`);
    this.#world.note(`${server.node.name} has a ${kind}`);
    const { stepMs, freeBytes } = disk;
    if (kind === "slow-disk") disk.stepMs = this.#random.between(5, 300);
    if (kind === "full-disk") {
      disk.freeBytes = 0;
      disk.fail = (site) => (needsSpace.test(site) ? "ENOSPC" : undefined);
      index.failWith = "no-space";
    }
    if (kind === "bad-disk") {
      const share = this.#random.pick([0.02, 0.5]);
      const reads = this.#random.chance(0.5);
      disk.fail = (_site, isWrite) =>
        isWrite !== reads && this.#random.chance(share) ? "EIO" : undefined;
    }
    this.#later(this.#random.about(8_000), () => {
      this.#badDisks.delete(server);
      Object.assign(disk, { stepMs, freeBytes, fail: () => undefined });
      index.failWith = undefined;
      this.#world.note(`${server.node.name} has a good disk`);
    });
  }

  #endServer(server: SimServer, how: End): void {
    if (!server.node.alive) return;
    this.#world.count(`fault: server ${how === "kill" ? "killed" : "lost power"}`);
    server.end(how);
    const ms = this.#random.chance(0.1) ? 70_000 : this.#random.about(4_000);
    this.#later(ms, () => server.start());
  }

  #partition(): void {
    const { network, nodes } = this.#cluster;
    const one = this.#random.pick(nodes);
    const other = this.#random.pick(nodes);
    const from: SimNode[] = [one];
    // From everybody, or from one.
    const to = this.#random.chance(0.5) ? nodes.filter((node) => node !== one) : [other];
    const oneWay = this.#random.chance(0.5);
    this.#world.count(`fault: ${oneWay ? "one-way partition" : "partition"}`);
    const pairs = from.flatMap((a) =>
      to.flatMap((b) =>
        oneWay
          ? [[a, b]]
          : [
              [a, b],
              [b, a],
            ],
      ),
    );
    const names = `${one.name} ${oneWay ? "to" : "and"} ${to.map(({ name }) => name).join(",")}`;
    this.#world.note(`partition: ${names}`);
    for (const [a, b] of pairs) if (a && b) network.block(a, b);
    const ms = this.#random.chance(0.2) ? this.#random.about(40_000) : this.#random.about(4_000);
    this.#later(ms, () => {
      this.#world.note(`partition ends: ${names}`);
      for (const [a, b] of pairs) if (a && b) network.unblock(a, b);
    });
  }

  /** Mends something after a while, or when all faults end. */
  #later(ms: number, work: () => void): void {
    const mend = (): void => {
      if (this.#mend.delete(mend)) work();
    };
    this.#mend.add(mend);
    this.#world.after(ms, undefined, mend);
  }
}
