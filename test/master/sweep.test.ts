import t from "tap";
import { must } from "../../common/assert.ts";
import { rootIno } from "../../protocol/id.ts";
import { createFile } from "../../master/namespace/ops/create.ts";
import { parseHistoryKey } from "../../master/store/history.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import { TestNamespace } from "../support/namespace.ts";

/** Taking back what only a deleted snapshot showed. */

t.test("a damaged record of history stays, and keeps no other one from being swept", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const inos = [];
  for (const text of ["a", "b", "c"]) {
    const name = Buffer.from(text);
    const wanted = { parent: rootIno, name, mode: 0o644, uid: 0, gid: 0, exclusive: true };
    const { ino } = await real.run((txn) => createFile(txn, wanted));
    await real.write(ino, 0, `old${text}`);
    inos.push(ino);
  }
  await real.snapshot(rootIno, "s");
  for (const ino of inos) await real.write(ino, 0, "new!");
  const history = [...real.store.range("history", { from: Buffer.alloc(0) })];
  t.ok(history.length > 3);
  const first = must(
    history.find(({ key }) => parseHistoryKey(key)?.table === "chunkmap"),
    "a row of a file's chunks",
  );
  const damaged = Buffer.from(first.value);
  damaged[damaged.length - 1] = (damaged.at(-1) ?? 0) ^ 1;
  real.store.write((writer) => writer.put("history", Buffer.from(first.key), damaged));
  await real.dropSnapshot(rootIno, "s");
  t.equal(real.store.count("history"), 1, "only the damaged one is left");
  t.equal(real.damaged.length, 1, "and it was told");
});
