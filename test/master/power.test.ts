import t, { type Test } from "tap";
import type { SyncMode } from "../../master/namespace/committer.ts";
import { epoch, type Ino, rootIno } from "../../protocol/id.ts";
import * as admin from "../../protocol/methods/admin.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import { closeSession } from "../../protocol/methods/session.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import type { Attr, Grant } from "../../protocol/shapes.ts";
import { JournalDisk, turn } from "../support/journal-disk.ts";
import {
  MasterCluster,
  type TestMount,
  type TestServer,
  testServers,
} from "../support/master-cluster.ts";
import { outcome } from "../support/outcome.ts";
import { until } from "../support/until.ts";

/**
 * The master alone loses power, and with it whatever was not synced (P2): nothing that the others
 * did on its word may be wrong then.
 */

class Scene {
  readonly disk = new JournalDisk();
  readonly servers: TestServer[] = testServers(3);
  cluster!: MasterCluster;
  mount!: TestMount;

  static async start(test: Test, options: { sync: SyncMode } = { sync: "batch" }): Promise<Scene> {
    const scene = new Scene();
    scene.cluster = new MasterCluster(await scene.disk.open(), options);
    await scene.cluster.start();
    for (const server of scene.servers) await server.join(scene.cluster);
    scene.mount = await scene.cluster.mount();
    test.teardown(() => scene.cluster.stop());
    return scene;
  }

  /** Everything that was not synced is gone; servers and mount come back. */
  async losePower(returning: readonly TestServer[] = this.servers): Promise<void> {
    this.disk.end("power", () => 0);
    await this.cluster.restart(await this.disk.open());
    for (const server of returning) await server.join(this.cluster);
    this.mount = await this.cluster.mount();
  }

  async synced(): Promise<void> {
    await this.mount.read(namespace.sync, {});
  }

  async writtenFile(name: string, contents: string): Promise<{ attr: Attr; grant: Grant }> {
    const { attr } = await this.mount.create(name);
    const grant = await this.mount.grant(attr);
    for (const server of this.servers) server.write(grant, contents);
    await this.mount.commit(attr, grant, contents.length);
    return { attr, grant };
  }

  unlink(name: string, { ino }: Attr): Promise<unknown> {
    const file = { parent: rootIno, name: Buffer.from(name), closed: ino };
    return this.mount.mutate(namespace.unlink, file);
  }

  lookup(name: string): Promise<{ attr: Attr }> {
    return this.mount.read(namespace.lookup, { parent: rootIno, name: Buffer.from(name) });
  }

  /** Until the deleted file's chunk is off the record. */
  async reclaimed({ handle }: Grant): Promise<void> {
    await until(
      "the chunk is gone",
      () => this.cluster.master.chunks.sets.find(handle) === undefined,
    );
  }

  /** Lets the sync that comes by itself within a second come now. */
  async timePasses(): Promise<void> {
    this.disk.fireTimers();
    await until("all is synced", () => this.disk.unsyncedBytes === 0);
    await turn();
  }
}

t.test("P2: what sync, or --sync=always, has answered survives power loss", async (t) => {
  const scene = await Scene.start(t);
  const { mount } = scene;
  await mount.create("one");
  await scene.synced();
  const { attr } = await mount.create("two");
  await mount.mutate(namespace.commit, { ino: attr.ino, size: 7, mtime: 1n, written: [] });
  await mount.read(namespace.sync, { ino: attr.ino });
  await mount.create("three");
  await scene.losePower();
  t.equal(await outcome(scene.lookup("one")), "ok");
  t.equal((await scene.lookup("two")).attr.size, 7);
  t.equal(await outcome(scene.lookup("three")), "not-found", "it was answered, and not synced");
  const always = await Scene.start(t, { sync: "always" });
  await Promise.all([always.mount.create("a"), always.mount.create("b")]);
  await always.losePower();
  t.same([await outcome(always.lookup("a")), await outcome(always.lookup("b"))], ["ok", "ok"]);
});

t.test("an id that anybody has heard of is not given out again", async (t) => {
  const scene = await Scene.start(t);
  const { committer } = scene.cluster.master;
  const heard: number[] = [];
  // More than a block of ids, so that a further one is reserved on the way.
  for (let i = 0; i < 10; i += 1) {
    await committer.run((txn) => {
      for (let n = 0; n < 2_000; n += 1) heard.push(txn.newHandle(), txn.newIno());
    });
  }
  await scene.mount.create("lost");
  await scene.losePower();
  t.equal(await outcome(scene.lookup("lost")), "not-found", "the commits are lost");
  const { attr, grant } = await scene.mount.create("new");
  const most = Math.max(...heard);
  t.ok(attr.ino > most && (grant?.handle ?? 0) > most, `${attr.ino} > ${most}`);
});

t.test("a chunk is deleted on its servers only when its file cannot come back", async (t) => {
  const scene = await Scene.start(t);
  const kept = await scene.writtenFile("kept", "bytes");
  await scene.synced();
  await scene.unlink("kept", kept.attr);
  await scene.reclaimed(kept.grant);
  for (const server of scene.servers) t.same(await server.beat(), [], "not yet");
  await scene.losePower();
  t.equal((await scene.lookup("kept")).attr.size, 5, "the unlink is lost");
  for (const server of scene.servers)
    t.ok(server.chunks.has(kept.grant.handle), "and the data is not");
  const again = await Scene.start(t);
  const gone = await again.writtenFile("gone", "bytes");
  await again.unlink("gone", gone.attr);
  await again.reclaimed(gone.grant);
  await again.timePasses();
  t.same(await again.servers[0]?.beat(), [gone.grant.handle], "told once it is on the disk");
});

t.test(
  "a server that reports a deleted chunk is told when the deletion is on the disk",
  async (t) => {
    const scene = await Scene.start(t);
    const file = await scene.writtenFile("file", "bytes");
    await scene.synced();
    await scene.unlink("file", file.attr);
    await scene.reclaimed(file.grant);
    const [server] = scene.servers;
    await server?.join(scene.cluster);
    t.same(server?.removed, [file.grant.handle]);
    await scene.losePower();
    t.equal(await outcome(scene.lookup("file")), "not-found");
  },
);

t.test("servers cut, raise and fence only for what is on the disk", async (t) => {
  const scene = await Scene.start(t);
  const { attr } = await scene.writtenFile("file", "contents");
  const orders: string[] = [];
  for (const server of scene.servers) {
    server.onOrder = (order) => orders.push(`${order} ${scene.disk.unsyncedBytes}`);
  }
  await scene.mount.mutate(namespace.setattr, { ino: attr.ino, size: 3 });
  t.same(new Set(orders), new Set(["raiseVersion 0"]), "truncate");
  await scene.losePower();
  t.equal((await scene.lookup("file")).attr.size, 3, "the truncation is what the servers did");
  orders.length = 0;
  await scene.mount.create("unsynced");
  await scene.mount.mutate(admin.createSnapshot, { dir: rootIno, name: Buffer.from("s") });
  t.same(new Set(orders), new Set(["fence 0"]), "snapshot");
  t.equal(scene.disk.unsyncedBytes, 0, "and is answered when it is on the disk itself");
});

t.test("nobody writes under a version that is not on record after a loss of power", async (t) => {
  const scene = await Scene.start(t);
  const { attr, grant } = await scene.writtenFile("file", "contents");
  await scene.synced();
  const [first] = scene.servers;
  const { handle, version } = grant;
  const failed = { handle, version, servers: first?.id === undefined ? [] : [first.id] };
  const next = await scene.mount.mutate(chunk.grant, {
    ...{ ino: attr.ino, index: 0, failed },
  });
  t.ok(next.grant.version > version, "a new version, without the server that failed");
  for (const server of scene.servers.slice(1)) server.write(next.grant, "changed!");
  // The one with the old bytes is the first to come back.
  await scene.losePower(scene.servers.slice(0, 1));
  const locate = () =>
    scene.cluster.master.chunks.locate(attr.ino, undefined, { first: 0, count: 1 });
  t.same((await locate())[0]?.replicas, []);
  for (const server of scene.servers.slice(1)) await server.join(scene.cluster);
  const [location] = await locate();
  t.equal(location?.version, next.grant.version);
  t.notOk(location?.replicas.some(({ server }) => server === first?.id));
});

t.test("a chunk is written in place only when nobody else can show it again", async (t) => {
  const scene = await Scene.start(t);
  const { attr, grant } = await scene.writtenFile("file", "contents");
  const taken = await scene.mount.mutate(admin.createSnapshot, {
    ...{ dir: rootIno, name: Buffer.from("s") },
  });
  const copy = await scene.mount.mutate(namespace.create, {
    ...{ parent: rootIno, name: Buffer.from("copy"), mode: 0o644, uid: 0, gid: 0 },
    ...{ exclusive: true, write: false },
  });
  const shared = { source: attr.ino, at: epoch(taken.snapshot.epoch), ino: copy.attr.ino };
  const whole = { offset: 0, targetOffset: 0, length: 2 ** 30 };
  await scene.mount.mutate(namespace.copyRange, { ...shared, ...whole });
  await scene.mount.mutate(admin.deleteSnapshot, { dir: rootIno, name: Buffer.from("s") });
  await scene.synced();
  await scene.unlink("copy", copy.attr);
  const refs = (): number | undefined => scene.cluster.master.chunks.sets.find(grant.handle)?.refs;
  await until("one file has it", () => refs() === 1);
  t.ok(scene.disk.unsyncedBytes > 0, "that it is not shared any more is not on the disk");
  const again = await scene.mount.grant(attr);
  t.equal(again.handle, grant.handle, "the chunk itself, not a copy of it");
  await scene.losePower();
  t.equal(await outcome(scene.lookup("copy")), "not-found");
});

t.test("locks of a session that ends go when the session cannot come back", async (t) => {
  const scene = await Scene.start(t);
  const { sessions } = scene.cluster.master;
  const unsynced: number[] = [];
  sessions.onEnd = () => void unsynced.push(scene.disk.unsyncedBytes);
  await scene.mount.read(closeSession, {});
  t.same(unsynced, [0]);
});

t.test("epochs: after any loss of power, servers are not ahead of the master", async (t) => {
  const scene = await Scene.start(t);
  const { attr } = await scene.writtenFile("file", "contents");
  await scene.synced();
  const ino: Ino = attr.ino;
  for (let round = 1; round <= 3; round += 1) {
    const name = Buffer.from(`s${round}`);
    // The power goes when the servers have been fenced, before the snapshot is recorded.
    let fenced = 0;
    for (const server of scene.servers) server.onOrder = () => void (fenced += 1);
    void scene.mount.mutate(admin.createSnapshot, { dir: rootIno, name }).catch(() => undefined);
    await until("all are fenced", () => fenced >= scene.servers.length);
    await scene.losePower();
    const granted = await scene.mount.mutate(chunk.grant, { ino, index: 0 });
    for (const server of scene.servers) {
      t.ok(granted.grant.epoch >= (server.epoch ?? 0), `round ${round}: writes are taken`);
    }
  }
});
