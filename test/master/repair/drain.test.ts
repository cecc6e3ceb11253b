import t from "tap";
import { must } from "../../../common/assert.ts";
import { type ChunkHandle, chunkVersion } from "../../../protocol/id.ts";
import * as admin from "../../../protocol/methods/admin.ts";
import type { StatusError } from "../../../protocol/status.ts";
import { outcome } from "../../support/outcome.ts";
import { scene } from "./support.ts";

/** Chunk servers are emptied and forgotten. */

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
