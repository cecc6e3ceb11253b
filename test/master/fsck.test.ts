import t, { type Test } from "tap";
import { must } from "../../common/assert.ts";
import { silentLog } from "../../common/log.ts";
import { Fsck } from "../../master/background/fsck.ts";
import { Handlers } from "../../protocol/connection.ts";
import { type ChunkHandle, chunkHandle, chunkVersion, rootIno } from "../../protocol/id.ts";
import { fsckHandlesMax, statusSnapshotsMax } from "../../protocol/limits.ts";
import * as admin from "../../protocol/methods/admin.ts";
import { mkdir } from "../../protocol/methods/namespace.ts";
import { MasterCluster, type TestMount, testServers } from "../support/master-cluster.ts";
import { newTestStore } from "../support/test-store.ts";

/** What the master remembers of bad replicas, and what asking for it costs. */

async function scene(test: Test) {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  test.teardown(() => cluster.stop());
  const servers = testServers(3);
  for (const server of servers) await server.join(cluster);
  const mount = await cluster.mount();
  return { cluster, servers, mount };
}

/** A file with one chunk, which all servers have. */
async function write(
  { servers, mount }: { servers: ReturnType<typeof testServers>; mount: TestMount },
  name: string,
): Promise<ChunkHandle> {
  const { attr } = await mount.create(name);
  const grant = await mount.grant(attr);
  for (const server of servers) server.write(grant, "contents");
  await mount.commit(attr, grant, 8);
  return grant.handle;
}

t.test("what was mended makes room for what is bad now, and a full list is logged", async (t) => {
  const all = await scene(t);
  const { master } = all.cluster;
  const logged: string[] = [];
  const fsck = new Fsck({
    ...{ store: master.committer.store, chunks: master.chunks, fleet: master.fleet },
    ...{ reader: master.reader, snapshots: master.committer.snapshots, chunkBytes: 1 << 20 },
    log: { ...silentLog, error: (event) => void logged.push(event) },
    badMax: 2,
  });
  master.committer.onChunks = (handles) => {
    for (const handle of handles) fsck.review(handle);
  };
  const handles: ChunkHandle[] = [];
  for (const name of ["a", "b", "c"]) handles.push(await write(all, name));
  const noteAll = (handle: ChunkHandle): void => {
    const { version } = must(master.chunks.sets.find(handle), "a chunk");
    for (const { id } of all.servers) {
      fsck.note(must(id, "an id"), { handle, version, reason: "test", blocks: [3] });
    }
  };
  const [a, b, c] = handles as [ChunkHandle, ChunkHandle, ChunkHandle];
  noteAll(a);
  noteAll(b);
  t.equal(fsck.damaged, 2);
  noteAll(c);
  t.equal(fsck.damaged, 2, "there is no room for a third");
  t.same(logged, ["fsck.full"], "said once, for three replicas");
  await master.chunks.sets.mendReplica(a, must(all.servers[0]?.id, "an id"));
  t.equal(fsck.damaged, 1, "its replicas have a later version");
  noteAll(c);
  t.equal(fsck.damaged, 2);
  t.same(logged, ["fsck.full"]);
  noteAll(a);
  t.same(logged, ["fsck.full", "fsck.full"], "and again when it is full again");
});

t.test("a report may come before the version it is of is recorded", async (t) => {
  const all = await scene(t);
  const { fsck, chunks, committer } = all.cluster.master;
  const handle = await write(all, "a");
  const { version } = must(chunks.sets.find(handle), "a chunk");
  const next = chunkVersion(version + 1);
  for (const { id } of all.servers) {
    fsck.note(must(id, "an id"), { handle, version: next, reason: "test", blocks: [0] });
  }
  t.equal(fsck.damaged, 0);
  await committer.run((txn) => {
    txn.putChunk(handle, { ...txn.chunk(handle), version: next });
  });
  t.equal(fsck.damaged, 1);
});

t.test("the files of thousands of chunks are found in one pass", async (t) => {
  const all = await scene(t);
  const handle = await write(all, "a");
  const operator = await all.cluster.dial("admin", new Handlers());
  const others = Array.from({ length: fsckHandlesMax - 1 }, (_, i) => chunkHandle(1_000_000 + i));
  const { files } = await operator.call(admin.fsckFiles, { handles: [...others, handle] });
  t.match(files, [{ handle, offset: 0 }]);
  t.equal(files[0]?.path.toString(), "/a");
});

t.test("the status names the latest snapshots and looks at few names for that", async (t) => {
  const { cluster, mount } = await scene(t);
  const operator = await cluster.dial("admin", new Handlers());
  const owner = { mode: 0o755, uid: 0, gid: 0 };
  const request = { parent: rootIno, name: Buffer.from("dir"), ...owner };
  const { attr } = await mount.mutate(mkdir, request);
  const total = statusSnapshotsMax + 5;
  for (let i = 0; i < total; i += 1) {
    const name = Buffer.from(`s${i}`);
    await mount.mutate(admin.createSnapshot, { dir: attr.ino, name });
  }
  const { snapshots, snapshotCount } = await operator.call(admin.status, {});
  t.equal(snapshots.length, statusSnapshotsMax);
  t.equal(snapshotCount, total);
  t.match(snapshots.at(-1), { path: "/dir", name: `s${total - 1}` });
  const { reader } = cluster.master;
  t.equal(reader.pathOf(attr.ino, { names: 0 }).toString(), "/?", "a budget is kept");
  const { servers } = await operator.call(admin.listServers, {});
  t.same(
    servers.map(({ state }) => state),
    ["up", "up", "up"],
  );
});
