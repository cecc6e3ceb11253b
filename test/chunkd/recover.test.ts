import { existsSync, rmSync } from "node:fs";
import t from "tap";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { get, kib, put } from "./store-support.ts";
import { h, openTestStore, pattern, TamperedDisk, temporaryDirectory, v } from "./support.ts";

/** What a loss of power leaves of a chunk server, as it finds it. */

t.test("a deletion that a crash cut short is noted until it is on the disk", async (t) => {
  const root = temporaryDirectory(t);
  const first = await openTestStore(root);
  await put(first.store, h(1), pattern(100 * kib, 1));
  await first.store.index.remove(h(1), { file: true }).flushed();
  const file = first.store.files.path(h(1));
  await first.close();
  const failing = new TamperedDisk();
  failing.fail("recover.sync-dir", "EIO");
  const second = await openTestStore(root, { registered: true, disk: failing.disk });
  t.notOk(existsSync(file));
  await second.store.index.flushed();
  t.same(second.store.index.removals(), [1], "a loss of power would bring it back");
  await second.close();
  const tampered = new TamperedDisk();
  const third = await openTestStore(root, { registered: true, disk: tampered.disk });
  t.teardown(third.close);
  await third.store.index.flushed();
  t.same(third.store.index.removals(), []);
  t.ok(tampered.steps.includes("recover.sync-dir"), "though the file was gone");
});

t.test(
  "a new file's name that is lost with the power leaves an empty chunk in doubt",
  async (t) => {
    const root = temporaryDirectory(t);
    const first = await openTestStore(root);
    await put(first.store, h(1), pattern(300 * kib, 1));
    await raiseVersion(first.store, { handle: h(1), version: v(1), newVersion: v(2) });
    const file = first.store.files.path(h(1));
    await first.close();
    rmSync(file); // The record was flushed with the new version, the directory never.
    const { store, close } = await openTestStore(root, { registered: true });
    t.teardown(close);
    t.same(store.faults.bad(), [], "nothing was lost that anybody had synced");
    t.ok(store.faults.isDoubtful(h(1)), "the master is told to compare it");
    t.equal((await get(store, h(1), { version: 2 })).length, 0);
  },
);
