import t from "tap";
import { Remover } from "../../chunkd/background/remover.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import { copyChunk, raiseVersion } from "../../protocol/methods/chunk.ts";
import { get, kib, put } from "./store-support.ts";
import {
  barrier,
  FakeMaster,
  h,
  openTestStore,
  pattern,
  replicaOf,
  startServer,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  TestClient,
  until,
  v,
} from "./support.ts";

/** What the master says is to be deleted, and what it has copied anew meanwhile. */

t.test("a deletion ordered before a copy never takes the copy", async (t) => {
  const master = await new FakeMaster().start(t);
  const [source, target] = [await startServer(t, master), await startServer(t, master)];
  const client = new TestClient(t);
  const bytes = pattern(300 * kib, 1);
  for (const server of [source, target]) {
    await client.write([replicaOf(server)], bytes, { handle: h(1) });
  }
  const raise = { handle: h(1), version: v(1), newVersion: v(2) };
  await master.to(source).call(raiseVersion, raise);
  // Both go out in one turn, so they arrive in one piece: the reply, then the order.
  let copied: Promise<string> | undefined;
  const order = { handle: h(1), version: v(2), sources: [replicaOf(source)], draft: false };
  master.onBeat = (connection) => {
    if (copied || connection !== master.to(target)) return [];
    process.nextTick(() => {
      copied = statusFrom(connection.call(copyChunk, order));
    });
    return [h(1)];
  };
  await until(() => copied !== undefined);
  t.equal(await copied, "ok");
  const beats = master.beats.length;
  await until(() => master.beats.length >= beats + 6);
  const read = client.read(replicaOf(target), { handle: h(1), version: v(2) });
  t.equal(await statusFrom(read), "ok");
});

t.test("a deletion that ends after a copy was ordered is not reported", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  const held = barrier();
  const work: Promise<void>[] = [];
  const remover = new Remover({ store, run: (some) => void work.push(some()) });
  for (const handle of [h(1), h(2)]) await put(store, handle, pattern(100 * kib, handle));
  tampered.before = (site) => (site === "remove.sync-dir" ? held.passed : undefined);
  remover.add([h(1), h(2)]);
  await until(() => tampered.steps.filter((site) => site === "remove.sync-dir").length === 2);
  remover.cancel(h(1));
  held.open();
  await Promise.all(work);
  t.same(remover.removed(), [2], "the master may want the copy deleted, and that was not done");
});

t.test("many deletions are all made, and those that come meanwhile", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const handles = Array.from({ length: 300 }, (_, i) => h(i + 1));
  await Promise.all(handles.map((handle) => put(store, handle, pattern(10, handle))));
  const work: Promise<void>[] = [];
  const remover = new Remover({ store, run: (some) => void work.push(some()) });
  remover.add(handles.slice(0, 200));
  remover.cancel(h(150));
  await removeChunk(store, h(250));
  remover.add(handles.slice(200));
  await Promise.all(work);
  t.equal(remover.removed().length, 299);
  t.equal(store.table.count, 1);
  t.ok((await get(store, h(150))).equals(pattern(10, 150)));
});
