import t from "tap";
import { countCopies, scene, type Scene } from "./support.ts";

/** Replicas move to other racks and emptier servers, and those that are too many go. */

const chunkBytes = 1024 * 1024;

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
