import t from "tap";
import * as admin from "../../../protocol/methods/admin.ts";
import { countCopies, scene } from "./support.ts";

/** Chunk servers in maintenance, and with disks that fail or are full. */

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
