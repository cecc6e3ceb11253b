import t from "tap";
import { must } from "../../common/assert.ts";
import { goneMs } from "../../master/fleet/fleet.ts";
import { chunkVersion } from "../../protocol/id.ts";
import { locate } from "../../protocol/methods/chunk.ts";
import * as fleet from "../../protocol/methods/fleet.ts";
import { StatusError } from "../../protocol/status.ts";
import type { MasterCluster, TestServer } from "../support/master-cluster.ts";
import { outcome } from "../support/outcome.ts";
import {
  contentsOf,
  located,
  scene,
  serversOf,
  writtenFile,
  untilDown,
} from "../support/sets-scene.ts";
import { until } from "../support/until.ts";

/** Replicas that may lack bytes, orders whose outcome nobody knows, and what is left over. */

async function gone(cluster: MasterCluster, ...servers: TestServer[]): Promise<void> {
  for (const server of servers) server.leave();
  for (const server of servers) await untilDown(cluster, server);
}

const idOf = (server: TestServer) => must(server.id, "id");

t.test("a replica in doubt does not outvote good ones that are only silent", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "acknowledged");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  await gone(cluster, a, b, c);
  a.chunks.set(grant.handle, { version: grant.version, length: 3, contents: "ack", dirty: true });
  await a.join(cluster);
  t.equal(await outcome(mount.grant(attr)), "unavailable");
  t.same(await located(mount, attr), [b.id, c.id], "readers may reach the others all the same");
  cluster.nowMs += goneMs - 1_000;
  await a.join(cluster);
  t.equal(await outcome(mount.grant(attr)), "unavailable", "not even though they are dead");
  t.equal(contentsOf(b, grant.handle), "acknowledged");
  await b.join(cluster);
  await mount.grant(attr);
  for (const server of [a, b]) t.equal(contentsOf(server, grant.handle), "acknowledged");
});

t.test("when the others are long dead, what a replica in doubt has is what there is", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "acknowledged");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  await gone(cluster, a, b, c);
  a.chunks.set(grant.handle, { version: grant.version, length: 3, contents: "ack", dirty: true });
  cluster.nowMs += goneMs + 1_000;
  await a.join(cluster);
  await mount.grant(attr);
  t.same(await located(mount, attr), [a.id]);
});

t.test("readers are told of servers that may turn out to have the chunk too", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { attr } = await writtenFile(all, "x");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  await cluster.restart();
  const mount = await cluster.mount();
  const more = async (): Promise<boolean | undefined> => {
    const request = { ino: attr.ino, first: 0, count: 1 };
    return (await mount.read(locate, request)).locations[0]?.more;
  };
  await a.join(cluster);
  t.equal(await more(), true);
  await b.join(cluster);
  c.chunks.clear();
  await c.join(cluster);
  t.equal(await more(), undefined, "the third has said that it has not");
});

t.test("a copy that is under way is not deleted as left over", async (t) => {
  const all = await scene(t, 4);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "x");
  const { handle } = grant;
  const holders = serversOf(servers, grant);
  const [old, other] = holders as [TestServer, TestServer];
  const { sets } = cluster.master.chunks;
  await sets.replicasFailed(handle, grant.version, [idOf(old)]);
  let asked = false;
  old.beforeCopy = async () => {
    asked = true;
    // Enough replicas: as when the goal was lowered, or another copy has come first.
    sets.discardStale(handle);
    t.same(await old.beat(), []);
  };
  await sets.addReplica(handle, idOf(old));
  t.ok(asked);
  t.same(await old.beat(), [], "nor afterwards");
  t.ok(sets.present(handle).includes(idOf(old)));
  await sets.dropReplica(handle, idOf(other));
  t.same(await other.beat(), [handle], "what has left the set is");
});

t.test("a member that says it has deleted its replica does not count", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "x");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  const removed = [grant.handle];
  await must(a.connection, "connected").call(fleet.heartbeat, { ...a.usage, removed });
  t.same(await located(mount, attr), [b.id, c.id]);
  t.ok(cluster.master.chunks.sets.find(grant.handle)?.servers.some((id) => id === a.id));
});

t.test("a replica is not dropped when the raise for it has lost another", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "x");
  const { handle } = grant;
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  const { sets } = cluster.master.chunks;
  b.onOrder = () => {
    throw new StatusError("io-error", "the disk fails");
  };
  t.equal(await outcome(sets.dropReplica(handle, idOf(c))), "unavailable");
  t.same(sets.find(handle)?.servers, [a.id]);
  t.same(await c.beat(), [], "its replica may be needed");
  t.same(new Set(sets.stale.of(handle)), new Set([b.id, c.id]));
});

t.test("a version that came about unrecorded leaves every replica in doubt", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { attr, grant } = await writtenFile(all, "old");
  const { handle } = grant;
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  // The raise that the master did not live to record made them forget that they differ.
  const version = chunkVersion(grant.version + 1);
  for (const server of servers) must(server.chunks.get(handle), "replica").version = version;
  for (const server of [a, b]) must(server.chunks.get(handle), "replica").contents = "NEW";
  await cluster.restart();
  for (const server of servers) await server.join(cluster);
  const mount = await cluster.mount();
  t.equal((await located(mount, attr)).length, 3);
  for (const server of [a, b, c]) t.equal(contentsOf(server, handle), "NEW", "made equal");
});

t.test("a clone whose answer was lost is found and deleted if it is not wanted", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "x");
  const { sets } = cluster.master.chunks;
  const late = must(serversOf(servers, grant)[1], "a server");
  late.losesAnswers = true;
  const making = sets.makeCopy(grant.handle, undefined);
  await until("it has carried it out", () => late.connection?.closed === true);
  late.losesAnswers = false;
  await late.join(cluster);
  const copy = must(await making, "a copy");
  t.notOk(copy.servers.includes(idOf(late)));
  t.ok(late.chunks.has(copy.handle), "it did carry it out");
  sets.copyMade(copy, false);
  await cluster.master.committer.synced();
  await new Promise(setImmediate);
  t.same(await late.beat(), [copy.handle]);
});

t.test("what a failed copy may have left is deleted once the chunk has its replicas", async (t) => {
  const all = await scene(t, 4);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "x");
  const { handle } = grant;
  const spare = must(
    servers.find((server) => !serversOf(servers, grant).includes(server)),
    "a fourth server",
  );
  const { sets } = cluster.master.chunks;
  spare.onOrder = (order) => {
    if (order !== "copyChunk") return;
    spare.write(grant, "x");
    throw new StatusError("io-error", "after it was there");
  };
  t.equal(await outcome(sets.addReplica(handle, idOf(spare))), "io-error");
  sets.discardStale(handle);
  t.same(await spare.beat(), [handle]);
});

t.test(
  "what a server holds and nobody knows of is deleted; what belongs there stays",
  async (t) => {
    const all = await scene(t, 4);
    const { cluster, servers, mount } = all;
    const { attr, grant } = await writtenFile(all, "x");
    const { sets } = cluster.master.chunks;
    const deleted = must(await sets.makeCopy(grant.handle, undefined), "a copy");
    sets.copyMade(deleted, false);
    const spare = must(
      servers.find((server) => !serversOf(servers, grant).includes(server)),
      "a fourth server",
    );
    const [member] = serversOf(servers, grant) as [TestServer];
    const handles = [grant.handle, deleted.handle];
    for (const server of [spare, member]) {
      await must(server.connection, "connected").call(fleet.holdings, { handles });
    }
    sets.discardStale(grant.handle);
    t.same(new Set(await spare.beat()), new Set(handles));
    t.same(await member.beat(), [deleted.handle]);
    t.equal((await located(mount, attr)).length, 3);
  },
);
