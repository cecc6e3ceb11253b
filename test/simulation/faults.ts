import type { SimCluster, SimServer, End } from "./cluster.ts";
import type { Model } from "./model.ts";
import { fairWeather } from "./network.ts";
import type { Random } from "./random.ts";
import type { SimNode, World } from "./world.ts";

/** Faults, by kind. A seed has some kinds of them: all at once would hide what one alone does. */
export const faultKinds = [
  "packets",
  "breaks",
  "partition",
  "kill-server",
  "kill-master",
  "kill-client",
  "stop",
  "clock",
] as const;

export type FaultKind = (typeof faultKinds)[number];

export interface FaultPlan {
  kinds: ReadonlySet<FaultKind>;
  /** Statuses that an application may be told because of them. */
  tolerated: ReadonlySet<string>;
}

export function planFaults(random: Random): FaultPlan {
  const kinds = new Set<FaultKind>(faultKinds.filter(() => random.chance(0.45)));
  return { kinds, tolerated: new Set() };
}

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
  #ended = false;

  constructor(options: { cluster: SimCluster; model: Model; plan: FaultPlan }) {
    this.#cluster = options.cluster;
    this.#world = options.cluster.world;
    this.#model = options.model;
    this.#plan = options.plan;
    this.#random = this.#world.random.fork();
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

  /** No more faults, and those that last are mended. */
  end(): void {
    this.#ended = true;
    this.#cluster.network.weather = fairWeather;
    for (const mend of this.#mend) mend();
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
    const { master, servers, clients } = this.#cluster;
    switch (kind) {
      case "packets":
      case "breaks":
        return;
      case "partition":
        return this.#partition();
      case "kill-server":
        return this.#endServer(this.#random.pick(servers), "kill");
      case "kill-master":
        if (!master.node.alive) return;
        this.#world.count("fault: master killed");
        master.end("kill");
        return this.#later(this.#random.about(2_000), () => master.start());
      case "kill-client": {
        const client = this.#random.pick(clients);
        if (!client.node.alive) return;
        this.#world.count("fault: client killed");
        client.end();
        return this.#later(this.#random.about(4_000), () => client.start());
      }
      case "stop": {
        const node = this.#random.pick(this.#cluster.nodes);
        this.#world.count("fault: stopped");
        const ms = this.#random.chance(0.3)
          ? this.#random.about(30_000)
          : this.#random.about(3_000);
        this.#world.note(`${node.name} stopped for ${ms.toFixed(0)} ms`);
        return node.stop(ms);
      }
      case "clock": {
        const node = this.#random.pick(this.#cluster.nodes);
        this.#world.count("fault: clock set");
        const jumpMs = this.#random.between(-3_600_000, 3_600_000);
        node.wallJumpNs += BigInt(jumpMs) * 1_000_000n;
      }
    }
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

  get model(): Model {
    return this.#model;
  }
}
