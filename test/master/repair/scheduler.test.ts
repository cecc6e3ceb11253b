import t, { type Test } from "tap";
import { must } from "../../../common/assert.ts";
import type { RepairOptions } from "../../../master/background/repair/repair.ts";
import { Handlers } from "../../../protocol/connection.ts";
import type { Connection } from "../../../protocol/connection.ts";
import { type ChunkHandle, chunkVersion } from "../../../protocol/id.ts";
import * as admin from "../../../protocol/methods/admin.ts";
import type { ReplyOf } from "../../../protocol/method.ts";
import { StatusError } from "../../../protocol/status.ts";
import {
  MasterCluster,
  type TestMount,
  type TestServer,
  testServers,
} from "../../support/master-cluster.ts";
import { outcome } from "../../support/outcome.ts";
import { newTestStore } from "../../support/test-store.ts";
import { until } from "../../support/until.ts";

/** Repair, drain, maintenance and evenness on a master whose chunk servers a test plays. */

const chunkBytes = 1024 * 1024;

class Scene {
  readonly cluster: MasterCluster;
  readonly servers: TestServer[];
  mount!: TestMount;
  admin!: Connection;
  #files = 0;

  constructor(cluster: MasterCluster, count: number) {
    this.cluster = cluster;
    this.servers = testServers(count);
  }

  server(index: number): TestServer {
    return must(this.servers[index], "a server");
  }

  async connect(): Promise<void> {
    this.mount = await this.cluster.mount();
    this.admin = await this.cluster.dial("admin", new Handlers());
  }

  /** New files, each with a chunk that has been written everywhere and committed. */
  async write(count: number): Promise<ChunkHandle[]> {
    const handles: ChunkHandle[] = [];
    for (let i = 0; i < count; i += 1) {
      this.#files += 1;
      const { attr } = await this.mount.create(`f${this.#files}`);
      const grant = await this.mount.grant(attr);
      for (const server of this.servers) {
        if (grant.replicas.some((replica) => replica.server === server.id)) {
          server.write(grant, `contents ${this.#files}`);
        }
      }
      await this.mount.commit(attr, grant, 10);
      handles.push(grant.handle);
    }
    return handles;
  }

  /** Time passes; servers that are connected tell that they are alive, and do as they are told. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 2_000) {
      this.cluster.nowMs += Math.min(left, 2_000);
      await this.beat();
    }
    this.cluster.master.repair.wake();
  }

  async beat(): Promise<void> {
    for (const server of this.servers) {
      if (server.connection?.closed === false) await server.obey();
    }
  }

  holders(handle: ChunkHandle): number[] {
    return this.servers.flatMap((server) => (server.chunks.has(handle) ? [Number(server.id)] : []));
  }

  async status(): Promise<ReplyOf<typeof admin.status>> {
    return this.admin.call(admin.status, {});
  }

  async shown(index: number) {
    const { servers } = await this.status();
    return must(
      servers.find(({ id }) => id === this.server(index).id),
      "its status",
    );
  }

  /** Waits until `wanted`; what would have to happen for it must not need time to pass. */
  until(what: string, wanted: () => Promise<boolean> | boolean): Promise<boolean> {
    return until(what, async () => {
      await this.beat();
      return wanted();
    });
  }

  async healthy(): Promise<void> {
    await this.until("all goals are met", async () => (await this.status()).chunks.belowGoal === 0);
  }

  /** Some rounds of repair without time passing: what is not done by then is not done. */
  async rounds(): Promise<void> {
    for (let i = 0; i < 20; i += 1) {
      this.cluster.master.repair.wake();
      for (let turns = 0; turns < 20; turns += 1) await new Promise(setImmediate);
    }
  }
}

async function scene(
  test: Test,
  count: number,
  settings: { graceMs?: number; repair?: RepairOptions; joining?: number } = {},
): Promise<Scene> {
  const cluster = new MasterCluster(await newTestStore(), settings);
  await cluster.start();
  const all = new Scene(cluster, count);
  for (const server of all.servers.slice(0, settings.joining ?? count)) await server.join(cluster);
  test.teardown(() => cluster.stop());
  await all.connect();
  return all;
}

/** Counts the copies that are asked of the servers. */
function countCopies({ servers }: Scene): () => number {
  let copies = 0;
  for (const server of servers) {
    server.onOrder = (order) => {
      if (order === "copyChunk") copies += 1;
    };
  }
  return () => copies;
}

t.test("a server that comes back within its grace causes no copy", async (t) => {
  const all = await scene(t, 4);
  const handles = await all.write(20);
  const copies = countCopies(all);
  for (let flaps = 0; flaps < 5; flaps += 1) {
    all.server(0).leave();
    await all.pass(40_000);
    await all.rounds();
    const { chunks } = await all.status();
    t.ok(chunks.belowGoal > 0, "they count as missing all the same");
    await all.server(0).join(all.cluster);
    await all.pass(2_000);
    await all.rounds();
  }
  t.equal(copies(), 0);
  t.match((await all.status()).chunks, { total: handles.length, belowGoal: 0 });
});

t.test("what was on a server that stays away longer is copied, within the caps", async (t) => {
  const all = await scene(t, 5, { repair: { copiesPerServer: 2 } });
  const handles = await all.write(40);
  const busy = new Map<number, number>();
  let most = 0;
  for (const server of all.servers) {
    server.beforeCopy = async (source) => {
      const both = [Number(source), Number(server.id)];
      for (const id of both) busy.set(id, (busy.get(id) ?? 0) + 1);
      most = Math.max(most, ...busy.values());
      for (let turns = 0; turns < 10; turns += 1) await new Promise(setImmediate);
      for (const id of both) busy.set(id, (busy.get(id) ?? 0) - 1);
    };
  }
  all.server(0).leave();
  await all.pass(61_000);
  await all.healthy();
  t.equal(most, 2, "copies at a time that one server takes part in");
  for (const handle of handles) {
    const on = all.holders(handle).filter((id) => id !== all.server(0).id);
    t.equal(on.length, 3);
  }
});

t.test("the last replica of a chunk is copied at once, and before others", async (t) => {
  const all = await scene(t, 6, { repair: { copiesPerServer: 1 } });
  const handles = await all.write(30);
  const [a, b] = [all.server(0), all.server(1)];
  const leftOf = (handle: ChunkHandle): number =>
    all.holders(handle).filter((id) => id !== a.id && id !== b.id).length;
  const single = handles.filter((handle) => leftOf(handle) === 1);
  t.ok(single.length > 0, `${single.length} chunks have one replica elsewhere`);
  a.leave();
  b.leave();
  await all.until("they have two", () => single.every((handle) => leftOf(handle) >= 2));
  const others = handles.filter((handle) => !single.includes(handle));
  t.ok(
    others.every((handle) => all.holders(handle).length === 3),
    "the others wait for the servers' grace",
  );
  await a.join(all.cluster);
  await b.join(all.cluster);
  await all.healthy();
  await all.until("what is too much is gone", () => {
    return handles.every((handle) => all.holders(handle).length === 3);
  });
});

t.test("the fewer replicas are left, the sooner: single ones before the others", async (t) => {
  const all = await scene(t, 6, { repair: { copiesPerServer: 1 } });
  const handles = await all.write(40);
  // Chunks go to the first three or the last three.
  const killed = [0, 1, 3].map((index) => all.server(index));
  const left = new Map(
    handles.map((handle) => {
      const on = all.holders(handle).filter((id) => killed.every((server) => server.id !== id));
      return [handle, on.length];
    }),
  );
  const order: ChunkHandle[] = [];
  for (const server of all.servers) {
    const { set } = server.chunks;
    server.chunks.set = (handle, replica) => {
      if (!server.chunks.has(handle) && !order.includes(handle)) order.push(handle);
      return set.call(server.chunks, handle, replica);
    };
  }
  all.cluster.nowMs += 61_000;
  for (const server of killed) server.leave();
  await all.beat();
  await all.healthy();
  const mean = (replicas: number): number => {
    const places = [...order.entries()].filter(([, handle]) => left.get(handle) === replicas);
    return places.reduce((sum, [place]) => sum + place, 0) / places.length;
  };
  // Not strictly one after the other: while the only source of one is busy, another has its turn.
  t.ok(mean(1) * 2 < mean(2), `places in line: ${mean(1)} on average, of others ${mean(2)}`);
});

t.test("drain: copies first, drops after; empty, over a restart, then forgotten", async (t) => {
  const all = await scene(t, 4);
  const handles = await all.write(30);
  await all.mount.create("without-data");
  const leaver = all.server(0);
  const server = String(leaver.id);
  const first = await all.admin.call(admin.drain, { server: leaver.address, force: false });
  t.match(first, { server: leaver.id, mode: "draining" });
  t.ok(first.left > 0);
  let polls = 0;
  const watch = async (): Promise<boolean> => {
    const { chunks } = await all.status();
    polls += 1;
    if (chunks.belowGoal > 0) throw new Error(`${chunks.belowGoal} below goal`);
    return (await all.shown(0)).mode === "drained";
  };
  await all.until("some are gone", async () => {
    await watch();
    return leaver.removed.length > 3;
  });
  await all.cluster.restart();
  for (const one of all.servers) await one.join(all.cluster);
  await all.connect();
  t.equal((await all.shown(0)).mode, "draining", "the restarted master knows");
  await all.until("only the one without data is left", async () => {
    await watch();
    await all.pass(600);
    return ((await all.shown(0)).left ?? 0) <= 1;
  });
  await all.write(3);
  await all.pass(12_000);
  await all.until("it is drained", watch);
  t.comment(`nothing was below its goal in ${polls} looks`);
  t.equal(leaver.chunks.size, 0, "it has deleted all it had");
  for (const handle of handles) t.equal(all.holders(handle).length, 3);
  t.equal(await outcome(all.admin.call(admin.forgetServer, { server })), "busy", "it still runs");
  leaver.leave();
  await all.rounds();
  t.match(await all.admin.call(admin.forgetServer, { server }), { server: leaver.id });
  t.equal((await all.status()).servers.length, 3);
  await all.cluster.restart();
  t.equal(all.cluster.master.fleet.all().length, 3, "also after a restart");
});

t.test("what a late write has made on a server that is drained is found and deleted", async (t) => {
  const all = await scene(t, 4);
  const [handle] = (await all.write(3)) as [ChunkHandle];
  const leaver = all.server(0);
  const late = { ...must(leaver.chunks.get(handle), "a replica") };
  await all.admin.call(admin.drain, { server: String(leaver.id), force: false });
  await all.until("it has deleted what it had", () => leaver.chunks.size === 0);
  leaver.chunks.set(handle, late);
  await all.until("it is drained", async () => {
    await all.pass(1_000);
    if (leaver.connection?.closed) await leaver.join(all.cluster);
    return (await all.shown(0)).mode === "drained";
  });
  t.equal(leaver.chunks.size, 0);
  t.equal(all.holders(handle).length, 3);
});

t.test("a drain can be undone: the server is used again", async (t) => {
  const all = await scene(t, 4);
  await all.write(10);
  const server = String(all.server(1).id);
  await all.admin.call(admin.drain, { server, force: false });
  t.match(await all.admin.call(admin.undrain, { server }), { mode: "active" });
  t.equal(await outcome(all.admin.call(admin.undrain, { server })), "busy", "there is none");
  const before = all.server(1).chunks.size;
  await all.write(10);
  t.ok(all.server(1).chunks.size > before, "it gets some of what is new");
  await all.healthy();
});

t.test("a drain that would leave chunks below their goals is refused, but by force", async (t) => {
  const all = await scene(t, 3);
  const handles = await all.write(5);
  const server = String(all.server(2).id);
  const refused = all.admin.call(admin.drain, { server, force: false });
  const message = await refused.catch((error: unknown) => (error as StatusError).message);
  t.match(message, /chunks that want 3 copies, and 2 other servers can have them: .*--force/);
  t.equal((await all.shown(2)).mode, "active");
  await all.admin.call(admin.drain, { server, force: true });
  await all.until("it is drained", async () => {
    await all.pass(1_000);
    return (await all.shown(2)).mode === "drained";
  });
  for (const handle of handles) t.equal(all.holders(handle).length, 2);
  const unknown = all.admin.call(admin.drain, { server: "77", force: false });
  t.equal(await outcome(unknown), "not-found");
});

t.test("maintenance: no copies while a server is away; it ends by itself", async (t) => {
  const all = await scene(t, 4);
  await all.write(20);
  const copies = countCopies(all);
  const away = all.server(0);
  const server = String(away.id);
  await all.admin.call(admin.maintenance, { server, forMs: 600_000 });
  away.leave();
  await all.pass(300_000);
  await all.rounds();
  t.equal(copies(), 0);
  t.match(await all.shown(0), { state: "dead", mode: "maintenance" });
  await all.cluster.restart();
  for (const one of all.servers.slice(1)) await one.join(all.cluster);
  await all.connect();
  await all.pass(100_000);
  await all.rounds();
  t.equal(copies(), 0, "the restarted master knows");
  await all.pass(260_000);
  await all.until("it has ended", async () => (await all.shown(0)).mode === "active");
  await all.healthy();
  t.ok(copies() > 0);
});

t.test("a failing disk is emptied and gets nothing new; a full one gets nothing new", async (t) => {
  const all = await scene(t, 5);
  const handles = await all.write(20);
  const [failing, full] = [all.server(0), all.server(1)];
  failing.usage = { ...failing.usage, disk: "failing", diskTrouble: "EIO" };
  full.usage = { ...full.usage, disk: "full", freeBytes: 0 };
  const fullHad = full.chunks.size;
  await all.beat();
  t.equal((await all.shown(0)).mode, "emptying");
  await all.until("it is empty", () => failing.chunks.size === 0);
  await all.healthy();
  for (const handle of handles) t.equal(all.holders(handle).length, 3);
  t.equal(full.chunks.size, fullHad, "the full one keeps what it has");
  await all.write(5);
  t.equal(failing.chunks.size + full.chunks.size, fullHad);
  failing.usage = { ...failing.usage, disk: "ok" };
  await all.beat();
  t.equal((await all.shown(0)).mode, "active", "it is used again when it works again");
});

t.test("replicas in one rack move apart when there is another rack", async (t) => {
  const all = await scene(t, 4, { joining: 3 });
  for (const [i, rack] of ["a", "a", "b", "c"].entries()) all.server(i).rack = rack;
  for (const server of all.servers.slice(0, 3)) await server.join(all.cluster);
  const handles = await all.write(10);
  await all.server(3).join(all.cluster);
  await all.until("each chunk is in three racks", () => {
    return handles.every((handle) => {
      const on = all.servers.filter(({ chunks }) => chunks.has(handle));
      return on.length === 3 && new Set(on.map(({ rack }) => rack)).size === 3;
    });
  });
});

/** Servers say of their disks what they hold: 100 chunks fill one. */
function tellUse({ servers }: Scene): void {
  for (const server of servers) {
    const usedBytes = server.chunks.size * chunkBytes;
    server.usage = { ...server.usage, usedBytes, freeBytes: 100 * chunkBytes - usedBytes };
  }
}

t.test("an empty server that joins gets chunks from the others, until they are even", async (t) => {
  const all = await scene(t, 4, { joining: 3 });
  const handles = await all.write(40);
  tellUse(all);
  await all.beat();
  const copies = countCopies(all);
  await all.server(3).join(all.cluster);
  const spread = (): number => {
    const sizes = all.servers.map(({ chunks }) => chunks.size);
    return Math.max(...sizes) - Math.min(...sizes);
  };
  await all.until("they are even", async () => {
    tellUse(all);
    await all.pass(2_000);
    return spread() <= 6;
  });
  const moved = copies();
  for (let i = 0; i < 20; i += 1) {
    tellUse(all);
    await all.pass(10_000);
    await all.rounds();
  }
  t.ok(copies() <= moved + 4, `${copies()} moves in all, and then it ends`);
  t.match((await all.status()).chunks, { total: 40, belowGoal: 0 });
  for (const handle of handles) t.equal(all.holders(handle).length, 3);
});

t.test("with rebalancing off, a server that joins stays empty", async (t) => {
  const all = await scene(t, 4, { joining: 3, repair: { rebalance: false } });
  await all.write(40);
  tellUse(all);
  await all.server(3).join(all.cluster);
  for (let i = 0; i < 10; i += 1) {
    tellUse(all);
    await all.pass(10_000);
    await all.rounds();
  }
  t.equal(all.server(3).chunks.size, 0);
});

t.test("replicas above the goal are trimmed when it is lowered", async (t) => {
  const all = await scene(t, 4);
  const handles = await all.write(10);
  await all.cluster.master.committer.run((txn) => {
    for (const handle of handles) txn.putChunk(handle, { ...txn.chunk(handle), goal: 2 });
  });
  await all.until("two are left of each", () => {
    return handles.every((handle) => all.holders(handle).length === 2);
  });
  t.match((await all.status()).chunks, { total: 10, belowGoal: 0 });
});

t.test("a server that is gone can be forgotten when nothing depends on it", async (t) => {
  const all = await scene(t, 4);
  await all.write(10);
  const gone = all.server(3);
  const server = String(gone.id);
  gone.leave();
  await all.rounds();
  t.equal(await outcome(all.admin.call(admin.forgetServer, { server })), "busy", "it may return");
  await all.pass(61_000);
  await all.healthy();
  await all.until("its chunks are elsewhere", async () => {
    return (await outcome(all.admin.call(admin.forgetServer, { server }))) === "ok";
  });
  t.equal((await all.status()).servers.length, 3);
});

t.test("a member of a set that has lost its replica gets it anew", async (t) => {
  const all = await scene(t, 3);
  const handles = await all.write(3);
  const [lost] = handles as [ChunkHandle];
  all.server(1).chunks.delete(lost);
  await all.server(1).join(all.cluster);
  await all.healthy();
  for (const handle of handles) t.equal(all.holders(handle).length, 3);
});

t.test(
  "servers that a dying master told a new version, and others not: all is mended",
  async (t) => {
    const all = await scene(t, 4);
    const handles = await all.write(6);
    await all.admin.call(admin.drain, { server: String(all.server(0).id), force: false });
    const [told] = handles as [ChunkHandle];
    // Of an order that was never recorded: two of a chunk's three servers have it.
    const holders = all.servers.filter(({ chunks }) => chunks.has(told));
    for (const { chunks } of holders.slice(-2)) {
      const replica = must(chunks.get(told), "a replica");
      replica.version = chunkVersion(replica.version + 1);
    }
    await all.cluster.restart();
    for (const server of all.servers) await server.join(all.cluster);
    await all.connect();
    await all.until("it is drained", async () => {
      await all.pass(1_000);
      return (await all.shown(0)).mode === "drained";
    });
    await all.healthy();
    for (const handle of handles) t.equal(all.holders(handle).length, 3);
  },
);

t.test("what the master counts is what a count of all records gives", async (t) => {
  const all = await scene(t, 5);
  const handles = await all.write(30);
  all.server(0).leave();
  await all.pass(30_000);
  await all.mount.create("without-data");
  const { sets } = all.cluster.master.chunks;
  const isUp = (id: number): boolean => id !== all.server(0).id;
  const below = handles.filter((handle) => sets.present(handle).filter(isUp).length < 3);
  t.match((await all.status()).chunks, { total: 30, belowGoal: below.length, lost: 0 });
});
