import t from "tap";
import type { ChunkCounts } from "../../../master/chunks/census.ts";
import { numberFromKey } from "../../../master/store/bytes.ts";
import { decodeChunk } from "../../../master/store/tables.ts";
import { type ChunkHandle, chunkHandle } from "../../../protocol/id.ts";
import { countCopies, scene, type Scene } from "./support.ts";

/** Missing replicas are copied, the most urgent first. */

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

t.test("a member of a set that has lost its replica gets it anew", async (t) => {
  const all = await scene(t, 3);
  const handles = await all.write(3);
  const [lost] = handles as [ChunkHandle];
  all.server(1).chunks.delete(lost);
  await all.server(1).join(all.cluster);
  await all.healthy();
  for (const handle of handles) t.equal(all.holders(handle).length, 3);
});

t.test("what the master counts is what a count of all records gives", async (t) => {
  const all = await scene(t, 5);
  const { master } = all.cluster;
  const away = new Set<number>();
  const leave = async (index: number): Promise<void> => {
    all.server(index).leave();
    away.add(Number(all.server(index).id));
    await all.rounds();
  };
  const same = (when: string): ChunkCounts => {
    const counted = recount(all, away);
    t.same(
      master.repair.census.counts((id) => master.fleet.isUp(id)),
      counted,
      when,
    );
    return counted;
  };
  const handles = await all.write(30);
  await all.mount.create("without-data");
  t.same(same("when all is well"), { total: 30, belowGoal: 0, lost: 0 });
  await leave(0);
  await all.pass(30_000);
  t.ok(same("while a server is away").belowGoal > 0);
  await master.committer.run((txn) => {
    for (const [i, handle] of handles.slice(0, 20).entries()) {
      txn.putChunk(handle, { ...txn.chunk(handle), goal: 1 + (i % 5) });
    }
  });
  same("when goals have changed");
  await all.rounds();
  same("when as much has been done about that as can be");
  for (let i = 10; i < 20; i += 1) await all.remove(`f${i}`);
  t.equal(same("when files have been deleted").total, 20);
  await leave(1);
  await leave(2);
  await leave(3);
  t.ok(same("when nobody has some of them").lost > 0);
  const { total, belowGoal, lost } = recount(all, away);
  t.match((await all.status()).chunks, { total, belowGoal, lost });
});

/** From the records themselves; who is away is what the test did. */
function recount({ cluster }: Scene, away: ReadonlySet<number>): ChunkCounts {
  const counts = { total: 0, belowGoal: 0, lost: 0 };
  const { committer, chunks } = cluster.master;
  for (const { key, value } of committer.store.range("chunk", { from: Buffer.alloc(0) })) {
    const { written, goal } = decodeChunk(value);
    if (!written) continue;
    const present = chunks.sets.present(chunkHandle(numberFromKey(key, 0)));
    const up = present.filter((id) => !away.has(id)).length;
    counts.total += 1;
    if (up < goal) counts.belowGoal += 1;
    if (up === 0) counts.lost += 1;
  }
  return counts;
}
