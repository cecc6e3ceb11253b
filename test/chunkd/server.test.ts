import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import t from "tap";
import { UserError } from "../../common/program.ts";
import { silentLog } from "../../common/log.ts";
import { ChunkServer } from "../../chunkd/server.ts";
import { cleanChunk } from "../../chunkd/store/sync.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import { type ChunkHandle, epoch } from "../../protocol/id.ts";
import {
  dialAs,
  FakeMaster,
  h,
  pattern,
  PushedClock,
  replicaOf,
  serverOptions,
  startServer,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  TestClient,
  until,
  v,
} from "./support.ts";
import { systemDisk } from "../../common/os/disk.ts";

const kib = 1024;

/** The message of the `UserError` with which a start fails. */
async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return "started";
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

t.test("a restarted server has the same id, port and chunks", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const client = new TestClient(t);
  const first = await startServer(t, master, { root });
  const { address } = first;
  await client.write([replicaOf(first)], pattern(300 * kib, 1), { handle: h(7) });
  await first.stop();
  const second = await startServer(t, master, { root });
  t.equal(second.address, address);
  t.equal(master.registrations[0]?.server, undefined);
  t.equal(master.registrations[1]?.server, 1);
  t.same(master.inventories.at(-1), [{ handle: 7, version: 1, dirty: false }]);
  const read = await client.read(replicaOf(second), { handle: h(7) });
  t.ok(read.equals(pattern(300 * kib, 1)));
});

t.test("a server tells what it holds again while it is connected", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const client = new TestClient(t);
  const first = await startServer(t, master, { root });
  for (const handle of [7, 9]) {
    await client.write([replicaOf(first)], pattern(3 * kib, 1), { handle: h(handle) });
  }
  await first.stop();
  master.holdings.length = 0;
  await startServer(t, master, { root });
  await until(() => master.holdings.length === 1);
  t.same(master.holdings, [[7, 9]]);
});

t.test("what a crash left dirty is in doubt, and not read, until it is raised", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const client = new TestClient(t);
  const first = await startServer(t, master, { root });
  const handles = [h(7), h(8), h(9)];
  for (const [i, bytes] of [300 * kib, 3 * kib, 300 * kib].entries()) {
    await client.write([replicaOf(first)], pattern(bytes, i), { handle: h(7 + i) });
  }
  await cleanChunk(first.store, h(9));
  await first.halt();
  const deaf = await ChunkServer.start(serverOptions({ host: "127.0.0.1", port: 1 }, { root }));
  const read = (server: ChunkServer, handle: ChunkHandle, version = v(1)): Promise<string> =>
    statusFrom(client.read(replicaOf(server), { handle, version }));
  const reads = (server: ChunkServer): Promise<string[]> =>
    Promise.all(handles.map((handle) => read(server, handle)));
  t.same(await reads(deaf), ["stale-version", "stale-version", "ok"], "before it has registered");
  await deaf.stop();

  const expected = [
    { handle: 7, version: 1, dirty: true },
    { handle: 8, version: 1, dirty: true },
    { handle: 9, version: 1, dirty: false },
  ];
  for (let round = 0; round < 2; round += 1) {
    const server = await startServer(t, master, { root });
    t.same(master.inventories.at(-1), expected, "told each time");
    t.same(await reads(server), ["stale-version", "stale-version", "ok"]);
    const target = { handle: h(7), version: v(1), target: h(70) };
    t.equal(await statusFrom(master.to(server).call(chunk.cloneChunk, target)), "stale-version");
    const sums = { handle: h(7), version: v(1) };
    const stranger = await dialAs(t, server);
    t.equal(await statusFrom(stranger.call(chunk.checksums, sums)), "stale-version");
    t.equal((await master.to(server).call(chunk.checksums, sums)).length, 300 * kib);
    await server.stop();
  }

  const last = await startServer(t, master, { root });
  for (const handle of [h(7), h(8)]) {
    const order = { handle, version: v(1), newVersion: v(2) };
    await master.to(last).call(chunk.raiseVersion, order);
    t.equal(await read(last, handle, v(2)), "ok");
  }
  await last.stop();
  const next = await startServer(t, master, { root });
  t.notOk(master.inventories.at(-1)?.some(({ dirty }) => dirty));
  const bytes = await client.read(replicaOf(next), { handle: h(7), version: v(2) });
  t.ok(bytes.equals(pattern(300 * kib, 0)));
});

t.test("a directory of another cluster, of another program, or in use is refused", async (t) => {
  const master = await new FakeMaster().start(t);
  const other = await new FakeMaster("other-cluster").start(t);
  const root = temporaryDirectory(t);
  const first = await startServer(t, master, { root });
  const again = ChunkServer.start(serverOptions(master.address, { root }));
  t.equal(await refusal(again), `${root} is in use by another gfs program`);
  await first.stop();

  const stranger = await ChunkServer.start(serverOptions(other.address, { root }));
  t.match(await refusal(stranger.failed), /does not belong to 127.*you belong to cluster test-/);
  await stranger.halt();

  const cases: [string, RegExp][] = [
    ["", /damaged/],
    ['{"program":"gfs-chunkd","form', /damaged/],
    ['{"program":"gfs-master","format":1,"cluster":"c","server":1}', /belongs to gfs-master/],
    ['{"program":"gfs-chunkd","format":9,"cluster":"c","server":1}', /format 9/],
  ];
  for (const [id, message] of cases) {
    writeFileSync(`${root}/id`, id);
    const start = ChunkServer.start(serverOptions(master.address, { root }));
    t.match(await refusal(start), message);
  }
  const foreign = temporaryDirectory(t);
  mkdirSync(`${foreign}/metadata`);
  const start = ChunkServer.start(serverOptions(master.address, { root: foreign }));
  t.match(await refusal(start), /not a chunk server's directory/);
});

t.test("the id file is written once, with cluster and server", async (t) => {
  const master = await new FakeMaster().start(t);
  const server = await startServer(t, master);
  const id: unknown = JSON.parse(readFileSync(`${server.directory.path}/id`, "utf8"));
  t.same(id, { program: "gfs-chunkd", format: 1, cluster: "test-cluster", server: 1 });
});

t.test(
  "a fence refuses older writes, waits for those under way, and outlives a restart",
  async (t) => {
    const master = await new FakeMaster().start(t);
    const tampered = new TamperedDisk();
    const root = temporaryDirectory(t);
    const server = await startServer(t, master, { root, disk: tampered.disk });
    const client = new TestClient(t);
    const self = [replicaOf(server)];
    await client.write(self, pattern(300 * kib, 1), { handle: h(1) });

    let release = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    tampered.before = (site) => (site === "write.bytes" ? held : undefined);
    const log: string[] = [];
    tampered.after = (site) => void (site === "write.bytes" && log.push("on disk"));
    const write = client
      .write(self, pattern(10, 2), { handle: h(1) })
      .then(() => log.push("written"));
    await until(() => tampered.steps.filter((site) => site === "write.bytes").length === 2);
    const fence = master
      .to(server)
      .call(chunk.fence, { epoch: epoch(5), forwarded: false })
      .then(() => log.push("fenced"));
    const late = (): Promise<void> => client.write(self, pattern(10, 3), { handle: h(1) });
    await until(() => server.store.index.getNumber("epoch") === 5);
    t.equal(await statusFrom(late()), "stale-epoch");
    release();
    await Promise.all([write, fence]);
    // Which of the two answers comes first nobody says: they come over different connections.
    t.same([log[0], ...log.slice(1).toSorted()], ["on disk", "fenced", "written"]);
    tampered.after = () => undefined;
    await client.write(self, pattern(10, 3), { handle: h(1), epoch: epoch(5) });
    await client.write(self, pattern(10, 4), { handle: h(1), forwarded: true });

    await server.halt();
    const next = await startServer(t, master, { root });
    const stale = client.write([replicaOf(next)], pattern(10, 3), { handle: h(1) });
    t.equal(await statusFrom(stale), "stale-epoch");
  },
);

t.test("an epoch that a heartbeat brings is adopted", async (t) => {
  const master = await new FakeMaster().start(t);
  const server = await startServer(t, master);
  const client = new TestClient(t);
  master.epoch = 8;
  await until(() => server.store.index.getNumber("epoch") === 8);
  const write = client.write([replicaOf(server)], pattern(9, 3), { handle: h(1), epoch: epoch(7) });
  t.equal(await statusFrom(write), "stale-epoch");
});

t.test("without the master a server reads on, but takes no client's write", async (t) => {
  const master = await new FakeMaster().start(t);
  const clock = new PushedClock();
  const server = await startServer(t, master, { clock });
  const client = new TestClient(t);
  const self = [replicaOf(server)];
  await client.write(self, pattern(100, 1), { handle: h(1) });
  const { port } = master.address;
  await master.stop();
  clock.push(master.leaseMs + 1);
  t.equal(await statusFrom(client.write(self, pattern(9, 3), { handle: h(1) })), "lease-expired");
  t.equal(
    await statusFrom(client.write(self, pattern(9, 3), { handle: h(1), forwarded: true })),
    "ok",
  );
  t.equal((await client.read(replicaOf(server), { handle: h(1) })).length, 100);

  const back = await new FakeMaster().start(t, port);
  await until(() => back.beats.length > 0);
  t.equal(await statusFrom(client.write(self, pattern(9, 3), { handle: h(1) })), "ok");
});

t.test(
  "a chunk that is missing, or has another version, is neither read nor written",
  async (t) => {
    const master = await new FakeMaster().start(t);
    const server = await startServer(t, master);
    const self = replicaOf(server);
    const client = new TestClient(t);
    const bytes = pattern(100, 1);
    t.equal(
      await statusFrom(client.write([self], bytes, { handle: h(1), create: false })),
      "no-chunk",
    );
    t.equal(await statusFrom(client.read(self, { handle: h(1) })), "no-chunk");
    await client.write([self], bytes, { handle: h(1) });
    t.equal(
      await statusFrom(client.write([self], bytes, { handle: h(1), version: v(2) })),
      "stale-version",
    );
    t.equal(await statusFrom(client.read(self, { handle: h(1), version: v(2) })), "stale-version");
    t.equal(await statusFrom(client.sync(self, h(1), v(2))), "stale-version");
    t.equal(await statusFrom(client.sync(self, h(1))), "ok");
    t.equal((await client.read(self, { handle: h(1), offset: 100 })).length, 0, "past the end");
    t.ok((await client.read(self, { handle: h(1), offset: 90 })).equals(bytes.subarray(90)));
  },
);

t.test("a raised version lets writes through again after one that failed", async (t) => {
  const master = await new FakeMaster().start(t);
  const server = await startServer(t, master);
  const self = replicaOf(server);
  const client = new TestClient(t);
  const dead = { server: master.registrations.length as never, address: "127.0.0.1:1", rack: "" };
  const write = client.write([self, dead], pattern(100, 1), { handle: h(1) });
  t.equal(await statusFrom(write), "replica-failed");
  t.equal(
    await statusFrom(client.write([self], pattern(100, 1), { handle: h(1) })),
    "replica-failed",
  );
  const raise = { handle: h(1), version: v(1), newVersion: v(2) };
  await master.to(server).call(chunk.raiseVersion, raise);
  await client.write([self], pattern(100, 2), { handle: h(1), version: v(2) });
  const read = await client.read(self, { handle: h(1), version: v(2) });
  t.ok(read.equals(pattern(100, 2)));
});

t.test(
  "orders are taken from the master only, and chunks served to mounts and servers only",
  async (t) => {
    const master = await new FakeMaster().start(t);
    const server = await startServer(t, master);
    const mount = await dialAs(t, server);
    const admin = await dialAs(t, server, { role: "admin" });
    t.equal(
      await statusFrom(mount.call(chunk.fence, { epoch: epoch(9), forwarded: false })),
      "protocol",
    );
    const name = { handle: h(1), version: v(1) };
    t.equal(await statusFrom(admin.call(chunk.checksums, name)), "protocol");
    t.equal(await statusFrom(mount.call(chunk.checksums, name)), "no-chunk");
    t.equal(await statusFrom(dialAs(t, server, { cluster: "another" })), "wrong-cluster");
  },
);

t.test("a replica is fetched from another server, and a bad one is mended by it", async (t) => {
  const master = await new FakeMaster().start(t);
  const [good, bad] = [await startServer(t, master), await startServer(t, master)];
  const client = new TestClient(t);
  const bytes = pattern(900 * kib, 1);
  await client.write([replicaOf(good), replicaOf(bad)], bytes, { handle: h(1) });
  const path = bad.store.files.path(h(1));
  const damaged = readFileSync(path);
  damaged[5] = (damaged[5] ?? 0) ^ 1;
  writeFileSync(path, damaged);
  t.equal(await statusFrom(client.read(replicaOf(bad), { handle: h(1) })), "corrupt");
  t.equal(await statusFrom(client.read(replicaOf(bad), { handle: h(1) })), "corrupt");
  await until(() => master.bad.length > 0 && (master.beats.at(-1)?.corruptBlocks ?? 0) > 0);
  t.equal(master.bad.length, 1);
  const order = { handle: h(1), version: v(1), sources: [replicaOf(good)], draft: false };
  const { length, fetchedBytes } = await master.to(bad).call(chunk.copyChunk, order);
  t.equal(length, bytes.length);
  t.equal(fetchedBytes, 64 * kib, "the bad block, and no other");
  t.ok((await client.read(replicaOf(bad), { handle: h(1) })).equals(bytes));
});

t.test("what the master orders removed is gone, and reported once", async (t) => {
  const master = await new FakeMaster().start(t);
  const server = await startServer(t, master);
  const client = new TestClient(t);
  await client.write([replicaOf(server)], pattern(300 * kib, 1), { handle: h(1) });
  await client.write([replicaOf(server)], pattern(3 * kib, 1), { handle: h(2) });
  master.remove = [h(1), h(2), h(3)];
  await until(() => master.beats.some(({ removed }) => removed.length === 3));
  master.remove = [];
  t.notOk(existsSync(server.store.files.path(h(1))));
  t.equal(await statusFrom(client.read(replicaOf(server), { handle: h(1) })), "no-chunk");
  await until(() => master.beats.at(-1)?.removed.length === 0);
  t.equal(master.beats.at(-1)?.chunks, 0);
  t.equal(master.beats.at(-1)?.usedBytes, 0);
});

t.test(
  "a full disk takes no growth, says so, and lets what is there be read and rewritten",
  async (t) => {
    const master = await new FakeMaster().start(t);
    let freeBytes = 1024 * kib;
    const disk = {
      ...systemDisk,
      space: async () => ({ totalBytes: 1e9, freeBytes }),
    };
    const server = await startServer(t, master, { disk });
    const self = replicaOf(server);
    const client = new TestClient(t);
    await client.write([self], pattern(300 * kib, 1), { handle: h(1) });
    freeBytes = 0;
    await until(() => master.beats.at(-1)?.disk === "full");
    t.match(master.beats.at(-1)?.diskTrouble, /full/);
    t.equal(await statusFrom(client.write([self], pattern(10, 1), { handle: h(2) })), "no-space");
    const growth = client.write([self], pattern(10, 1), { handle: h(1), offset: 300 * kib });
    t.equal(await statusFrom(growth), "no-space");
    t.equal(await statusFrom(client.write([self], pattern(10, 1), { handle: h(1) })), "ok");
    t.equal((await client.read(self, { handle: h(1), length: 10 })).length, 10);
  },
);

t.test("failures of the disk become statuses, and the chunk stays readable", async (t) => {
  const master = await new FakeMaster().start(t);
  const tampered = new TamperedDisk();
  const server = await startServer(t, master, { disk: tampered.disk });
  const self = replicaOf(server);
  const client = new TestClient(t);
  const bytes = pattern(300 * kib, 1);
  for (const [code, status] of [
    ["ENOSPC", "no-space"],
    ["EROFS", "io-error"],
    ["EIO", "io-error"],
  ] as const) {
    const handle = h(code.length * 100 + code.charCodeAt(1));
    await client.write([self], bytes, { handle });
    tampered.fail("write.bytes", code);
    t.equal(await statusFrom(client.write([self], pattern(100 * kib, 2), { handle })), status);
    tampered.before = () => undefined;
    await until(() => server.store.space.freeBytes > 0); // Looked at again after ENOSPC.
    t.ok((await client.read(self, { handle })).equals(bytes), `readable after ${code}`);
  }
  await client.write([self], bytes, { handle: h(9) });
  tampered.fail("read.blocks", "EIO");
  t.equal(await statusFrom(client.read(self, { handle: h(9) })), "io-error");
  await until(() => master.bad.some(({ handle }) => handle === 9));
});

t.test("a stopped server has nothing dirty left", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const server = await startServer(t, master, { root, log: silentLog });
  const client = new TestClient(t);
  await client.write([replicaOf(server)], pattern(300 * kib, 1), { handle: h(1) });
  await client.write([replicaOf(server)], pattern(30, 1), { handle: h(2) });
  await server.stop();
  await startServer(t, master, { root });
  t.notOk(master.inventories.at(-1)?.some(({ dirty }) => dirty));
});

t.test("a directory whose index is gone is refused, and nothing in it is deleted", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const server = await startServer(t, master, { root });
  const client = new TestClient(t);
  await client.write([replicaOf(server)], pattern(300 * kib, 1), { handle: h(1) });
  const path = server.store.files.path(h(1));
  await server.stop();
  rmSync(`${root}/index`, { recursive: true });
  for (const attempt of ["first", "second"]) {
    const start = ChunkServer.start(serverOptions(master.address, { root }));
    t.match(await refusal(start), /index is empty, but there are 1 chunk files: put/, attempt);
    t.ok(existsSync(path));
  }
});

t.test("a server whose last chunk was deleted by halves starts again", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const server = await startServer(t, master, { root });
  const client = new TestClient(t);
  await client.write([replicaOf(server)], pattern(300 * kib, 1), { handle: h(1) });
  await server.store.index.remove(h(1)).committed;
  await server.halt();
  await startServer(t, master, { root });
  t.same(master.inventories.at(-1), []);
});
