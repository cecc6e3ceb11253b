import t from "tap";
import { chunkHandle, type Ino } from "../../protocol/id.ts";
import { allocate, copyRange, setattr } from "../../protocol/methods/namespace.ts";
import { addChunk, commitWrite } from "../../master/namespace/ops/contents.ts";
import { rowsPerStepMax } from "../../master/namespace/ops/ranges.ts";
import { statusOf } from "../../protocol/status.ts";
import { newTestStore } from "../support/test-store.ts";
import { MasterCluster, type TestMount } from "../support/master-cluster.ts";

/** Ranges of very many chunks: done in transactions of a bounded size, with the same result. */

const chunkBytes = 1024 * 1024;

async function bigFile(
  cluster: MasterCluster,
  mount: TestMount,
  chunks: number,
): Promise<{ ino: Ino; size: number }> {
  const { attr } = await mount.create(`f${chunks}`);
  const size = chunks * chunkBytes;
  await cluster.master.committer.run((txn) => {
    const written = [];
    for (let index = 0; index < chunks; index += 1) {
      const handle = txn.newHandle();
      addChunk(txn, { ino: attr.ino, index, handle, servers: [] });
      written.push({ index, handle });
    }
    commitWrite(txn, { ino: attr.ino, size, mtime: 1n, written });
  });
  return { ino: attr.ino, size };
}

t.test("files of very many chunks are cut, punched and shared a step at a time", async (t) => {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  t.teardown(() => cluster.stop());
  const mount = await cluster.mount();
  const chunks = 2 * rowsPerStepMax + 10;
  const { ino, size } = await bigFile(cluster, mount, chunks);
  const target = (await mount.create("copy")).attr.ino;
  const counts: number[] = [];
  for (let offset = 0; offset < size;) {
    const range = { source: ino, offset, ino: target, targetOffset: offset, length: size - offset };
    const { copied } = await mount.mutate(copyRange, range);
    counts.push(copied / chunkBytes);
    offset += copied;
  }
  t.same(counts, [rowsPerStepMax, rowsPerStepMax, 10]);
  const inodeOf = (which: Ino) => cluster.master.reader.inode(which, undefined);
  t.match(inodeOf(target), { size, chunks });

  const hole = { offset: 1, length: size - chunkBytes, punch: true, grow: false };
  await mount.mutate(allocate, { ino: target, ...hole });
  t.match(inodeOf(target), { size, chunks: 2 }, "the chunks at the range's ends stay");
  await mount.mutate(setattr, { ino, size: 3 * chunkBytes });
  t.match(inodeOf(ino), { size: 3 * chunkBytes, chunks: 3 });
  t.equal(cluster.store.count("chunk"), 4, "what nobody refers to is gone");
  t.equal(cluster.master.chunks.sets.find(chunkHandle(1))?.refs, 2, "the first is shared");
});

t.test("room is promised only where it is", async (t) => {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  t.teardown(() => cluster.stop());
  const mount = await cluster.mount();
  const { ino } = await bigFile(cluster, mount, 3);
  const range = { ino, offset: 0, punch: false, grow: true };
  await mount.mutate(allocate, { ...range, length: 3 * chunkBytes });
  const more = mount.mutate(allocate, { ...range, length: 3 * chunkBytes + 1 });
  t.equal(await more.then(() => "done", statusOf), "no-space");
  const far = mount.mutate(allocate, { ...range, offset: Number.MAX_SAFE_INTEGER, length: 1 });
  t.equal(await far.then(() => "done", statusOf), "too-large");
});
