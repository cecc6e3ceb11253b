import t, { type Test } from "tap";
import { reclaimTrash } from "../../master/background/reclaim.ts";
import { Leases, lease } from "../../master/service/leases.ts";
import { Handlers } from "../../protocol/connection.ts";
import { type Ino, ino, rootIno } from "../../protocol/id.ts";
import { cacheLeaseMs, cacheMarginMs } from "../../protocol/limits.ts";
import type { RequestOf } from "../../protocol/method.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import { flushSession, openSession } from "../../protocol/methods/session.ts";
import { MasterCluster, TestMount } from "../support/master-cluster.ts";
import { newTestStore } from "../support/test-store.ts";

type Told = RequestOf<typeof namespace.invalidate>;

/** A mount that remembers what it was told. */
async function listener(cluster: MasterCluster): Promise<{ mount: TestMount; told: Told[] }> {
  const told: Told[] = [];
  const handlers = new Handlers()
    .serve(namespace.invalidate, (changes) => {
      told.push(structuredClone(changes));
      return {};
    })
    .serve(flushSession, () => ({}));
  const connection = await cluster.dial("mount", handlers);
  await connection.call(openSession, { mountpoint: "/m", secret: "s", opens: [] });
  return { mount: new TestMount(connection), told };
}

async function started(t: Test): Promise<MasterCluster> {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  t.teardown(() => cluster.stop());
  return cluster;
}

const named = (name: string) => ({ parent: rootIno, name: Buffer.from(name) });

await t.test(
  "a mount hears of changes to what it was told, before they are answered",
  async (t) => {
    const cluster = await started(t);
    const one = await listener(cluster);
    const other = await listener(cluster);
    const { attr } = await one.mount.create("f");
    await other.mount.read(namespace.lookup, named("f"));
    await one.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o600 });
    t.match(other.told, [{ everything: false, inos: [attr.ino], contents: [], entries: [] }]);
    t.same(one.told, [], "who makes a change knows it");
  },
);

await t.test("a mount that was told nothing of an inode hears nothing of it", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await one.mount.create("f");
  await one.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o600 });
  await one.mount.mutate(namespace.unlink, named("f"));
  t.same(other.told, []);
});

await t.test("that there is no such name is something to be told of, each time", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  await t.rejects(other.mount.read(namespace.lookup, named("f")), { message: "no such entry" });
  await one.mount.create("f");
  t.match(other.told[0]?.entries, [{ parent: rootIno, name: Buffer.from("f") }]);
  await one.mount.create("g");
  t.match(other.told[1]?.entries, [{ parent: rootIno, name: Buffer.from("g") }]);
});

await t.test("attributes are told of once, until they are asked for again", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await one.mount.create("f");
  const { ino } = attr;
  await other.mount.read(namespace.getattr, { ino });
  await one.mount.mutate(namespace.setattr, { ino, mode: 0o600 });
  await one.mount.mutate(namespace.setattr, { ino, mode: 0o640 });
  t.equal(other.told.length, 1);
  const again = await other.mount.read(namespace.getattr, { ino });
  t.equal(again.attr.mode & 0o777, 0o640);
  await one.mount.mutate(namespace.setattr, { ino, mode: 0o644 });
  t.equal(other.told.length, 2);
});

await t.test("of a file that it has open, a mount hears everything", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await one.mount.create("f");
  const { ino } = attr;
  await other.mount.mutate(namespace.open, { ino, truncate: false, write: false });
  for (const size of [5, 4, 3]) await one.mount.mutate(namespace.setattr, { ino, size });
  t.same(
    other.told.map(({ inos, contents }) => [inos, contents]),
    Array.from({ length: 3 }, () => [[ino], [ino]]),
  );
});

await t.test("two changes in one commit are both heard of", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await one.mount.create("f");
  const { ino } = attr;
  await other.mount.mutate(namespace.setattr, { ino, mode: 0o666 });
  t.equal(one.told.length, 1, "and has no lease any more");
  // Both requests are in the same group: the second must find the first one's lease.
  await Promise.all([
    one.mount.mutate(namespace.setattr, { ino, mode: 0o600 }),
    other.mount.mutate(namespace.setattr, { ino, mode: 0o640 }),
  ]);
  t.same(
    one.told.map(({ inos }) => inos),
    [[ino], [ino]],
  );
});

/** Resolves with true if `work` has settled after everything that is under way has gone on. */
async function isDone(work: Promise<unknown>): Promise<boolean> {
  let done = false;
  const note = (): void => void (done = true);
  work.then(note, note);
  for (let i = 0; i < 50; i += 1) await new Promise(setImmediate);
  return done;
}

await t.test(
  "a change waits for a mount that is cut off until that believes nothing",
  async (t) => {
    const cluster = await started(t);
    const one = await listener(cluster);
    const other = await listener(cluster);
    const [told, untold] = [await one.mount.create("f"), await one.mount.create("g")];
    await other.mount.read(namespace.getattr, { ino: told.attr.ino });
    other.mount.connection.close("cut off");
    await isDone(Promise.resolve());
    const change = (ino: Ino, mode: number) => one.mount.mutate(namespace.setattr, { ino, mode });
    t.equal(await isDone(change(untold.attr.ino, 0o600)), true, "what it was not told is free");
    const first = change(told.attr.ino, 0o600);
    const second = change(told.attr.ino, 0o640);
    cluster.nowMs += cacheLeaseMs - 1;
    t.same([await isDone(first), await isDone(second)], [false, false]);
    cluster.nowMs += 1 + cacheMarginMs;
    await Promise.all([first, second]);
    t.equal(await isDone(change(told.attr.ino, 0o644)), true, "it is waited for once");
  },
);

await t.test("it is waited for no longer when it is back", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await one.mount.create("f");
  await other.mount.read(namespace.getattr, { ino: attr.ino });
  other.mount.connection.close("cut off");
  await isDone(Promise.resolve());
  const change = one.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o600 });
  t.equal(await isDone(change), false);
  const session = cluster.master.sessions.mounts().find(({ connection }) => !connection);
  const connection = await cluster.dial("mount", new Handlers());
  const opening = { mountpoint: "/m", secret: "s", opens: [], resume: session?.id };
  await connection.call(openSession, opening as RequestOf<typeof openSession>);
  await change;
});

await t.test(
  "a second change waits for what the first one's mount has not dropped yet",
  async (t) => {
    const cluster = await started(t);
    const one = await listener(cluster);
    let drop = (): void => undefined;
    const slow = new Handlers().serve(
      namespace.invalidate,
      () => new Promise<Record<string, never>>((resolve) => (drop = () => resolve({}))),
    );
    const connection = await cluster.dial("mount", slow);
    await connection.call(openSession, { mountpoint: "/m", secret: "s", opens: [] });
    const { attr } = await one.mount.create("f");
    await connection.call(namespace.getattr, { ino: attr.ino });
    const first = one.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o600 });
    t.equal(await isDone(first), false);
    const second = one.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o640 });
    t.equal(await isDone(second), false);
    drop();
    await Promise.all([first, second]);
  },
);

await t.test(
  "a change that is asked for again is not answered before the first time",
  async (t) => {
    const cluster = await started(t);
    const one = await listener(cluster);
    const other = await listener(cluster);
    const { attr } = await one.mount.create("f");
    await other.mount.read(namespace.getattr, { ino: attr.ino });
    other.mount.connection.close("cut off");
    await isDone(Promise.resolve());
    const request = { ino: attr.ino, mode: 0o600, seq: 99, acked: 0 };
    const first = one.mount.connection.call(namespace.setattr, request);
    t.equal(await isDone(first), false);
    const again = one.mount.connection.call(namespace.setattr, request);
    t.equal(await isDone(again), false);
    cluster.nowMs += cacheLeaseMs + cacheMarginMs;
    t.same(await again, await first);
  },
);

await t.test("after a restart nobody knows what mounts believe: they are waited for", async (t) => {
  const cluster = await started(t);
  await listener(cluster);
  await cluster.master.stop();
  await cluster.restart();
  cluster.nowMs -= cacheLeaseMs + cacheMarginMs;
  const one = await listener(cluster);
  const creating = one.mount.create("f");
  t.equal(await isDone(creating), false);
  cluster.nowMs += cacheLeaseMs + cacheMarginMs;
  await creating;
});

await t.test("a mount that was told too much to remember drops everything", (t) => {
  const leases = new Leases(2);
  leases.grant(ino(5), lease.attributes);
  leases.grant(ino(5), lease.contents);
  leases.grant(ino(6), lease.names);
  t.equal(leases.overflowed, false);
  leases.grant(ino(7), lease.attributes);
  t.equal(leases.overflowed, true);
  t.equal(leases.size, 1, "the latest is leased: it is told after the mount has dropped all");
  t.end();
});

await t.test("nobody hears of a removed directory that is reclaimed", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const owner = { mode: 0o755, uid: 0, gid: 0 };
  const { attr } = await one.mount.mutate(namespace.mkdir, { ...named("d"), ...owner });
  await other.mount.read(namespace.lookup, named("d"));
  const removed = await one.mount.mutate(namespace.rmdir, named("d"));
  t.match(removed, { attr: { ino: attr.ino, nlink: 0 }, parent: { ino: rootIno, nlink: 2 } });
  t.equal((await other.mount.read(namespace.getattr, { ino: attr.ino })).attr.nlink, 0);
  other.told.length = 0;
  while (await reclaimTrash(cluster.master.committer)) continue;
  t.equal(cluster.store.count("trash"), 0);
  t.same([...one.told, ...other.told], [], "a shell that works in it still sees it");
});

await t.test("a rename that does nothing leases what it answers", async (t) => {
  const cluster = await started(t);
  const one = await listener(cluster);
  const other = await listener(cluster);
  const { attr } = await other.mount.create("f");
  const link = { ino: attr.ino, ...named("g") };
  await other.mount.mutate(namespace.link, link);
  const reply = await one.mount.mutate(namespace.rename, {
    ...{ ...named("f"), newParent: rootIno, newName: Buffer.from("g") },
    ...{ noReplace: false, exchange: false },
  });
  t.match(reply, { moved: { ino: attr.ino, nlink: 2 }, parent: { ino: rootIno } });
  await other.mount.mutate(namespace.setattr, { ino: attr.ino, mode: 0o600 });
  await other.mount.create("h");
  t.same(
    one.told.map(({ inos }) => inos),
    [[attr.ino], [rootIno]],
  );
});
