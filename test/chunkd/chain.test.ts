import t from "tap";
import { type ChunkServer } from "../../chunkd/server.ts";
import { checksums } from "../../protocol/methods/chunk.ts";
import {
  FakeMaster,
  h,
  pattern,
  replicaOf,
  serversNamed,
  startServer,
  statusFrom,
  TestClient,
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
