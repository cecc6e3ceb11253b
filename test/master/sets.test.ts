import t from "tap";
import { must } from "../../common/assert.ts";
import { ino, rootIno } from "../../protocol/id.ts";
import { createSnapshot } from "../../protocol/methods/admin.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import * as fleet from "../../protocol/methods/fleet.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import type { TestServer } from "../support/master-cluster.ts";
import { StatusError } from "../../protocol/status.ts";
import { outcome } from "../support/outcome.ts";
import {
  contentsOf,
  failedBy,
  located,
  scene,
  serverIds,
  serversOf,
  untilDown,
  writtenFile,
} from "../support/sets-scene.ts";
import { until } from "../support/until.ts";

/** Who may be granted what, when servers come, go, and lie in the past. */

t.test("after a restart of the master, part of a set is not taken for the whole", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { attr, grant } = await writtenFile(all, "old");
  await cluster.restart();
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  await a.join(cluster);
  const mount = await cluster.mount();
  t.equal(await outcome(mount.grant(attr)), "unavailable", "the others may yet come");
  await b.join(cluster);
  await c.join(cluster);
  const again = await mount.grant(attr);
  t.equal(again.version, grant.version, "all are back: nothing has changed");
  t.equal(again.replicas.length, 3);
});

t.test("a file that is no more has no holes", async (t) => {
  const all = await scene(t, 1);
  const { attr } = await writtenFile(all, "x");
  const gone = { ...attr, ino: ino(attr.ino + 1000) };
  t.equal(await outcome(located(all.mount, gone)), "stale");
});

t.test("who does not come back leaves the set, and its replica is out of date", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { attr, grant } = await writtenFile(all, "old");
  await cluster.restart();
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  await a.join(cluster);
  await b.join(cluster);
  const mount = await cluster.mount();
  cluster.nowMs += 20_000;
  for (const server of [a, b]) await server.join(cluster);
  const without = await mount.grant(attr);
  t.ok(without.version > grant.version, "the version was raised");
  t.same(serverIds(without.replicas), [a.id, b.id]);
  a.write(without, "new");
  b.write(without, "new");
  await c.join(cluster);
  t.same(await located(mount, attr), [a.id, b.id], "nobody is sent to the late one");
  t.equal(contentsOf(c, grant.handle), "old", "most of a copy may be there already, so it stays");
  await cluster.master.chunks.sets.addReplica(grant.handle, must(c.id, "id"));
  t.equal(contentsOf(c, grant.handle), "new");
  t.same(await located(mount, attr), [a.id, b.id, c.id], "until it is up to date");
});

t.test("a server whose answer was lost is out of date, though it has the version", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "old");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  b.losesAnswers = true;
  const failed = failedBy(grant, c);
  const reply = await mount.mutate(chunk.grant, { ino: attr.ino, index: 0, failed });
  t.same(
    reply.grant.replicas.map(({ server }) => server),
    [a.id],
    "only who has answered",
  );
  t.equal(b.chunks.get(grant.handle)?.version, reply.grant.version, "it did carry it out");
  a.write(reply.grant, "new");
  b.losesAnswers = false;
  await b.join(cluster);
  t.notOk((await located(mount, attr)).includes(Number(b.id)));
  t.same([...cluster.master.chunks.sets.stale.of(grant.handle)], [c.id, b.id]);
});

t.test("a replica from before is deleted when the chunk has its replicas elsewhere", async (t) => {
  const all = await scene(t, 4);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "old");
  const holders = serversOf(servers, grant);
  const [gone] = holders as [TestServer];
  const spare = must(
    servers.find((server) => !holders.includes(server)),
    "a fourth server",
  );
  const failed = failedBy(grant, gone);
  await mount.mutate(chunk.grant, { ino: attr.ino, index: 0, failed });
  const { sets } = cluster.master.chunks;
  await sets.addReplica(grant.handle, must(spare.id, "id"));
  sets.discardStale(grant.handle);
  t.same(await gone.beat(), [grant.handle]);
  for (const server of holders) if (server !== gone) t.same(await server.beat(), []);
});

t.test("replicas are made equal after a write that failed, whoever tells of it", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "old");
  const [primary, second] = grant.replicas.map(({ server }) =>
    must(
      servers.find(({ id }) => id === server),
      "a server",
    ),
  ) as [TestServer, TestServer];
  // It reached the first two, the client died, and the chain's last one had it refused.
  for (const server of [primary, second]) {
    server.write(grant, "new");
    must(server.chunks.get(grant.handle), "its replica").uneven = true;
  }
  const failed = { handle: grant.handle, version: grant.version, servers: [] };
  await must(primary.connection, "connected").call(fleet.writeFailed, failed);
  await cluster.master.fleetService.settleFailedWrites();
  const now = must(cluster.master.chunks.sets.find(grant.handle), "the chunk");
  t.ok(now.version > grant.version, "what is still on its way is refused");
  t.equal(now.servers.length, 3);
  const contents = new Set(servers.map((server) => contentsOf(server, grant.handle)));
  t.equal(contents.size, 1);
  t.equal((await located(mount, attr)).length, 3);
  await must(second.connection, "connected").call(fleet.writeFailed, failed);
  await cluster.master.fleetService.settleFailedWrites();
  const { version } = must(cluster.master.chunks.sets.find(grant.handle), "the chunk");
  t.equal(version, now.version, "telling it twice changes nothing");
});

t.test("what only a server knows that was cut off is no measure for the others", async (t) => {
  const all = await scene(t, 2);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "old");
  const [late, other] = servers as [TestServer, TestServer];
  late.write(grant, "NEW");
  must(late.chunks.get(grant.handle), "its replica").uneven = true;
  const failed = { handle: grant.handle, version: grant.version, servers: [] };
  await must(late.connection, "connected").call(fleet.writeFailed, failed);
  await cluster.master.fleetService.settleFailedWrites();
  for (const server of [late, other]) t.equal(contentsOf(server, grant.handle), "old");
});

t.test("a server leaves a set only if all others are there", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "x");
  const { sets } = cluster.master.chunks;
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  c.leave();
  await untilDown(cluster, c);
  t.equal(await outcome(sets.dropReplica(grant.handle, must(a.id, "id"))), "unavailable");
  t.equal(sets.find(grant.handle)?.version, grant.version, "nothing has changed");
  await c.join(cluster);
  await sets.dropReplica(grant.handle, must(a.id, "id"));
  t.same(await located(mount, attr), [b.id, c.id]);
  t.same(await a.beat(), [grant.handle]);
});

t.test("a replica that lost what was written is copied from one that did not", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "acknowledged");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  a.leave();
  a.chunks.set(grant.handle, { version: grant.version, length: 3, contents: "ack", dirty: true });
  await a.join(cluster);
  t.notOk((await located(mount, attr)).includes(Number(a.id)), "not read until compared");
  await mount.grant(attr);
  for (const server of [a, b, c]) t.equal(contentsOf(server, grant.handle), "acknowledged");
  t.equal((await located(mount, attr)).length, 3, "then it counts again");
});

t.test("a replica in doubt never counts because of another server's failure", async (t) => {
  const all = await scene(t);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "acknowledged");
  const [a, b, c] = servers as [TestServer, TestServer, TestServer];
  for (const server of servers) server.hidesChecksums = true;
  a.leave();
  a.chunks.set(grant.handle, { version: grant.version, length: 3, contents: "ack", dirty: true });
  await a.join(cluster);
  t.equal(await outcome(mount.grant(attr)), "unavailable", "nothing could be compared");
  t.notOk((await located(mount, attr)).includes(Number(a.id)), "so it is still not read");
  const version = cluster.master.chunks.sets.find(grant.handle)?.version ?? grant.version;
  const failed = failedBy({ ...grant, version }, c);
  const reply = await mount.mutate(chunk.grant, { ino: attr.ino, index: 0, failed });
  t.same(serverIds(reply.grant.replicas), [b.id], "nor written, when the third one fails");
  t.same(await located(mount, attr), [b.id]);
});

t.test("when all replicas were being written, the longest is the one that is kept", async (t) => {
  const all = await scene(t);
  const { cluster, servers } = all;
  const { attr, grant } = await writtenFile(all, "acknowledged");
  await cluster.restart();
  const lengths = [3, 12, 5];
  for (const [i, server] of servers.entries()) {
    const contents = "acknowledged".slice(0, lengths[i]);
    const { version } = grant;
    server.chunks.set(grant.handle, { version, length: contents.length, contents, dirty: true });
    await server.join(cluster);
  }
  const mount = await cluster.mount();
  t.equal((await located(mount, attr)).length, 3, "readable once they are equal");
  for (const server of servers) t.equal(contentsOf(server, grant.handle), "acknowledged");
});

t.test("a client that could reach nobody for a moment gets another grant", async (t) => {
  const all = await scene(t, 1);
  const { servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "x");
  const failed = failedBy(grant, must(servers[0], "server"));
  const reply = await mount.mutate(chunk.grant, { ino: attr.ino, index: 0, failed });
  t.ok(reply.grant.version > grant.version);
  t.equal(reply.grant.replicas.length, 1);
});

t.test("two mounts are granted a chunk with the same primary", async (t) => {
  const all = await scene(t);
  const { attr, grant } = await writtenFile(all, "x");
  const other = await all.cluster.mount();
  t.same((await other.grant(attr)).replicas, grant.replicas, "and the same chain");
});

t.test("a snapshot while a new chunk is being written keeps what was acknowledged", async (t) => {
  const all = await scene(t);
  const { servers, mount } = all;
  const { attr } = await mount.create("f");
  const first = await mount.grant(attr);
  for (const server of servers) server.write(first, "piece 1");
  await mount.mutate(createSnapshot, { dir: rootIno, name: Buffer.from("s") });
  const second = await mount.grant(attr);
  t.not(second.handle, first.handle, "a copy of its own");
  for (const server of servers) t.equal(contentsOf(server, second.handle), "piece 1");
});

t.test("truncating a chunk without data, which a snapshot shows, needs no server", async (t) => {
  const { mount } = await scene(t);
  const { attr } = await mount.create("f");
  const resize = (size: number) => mount.mutate(namespace.setattr, { ino: attr.ino, size });
  await resize(1000);
  await mount.mutate(createSnapshot, { dir: rootIno, name: Buffer.from("s") });
  t.equal((await resize(500)).attr.size, 500);
  t.equal((await mount.grant(attr)).fresh, true, "it is a hole, which gets a new chunk");
});

t.test(
  "truncation reaches the servers before it is answered, and growing shows zeros",
  async (t) => {
    const all = await scene(t);
    const { servers, mount } = all;
    const { attr, grant } = await writtenFile(all, "0123456789");
    await mount.mutate(namespace.setattr, { ino: attr.ino, size: 4 });
    for (const server of servers) t.equal(contentsOf(server, grant.handle), "0123");
    t.ok((await mount.grant(attr)).version > grant.version, "older grants are turned away");
  },
);

t.test("bytes that were written and never committed do not show when the file grows", async (t) => {
  const all = await scene(t);
  const { servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "0123");
  for (const server of servers) server.write(grant, "0123 of a mount that died");
  await mount.mutate(namespace.setattr, { ino: attr.ino, size: 20 });
  await located(mount, attr);
  for (const server of servers) t.equal(contentsOf(server, grant.handle), "0123");
});

t.test("a server that registers while a snapshot is taken is told the new epoch", async (t) => {
  const { cluster, servers, mount } = await scene(t);
  const late = servers[2] as TestServer;
  const before = Number(late.epoch);
  late.losesAnswers = true;
  const taken = mount.mutate(createSnapshot, { dir: rootIno, name: Buffer.from("s") });
  await until("it is cut off", () => late.connection?.closed === true);
  late.losesAnswers = false;
  await late.join(cluster);
  t.ok(Number(late.epoch) > before, "before the snapshot is even recorded");
  const { snapshot } = await taken;
  t.equal(snapshot.epoch, before);
});

t.test("replicas that are all bad are mended from each other, or stay as they are", async (t) => {
  const all = await scene(t, 2);
  const { cluster, servers, mount } = all;
  const { attr, grant } = await writtenFile(all, "x");
  const orders: string[] = [];
  let mendable = false;
  for (const server of servers) {
    server.onOrder = (order) => {
      orders.push(order);
      if (order === "draft" && !mendable) throw new StatusError("corrupt", "the same block");
    };
  }
  const { handle, version } = grant;
  const { fleetService } = cluster.master;
  const [a, b] = servers as [TestServer, TestServer];
  const report = { handle, version, reason: "a CRC" };
  b.leave();
  await untilDown(cluster, b);
  await must(a.connection, "connected").call(fleet.replicaBad, report);
  await b.join(cluster);
  await must(b.connection, "connected").call(fleet.replicaBad, report);
  await fleetService.bad.mend();
  t.same(orders, ["draft", "draft"], "what could not be fetched changes nothing");
  t.same((await located(mount, attr)).length, 2, "what is good of them is still read");
  mendable = true;
  await fleetService.bad.mend();
  t.equal(orders.length, 2, "and is not tried again at once");
  cluster.nowMs += 600_000;
  for (const server of servers) await server.join(cluster);
  await fleetService.bad.mend();
  const mended = ["draft", "raiseVersion", "copyChunk"];
  t.same(orders.slice(2), [...mended, ...mended]);
  t.equal((await located(mount, attr)).length, 2);
});

t.test(
  "a chunk that all its servers say they do not have is lost, and not waited for",
  async (t) => {
    const all = await scene(t, 1);
    const { cluster, servers, mount } = all;
    const { attr, grant } = await writtenFile(all, "x");
    const [only] = servers as [TestServer];
    only.leave();
    await untilDown(cluster, only);
    t.equal(await outcome(mount.grant(attr)), "unavailable", "it may come back, and have it");
    only.chunks.delete(grant.handle);
    await only.join(cluster);
    t.equal(await outcome(mount.grant(attr)), "lost");
    t.equal(await outcome(located(mount, attr)), "lost", "for readers too");
  },
);

t.test("a server that gets a copy is not told any more to delete what it had", async (t) => {
  const all = await scene(t, 4);
  const { cluster, servers } = all;
  const { grant } = await writtenFile(all, "x");
  const { handle } = grant;
  const holders = serversOf(servers, grant);
  const [gone] = holders as [TestServer];
  const { sets } = cluster.master.chunks;
  await sets.dropReplica(handle, must(gone.id, "id"));
  await sets.addReplica(handle, must(gone.id, "id"));
  t.ok(
    sets.find(handle)?.servers.some((id) => id === gone.id),
    "it is a member again",
  );
  t.same(await gone.beat(), []);
});
