import t from "tap";
import { blockBytes, crcsByBlock } from "../../../common/crc32c.ts";
import { systemClock } from "../../../common/os/clock.ts";
import { ChunkReader } from "../../../mount/client/chunk-reader.ts";
import { ReadAhead, ReadAheadBudget } from "../../../mount/client/read-ahead.ts";
import { chunkHandle, chunkVersion, ino, serverId } from "../../../protocol/id.ts";
import { locate, reportReplica } from "../../../protocol/methods/chunk.ts";
import { StatusError } from "../../../protocol/status.ts";
import { mib, outcome } from "./support.ts";

const source = { ino: ino(5), at: undefined };
const data = Buffer.alloc(16 * blockBytes, "some bytes");

/** A chunk of 16 blocks on servers that each have some of them bad. */
function readerOf(
  badBlocks: readonly (readonly number[])[],
  facts: () => { more?: boolean } = () => ({}),
): ChunkReader {
  const replicas = badBlocks.map((_, i) => ({
    ...{ server: serverId(i + 1), address: `server:${i + 1}`, rack: "" },
  }));
  const location = { index: 0, handle: chunkHandle(7), version: chunkVersion(1), replicas };
  const call = (address: string, _method: unknown, params: unknown): Promise<unknown> => {
    const { offset, length } = params as { offset: number; length: number };
    const bad = badBlocks[Number(address.split(":")[1]) - 1] ?? [];
    const touched = (block: number): boolean =>
      block * blockBytes < offset + length && (block + 1) * blockBytes > offset;
    if (bad.some(touched)) return Promise.reject(new StatusError("corrupt", "a bad block"));
    const payload = data.subarray(offset, offset + length);
    return Promise.resolve({ payload, reply: { crcs: crcsByBlock(payload, offset) } });
  };
  return new ChunkReader({
    master: {
      chunkBytes: 64 * mib,
      read: (() => Promise.resolve({ locations: [{ ...location, ...facts() }] })) as never,
    },
    pool: { call: call as never },
    clock: systemClock,
    random: () => 0.5,
    place: { hosts: new Set(), rack: "" },
    timeoutMs: undefined,
    stop: new AbortController().signal,
  });
}

t.test("each block is read from a replica that has it good", async (t) => {
  const reader = readerOf([
    [0, 3],
    [3, 5],
    [0, 5, 15],
  ]);
  const bytes = await reader.read(source, { offset: 100, length: data.length - 200 });
  t.ok(bytes.equals(data.subarray(100, data.length - 100)));
});

t.test("a block that is bad everywhere costs itself, also when it was read ahead", async (t) => {
  const reader = readerOf([
    [4, 6],
    [4, 9],
  ]);
  const file = new ReadAhead(reader, new ReadAheadBudget(64 * mib), source);
  const read = async (block: number): Promise<Buffer> => {
    const range = { offset: block * blockBytes, length: blockBytes, size: data.length };
    return Buffer.concat(await file.read(range));
  };
  for (let block = 0; block < 16; block += 1) {
    if (block === 4) t.equal(await outcome(read(block)), "corrupt");
    else
      t.ok((await read(block)).equals(data.subarray(block * blockBytes).subarray(0, blockBytes)));
  }
  t.equal(await outcome(reader.read(source, { offset: 0, length: data.length })), "corrupt");
});

t.test("a bad replica is not final while a server is away that may have a good one", async (t) => {
  const bad = [[4], []];
  let asked = 0;
  const reader = readerOf(bad, () => {
    asked += 1;
    if (asked === 8) bad[0] = []; // What comes back may also mend it.
    return { more: asked < 8 };
  });
  bad[1] = [4];
  const range = { offset: 4 * blockBytes, length: blockBytes };
  t.equal((await reader.read(source, range)).length, blockBytes);
  t.equal(asked, 8);
});

t.test(
  "a server without the chunk that it should have is reported, and not each time",
  async (t) => {
    const reported: unknown[] = [];
    const replicas = [1, 2].map((id) => ({
      ...{ server: serverId(id), address: `server:${id}`, rack: "" },
    }));
    const location = { index: 0, handle: chunkHandle(7), version: chunkVersion(1), replicas };
    const reader = new ChunkReader({
      master: {
        chunkBytes: 64 * mib,
        read: (async (method: unknown, params: unknown) => {
          if (method === locate) return { locations: [location] };
          t.equal(method, reportReplica);
          reported.push(params);
          return {};
        }) as never,
      },
      pool: {
        call: (async (address: string) => {
          if (address === "server:1") throw new StatusError("no-chunk", "chunk 7 is not here");
          return { payload: data, reply: { crcs: crcsByBlock(data, 0) } };
        }) as never,
      },
      clock: systemClock,
      random: () => 0.5,
      place: { hosts: new Set(), rack: "" },
      timeoutMs: undefined,
      stop: new AbortController().signal,
    });
    for (let i = 0; i < 3; i += 1) {
      t.ok((await reader.read(source, { offset: 0, length: data.length })).equals(data));
    }
    t.same(reported, [{ handle: 7, version: 1, server: 1, reason: "it is not there" }]);
  },
);
