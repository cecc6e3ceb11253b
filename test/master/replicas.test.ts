import t from "tap";
import { createFile, makeDirectory } from "../../master/namespace/ops/create.ts";
import { countReplicas, type Item, setReplicas } from "../../master/namespace/ops/replicas.ts";
import { rowsPerStepMax, shareChunks } from "../../master/namespace/ops/ranges.ts";
import type { Txn } from "../../master/namespace/txn.ts";
import { type Ino, rootIno } from "../../protocol/id.ts";
import { newTestStore } from "../support/test-store.ts";
import { chunkBytes, TestNamespace } from "../support/namespace.ts";

const owner = { uid: 0, gid: 0 };

async function file(ns: TestNamespace, name: string, chunks: number): Promise<Ino> {
  const { ino } = await ns.run((txn) =>
    createFile(txn, {
      ...{ parent: rootIno, name: Buffer.from(name), mode: 0o644, exclusive: true },
      ...owner,
    }),
  );
  for (let index = 0; index < chunks; index += 1) await ns.write(ino, index, "x");
  return ino;
}

function goals(ns: TestNamespace, ino: Ino): Promise<number[]> {
  return ns.run((txn) => {
    const rows = [...txn.rows("chunkmap", ino)];
    return rows.map((_, index) => goalOf(txn, ino, index));
  });
}

function goalOf(txn: Txn, ino: Ino, index: number): number {
  const ref = txn.findChunkRef(ino, index);
  if (!ref) throw new Error(`no chunk ${index}`);
  return txn.chunk(ref.handle).goal;
}

/** What has no data is a hole to others. */
function commitData(ns: TestNamespace, ino: Ino, indexes: readonly number[]): Promise<void> {
  return ns.run((txn) => {
    for (const index of indexes) {
      const ref = txn.findChunkRef(ino, index);
      if (ref) txn.putChunk(ref.handle, { ...txn.chunk(ref.handle), written: true });
    }
  });
}

const all = (...inos: Ino[]): Item[] => inos.map((ino) => ({ ino, from: 0 }));

t.test("a file's goal is that of its chunks, up and down, and its times stay", async (t) => {
  const ns = new TestNamespace(await newTestStore());
  const ino = await file(ns, "a", 3);
  const before = ns.reader.getattr(ino, undefined);
  for (const replicas of [5, 1, 32]) {
    const step = await ns.run((txn) => setReplicas(txn, { items: all(ino), replicas }));
    t.same(step, { done: 1, from: 0, inodes: 1, chunks: 3 });
    t.same(await goals(ns, ino), [replicas, replicas, replicas]);
    const again = await ns.run((txn) => setReplicas(txn, { items: all(ino), replicas }));
    t.match(again, { inodes: 0, chunks: 0 }, "what is so already is not touched");
  }
  t.same(ns.reader.getattr(ino, undefined), before);
  await ns.write(ino, 3, "y");
  t.same(await goals(ns, ino), [32, 32, 32, 32], "a new chunk has the file's");
});

t.test("what is made in a directory inherits its goal", async (t) => {
  const ns = new TestNamespace(await newTestStore());
  await ns.run((txn) => setReplicas(txn, { items: all(rootIno), replicas: 2 }));
  const made = await ns.run((txn) =>
    makeDirectory(txn, { parent: rootIno, name: Buffer.from("d"), mode: 0o755, ...owner }),
  );
  const ino = await file(ns, "a", 1);
  t.equal(made.inode.replicas, 2);
  t.same(await goals(ns, ino), [2]);
});

t.test("a shared chunk has the largest of its goals, and a copy its own file's", async (t) => {
  const ns = new TestNamespace(await newTestStore());
  const one = await file(ns, "one", 1);
  const two = await file(ns, "two", 0);
  await commitData(ns, one, [0]);
  await ns.run((txn) => setReplicas(txn, { items: all(two), replicas: 4 }));
  await ns.run((txn) =>
    shareChunks(txn, {
      ...{ source: one, at: undefined, ino: two, chunkBytes },
      ...{ offset: 0, targetOffset: 0, length: chunkBytes },
    }),
  );
  t.same(await goals(ns, one), [4], "raised when it is shared");
  await ns.run((txn) => setReplicas(txn, { items: all(one, two), replicas: 1 }));
  t.same(await goals(ns, two), [4], "not lowered while it is");
  await ns.run((txn) => setReplicas(txn, { items: all(one), replicas: 6 }));
  t.same(await goals(ns, two), [6], "but raised");
  await ns.snapshot(rootIno, "s");
  const kept = await file(ns, "kept", 1);
  await ns.snapshot(rootIno, "s2");
  await ns.run((txn) => setReplicas(txn, { items: all(kept), replicas: 1 }));
  t.same(await goals(ns, kept), [3], "a snapshot keeps it up too");
  await ns.write(kept, 0, "new");
  t.same(await goals(ns, kept), [1], "the copy that a write makes is the file's alone");
  t.same(ns.check(), []);
});

t.test("a step changes so many rows, and the next goes on there", async (t) => {
  const ns = new TestNamespace(await newTestStore());
  const big = await file(ns, "big", rowsPerStepMax + 10);
  const small = await file(ns, "small", 2);
  let items = all(small, big, small);
  const steps: { done: number; from: number; chunks: number }[] = [];
  while (items.length > 0) {
    const step = await ns.run((txn) => setReplicas(txn, { items, replicas: 2 }));
    steps.push(step);
    const [next, ...rest] = items.slice(step.done);
    items = next ? [{ ...next, from: step.from }, ...rest] : [];
  }
  t.equal(steps.length, 2);
  t.ok(steps.every(({ chunks }) => chunks <= rowsPerStepMax));
  t.same(new Set(await goals(ns, big)), new Set([2]));
});

t.test("chunks are counted against their goals", async (t) => {
  const ns = new TestNamespace(await newTestStore());
  const ino = await file(ns, "a", 4);
  await commitData(ns, ino, [0, 1, 2]);
  const first = await ns.run((txn) => txn.findChunkRef(ino, 0)?.handle ?? 0);
  const counts = countReplicas(ns.store, all(rootIno, ino), (handle) => 2 + handle - first);
  t.same(counts, {
    ...{ done: 2, from: 0 },
    goals: [{ goal: 3, inodes: 2 }],
    chunks: { total: 3, belowGoal: 1, atGoal: 1, aboveGoal: 1 },
  });
});
