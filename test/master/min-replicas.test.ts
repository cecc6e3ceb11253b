import t, { type Test } from "tap";
import * as chunk from "../../protocol/methods/chunk.ts";
import { setReplicas } from "../../protocol/methods/namespace.ts";
import { MasterCluster, type TestMount, testServers } from "../support/master-cluster.ts";
import { outcome } from "../support/outcome.ts";
import { newTestStore } from "../support/test-store.ts";

/** `--min-replicas`: writers wait rather than go on with too few servers. */

async function scene(test: Test, minReplicas: number) {
  const cluster = new MasterCluster(await newTestStore());
  cluster.master.chunks.sets.minReplicas = minReplicas;
  await cluster.start();
  const servers = testServers(3);
  for (const server of servers) await server.join(cluster);
  test.teardown(() => cluster.stop());
  const mount: TestMount = await cluster.mount();
  const { attr } = await mount.create("f");
  const grant = await mount.grant(attr);
  for (const server of servers) server.write(grant, "contents");
  await mount.commit(attr, grant, 8);
  return { cluster, servers, mount, attr, grant };
}

t.test("writers wait while fewer servers than that are there, and readers do not", async (t) => {
  const { cluster, servers, mount, attr, grant } = await scene(t, 2);
  const [a, b, c] = servers;
  c?.leave();
  const two = await mount.grant(attr);
  t.equal(two.replicas.length, 2, "two are enough");
  b?.leave();
  t.equal(await outcome(mount.grant(attr)), "unavailable", "one is not");
  t.equal(await outcome(mount.grant(attr, 1)), "unavailable", "for a new chunk neither");
  t.equal((await mount.create("g")).grant, undefined, "nor with a new file");
  const { locations } = await mount.read(chunk.locate, { ino: attr.ino, first: 0, count: 1 });
  t.equal(locations[0]?.version, two.version, "it can be read, and its version has not changed");
  t.ok(locations[0]?.replicas.some(({ server }) => server === a?.id));
  await b?.join(cluster);
  const again = await mount.grant(attr);
  t.equal(again.version, two.version, "who comes back has missed nothing");
  t.equal(again.replicas.length, 2);
  t.equal(again.handle, grant.handle);
});

t.test("a file that shall have fewer replicas needs no more than those", async (t) => {
  const { servers, mount, attr } = await scene(t, 2);
  const items = [{ ino: attr.ino, from: 0 }];
  await mount.mutate(setReplicas, { items, replicas: 1 });
  for (const server of servers.slice(1)) server.leave();
  t.equal((await mount.grant(attr)).replicas.length, 1);
  t.equal((await mount.grant(attr, 1)).replicas.length, 1);
});

t.test(
  "a write that fails on too many is not granted again with those that are left",
  async (t) => {
    const { servers, mount, attr, grant } = await scene(t, 2);
    const { handle, version } = grant;
    const failed = { handle, version, servers: servers.slice(1).flatMap(({ id }) => id ?? []) };
    const retry = mount.mutate(chunk.grant, { ino: attr.ino, index: 0, failed });
    t.equal(await outcome(retry), "unavailable");
  },
);

t.test("a chunk without committed data, which repair does not see, gets servers", async (t) => {
  for (const hasData of [true, false]) {
    const { servers, mount } = await scene(t, 2);
    const { attr } = await mount.create("new");
    const grant = await mount.grant(attr);
    const { handle, version } = grant;
    const [a, ...others] = servers;
    if (hasData) a?.write(grant, "of one");
    const failed = { handle, version, servers: others.flatMap(({ id }) => id ?? []) };
    const wanted = { ino: attr.ino, index: 0 };
    const retry = (await mount.mutate(chunk.grant, { ...wanted, failed })).grant;
    t.equal(retry.handle, handle, "what was written is still in it");
    t.equal(retry.replicas.length, 2);
    const holders = servers.filter(({ id }) => retry.replicas.some(({ server }) => server === id));
    const contents = holders.map((server) => server.chunks.get(handle)?.contents);
    t.same(contents, hasData ? ["of one", "of one"] : [undefined, undefined]);
  }
});
