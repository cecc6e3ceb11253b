import t from "tap";
import { clientWritesAtOnce } from "../../chunkd/limits.ts";
import { type ChunkServer } from "../../chunkd/server.ts";
import { must } from "../../common/assert.ts";
import { epoch } from "../../protocol/id.ts";
import { checksums, fence, raiseVersion } from "../../protocol/methods/chunk.ts";
import type { Replica } from "../../protocol/shapes.ts";
import {
  barrier,
  FakeMaster,
  h,
  pattern,
  replicaOf,
  serversNamed,
  startServer,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  TestClient,
  until,
  v,
} from "./support.ts";

const mib = 1024 * 1024;

async function cluster(t: Tap): Promise<{
  master: FakeMaster;
  servers: [ChunkServer, ChunkServer, ChunkServer];
  client: TestClient;
}> {
  const master = await new FakeMaster().start(t);
  const servers: [ChunkServer, ChunkServer, ChunkServer] = [
    await startServer(t, master),
    await startServer(t, master),
    await startServer(t, master),
  ];
  return { master, servers, client: new TestClient(t) };
}

type Tap = Pick<typeof t, "teardown">;

const end = (): void => undefined;

/** A chain of three whose server `which` has a disk that can be made to fail. */
async function clusterWithBadDisk(
  t: Tap,
  which: number,
): Promise<{ master: FakeMaster; chain: Replica[]; client: TestClient; disk: TamperedDisk }> {
  const master = await new FakeMaster().start(t);
  const disk = new TamperedDisk();
  const chain: Replica[] = [];
  for (let i = 0; i < 3; i += 1) {
    chain.push(replicaOf(await startServer(t, master, i === which ? { disk: disk.disk } : {})));
  }
  return { master, chain, client: new TestClient(t), disk };
}

t.test("what a chain has answered is on all its servers, byte for byte", async (t) => {
  const { servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  const pieces = Array.from({ length: 8 }, (_, i) => pattern(mib, i));
  await Promise.all(
    pieces.map((piece, i) => client.write(chain, piece, { handle: h(5), offset: i * mib })),
  );
  for (const replica of chain) {
    for (const [i, piece] of pieces.entries()) {
      const read = await client.read(replica, { handle: h(5), offset: i * mib });
      t.ok(read.equals(piece), `piece ${i} on server ${replica.server}`);
    }
  }
});

t.test("overlapping writes in flight leave all replicas equal", async (t) => {
  const { servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  await client.write(chain, pattern(300_000, 0), { handle: h(9) });
  for (let round = 0; round < 5; round += 1) {
    await Promise.all(
      Array.from({ length: 40 }, (_, i) => {
        const bytes = pattern(1_000 + ((i * 7_919) % 90_000), round * 100 + i);
        return client.write(chain, bytes, { handle: h(9), offset: (i * 31_337) % 250_000 });
      }),
    );
    const [a, b, c] = await Promise.all(
      chain.map(async (replica) => {
        const request = { handle: h(9), version: v(1) };
        return (await client.pool.call(replica.address, checksums, request)).reply;
      }),
    );
    t.same(b, a);
    t.same(c, a);
  }
});

t.test("a chain with a dead middle names it, and takes no more under that version", async (t) => {
  const { servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  await client.write(chain, pattern(mib, 1), { handle: h(3) });
  await servers[1].halt();
  const again = client.write(chain, pattern(mib, 2), { handle: h(3) });
  t.same(await serversNamed(again), [chain[1]?.server]);
  const next = client.write(chain, pattern(10, 2), { handle: h(3), offset: 17 });
  t.equal(await statusFrom(next), "replica-failed");
});

t.test("a dead end of the chain is named, not the server that noticed it", async (t) => {
  const { servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  await servers[2].halt();
  const write = client.write(chain, pattern(mib, 2), { handle: h(3) });
  t.same(await serversNamed(write), [chain[2]?.server]);
});

t.test("a replica with another version is named as failed", async (t) => {
  const { servers, client } = await cluster(t);
  const [first, second, third] = servers.map(replicaOf);
  if (!first || !second || !third) throw new Error("three servers");
  await client.write([second], pattern(mib, 2), { handle: h(3), version: v(7) });
  const write = client.write([first, second, third], pattern(mib, 2), { handle: h(3) });
  t.same(await serversNamed(write), [second.server]);
});

t.test("bytes damaged on the way are refused and written nowhere", async (t) => {
  const { servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  const write = client.write(chain, pattern(mib, 2), { handle: h(3), crcs: new Array(16).fill(7) });
  t.equal(await statusFrom(write), "corrupt");
  for (const replica of chain) {
    t.equal(await statusFrom(client.read(replica, { handle: h(3) })), "no-chunk");
  }
});

for (const which of [0, 1, 2]) {
  t.test(
    `a disk that was full at place ${which} of a chain costs its replica, no more`,
    async (t) => {
      const { master, chain, client, disk } = await clusterWithBadDisk(t, which);
      const name = { handle: h(3) };
      await client.write(chain, pattern(mib, 1), name);
      const full = chain[which]?.server;
      disk.fail("write.bytes", "ENOSPC");
      t.same(await serversNamed(client.write(chain, pattern(mib, 2), name)), [full]);
      disk.before = end; // There is room again, but the replicas differ.
      t.same(await serversNamed(client.write(chain, pattern(10, 3), name)), [full]);
      const rest = chain.filter(({ server }) => server !== full);
      for (const { server } of rest) {
        const order = { ...name, version: v(1), newVersion: v(2) };
        await must(master.connections.get(server), "a connection").call(raiseVersion, order);
      }
      await client.write(rest, pattern(mib, 2), { ...name, version: v(2) });
      for (const replica of rest) {
        const read = await client.read(replica, { ...name, version: v(2) });
        t.ok(read.equals(pattern(mib, 2)));
      }
    },
  );
}

t.test("a chunk's only replica takes writes again as soon as its disk does", async (t) => {
  const { chain, client, disk } = await clusterWithBadDisk(t, 0);
  const only = chain.slice(0, 1);
  await client.write(only, pattern(mib, 1), { handle: h(3) });
  disk.fail("write.bytes", "ENOSPC");
  t.equal(await statusFrom(client.write(only, pattern(9, 2), { handle: h(3) })), "no-space");
  disk.before = end;
  await client.write(only, pattern(9, 3), { handle: h(3) });
  t.ok((await client.read(must(only[0], "it"), { handle: h(3), length: 9 })).equals(pattern(9, 3)));
});

t.test("where all disks were full, the client is told so, and then whom to drop", async (t) => {
  const master = await new FakeMaster().start(t);
  const disk = new TamperedDisk();
  const chain = [
    replicaOf(await startServer(t, master, { disk: disk.disk })),
    replicaOf(await startServer(t, master, { disk: disk.disk })),
  ];
  const client = new TestClient(t);
  await client.write(chain, pattern(mib, 1), { handle: h(3) });
  disk.fail("write.bytes", "ENOSPC");
  t.equal(await statusFrom(client.write(chain, pattern(9, 2), { handle: h(3) })), "no-space");
  disk.before = end;
  t.same(await serversNamed(client.write(chain, pattern(9, 2), { handle: h(3) })), [
    chain[0]?.server,
  ]);
});

t.test("a failed write makes its chunk dirty for the master, until it is raised", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const server = await startServer(t, master, { root });
  const client = new TestClient(t);
  const dead = { server: 99 as never, address: "127.0.0.1:1", rack: "" };
  for (const handle of [h(1), h(2)]) {
    const write = client.write([replicaOf(server), dead], pattern(100, 1), { handle });
    t.equal(await statusFrom(write), "replica-failed");
  }
  const order = { handle: h(2), version: v(1), newVersion: v(2) };
  await master.to(server).call(raiseVersion, order);
  await server.stop();
  await startServer(t, master, { root });
  t.same(master.inventories.at(-1), [
    { handle: 1, version: 1, dirty: true },
    { handle: 2, version: 2, dirty: false },
  ]);
});

t.test("a slow secondary is not sent more small writes than it may have unanswered", async (t) => {
  const { servers } = await cluster(t);
  const [primary, slow] = servers;
  const clients = [new TestClient(t), new TestClient(t)];
  const { passed, open } = barrier();
  const { index } = slow.store;
  const put = index.put.bind(index);
  let waiting = 0;
  index.put = (...args) => {
    waiting += 1;
    const written = passed.then(() => put(...args));
    return {
      committed: written.then(({ committed }) => committed),
      flushed: () => written.then(({ flushed }) => flushed()),
    };
  };
  const write = (i: number): Promise<void> =>
    must(clients[i % 2], "a client").write([replicaOf(primary), replicaOf(slow)], pattern(9, i), {
      handle: h(i + 1),
    });
  const writes = Array.from({ length: 1_100 }, (_, i) => statusFrom(write(i)));
  await until(() => waiting >= clientWritesAtOnce);
  // Answered after all that came before: the writes at the first, what it passed on at the other.
  for (const server of [primary, slow]) {
    const reads = clients.map((client) => client.read(replicaOf(server), { handle: h(9_999) }));
    t.same(await Promise.all(reads.map(statusFrom)), ["no-chunk", "no-chunk"]);
  }
  t.equal(waiting, clientWritesAtOnce, "others wait their turn");
  const back = must(clients[0], "a client").write(
    [replicaOf(slow), replicaOf(primary)],
    pattern(9, 0),
    {
      handle: h(5_000),
    },
  );
  open();
  t.same(new Set(await Promise.all([...writes, statusFrom(back)])), new Set(["ok"]));
});

t.test("a failed write is told to the master until the version is raised", async (t) => {
  const { master, chain, client, disk } = await clusterWithBadDisk(t, 2);
  await client.write(chain, pattern(100_000, 1), { handle: h(1) });
  disk.before = (site) => {
    if (site === "write.bytes") throw Object.assign(new Error("EIO"), { code: "EIO" });
  };
  const failed = client.write(chain, pattern(100_000, 2), { handle: h(1) });
  t.equal(await statusFrom(failed), "replica-failed");
  disk.before = end;
  const [primary, , last] = chain.map(({ server }) => Number(server));
  const byPrimary = () => master.failedWrites.filter(({ from }) => from === primary);
  await until(() => byPrimary().length >= 2); // It goes on: the first could have been lost.
  t.match(byPrimary()[0], { handle: h(1), version: v(1), servers: [last] });
  const raise = { handle: h(1), version: v(1), newVersion: v(2) };
  const uneven = await Promise.all(
    chain.map(async ({ server }) => {
      const connection = must(master.connections.get(server), "connected");
      return (await connection.call(raiseVersion, raise)).uneven;
    }),
  );
  t.same(uneven, [true, true, true], "all know of it");
  const told = master.failedWrites.length;
  const beats = master.beats.length;
  await until(() => master.beats.length > beats + 6); // Two of each server, at the least.
  t.ok(master.failedWrites.length <= told + 3, "then no more, but for what was under way");
});

t.test("what a server passes on after all others are fenced is refused as too late", async (t) => {
  const { master, servers, client } = await cluster(t);
  const chain = servers.map(replicaOf);
  await client.write(chain, pattern(10, 1), { handle: h(1) });
  // The first one is stopped, and does not hear of the epoch.
  const [, second, third] = servers;
  for (const forwarded of [false, true]) {
    for (const server of [second, third]) {
      await master.to(server).call(fence, { epoch: epoch(2), forwarded });
    }
    const late = client.write(chain, pattern(10, 2), { handle: h(1), epoch: epoch(1) });
    if (!forwarded) t.equal(await statusFrom(late), "ok", "the first fence lets it end");
    else t.same(await serversNamed(late), [Number(chain[0]?.server)], "the late one is to blame");
  }
  for (const server of chain.slice(1)) {
    t.ok((await client.read(server, { handle: h(1) })).equals(pattern(10, 2)));
  }
});
