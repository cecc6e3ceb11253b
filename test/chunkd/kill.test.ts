import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import t from "tap";
import { must } from "../../common/assert.ts";
import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { raiseVersion } from "../../protocol/methods/chunk.ts";
import type { Replica } from "../../protocol/shapes.ts";
import { FakeMaster, h, pattern, temporaryDirectory, TestClient, until, v } from "./support.ts";

const program = fileURLToPath(new URL("../../chunkd/main.js", import.meta.url));

function start(root: string, master: FakeMaster): ChildProcess {
  const { port } = master.address;
  const args = [program, "--data", root, "--master", `127.0.0.1:${port}`, "--reserve", "0"];
  const env = { ...process.env, GFS_LOG: "error" };
  return spawn(process.execPath, args, { env, stdio: ["ignore", "ignore", "inherit"] });
}

/** What a master does with chunks in doubt that have one replica: there is nothing to compare. */
async function raiseAll(
  master: FakeMaster,
  versions: Map<ChunkHandle, ChunkVersion>,
): Promise<void> {
  const connection = must(master.connections.get(1), "a connected server");
  for (const { handle, version, dirty } of master.inventories.at(-1) ?? []) {
    if (!dirty) continue;
    const newVersion = v(version + 1);
    await connection.call(raiseVersion, { handle, version, newVersion });
    versions.set(handle, newVersion);
  }
}

t.test("every answered write is there after kill -9 in the middle of writing", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const answered = new Map<string, { handle: number; offset: number; bytes: Buffer }>();
  const versions = new Map<ChunkHandle, ChunkVersion>();
  const versionOf = (handle: number): ChunkVersion => versions.get(h(handle)) ?? v(1);
  let generation = 0;

  for (let round = 0; round < 4; round += 1) {
    const inventories = master.inventories.length;
    const child = start(root, master);
    t.teardown(() => child.kill("SIGKILL"));
    await until(() => master.inventories.length > inventories);
    const registration = must(master.registrations.at(-1), "a registration");
    const self: Replica = { server: 1 as never, address: registration.address, rack: "" };
    const client = new TestClient(t);
    await raiseAll(master, versions);

    for (const { handle, offset, bytes } of answered.values()) {
      const name = { handle: h(handle), version: versionOf(handle) };
      const read = await client.read(self, { ...name, offset, length: bytes.length });
      if (!read.equals(bytes)) t.fail(`round ${round}: chunk ${handle} at ${offset} is lost`);
    }

    // Small chunks, growing ones and large ones, each range written by one writer at a time.
    let writes = 0;
    const writer = async (handle: number, bytesAt: number): Promise<void> => {
      for (let piece = 0; ; piece = (piece + 1) % 12) {
        const offset = piece * bytesAt;
        const bytes = pattern(bytesAt, (generation += 1));
        answered.delete(`${handle} ${piece}`); // Old or new until it is answered.
        try {
          const name = { handle: h(handle), version: versionOf(handle) };
          await client.write([self], bytes, { ...name, offset });
        } catch {
          return; // The kill.
        }
        answered.set(`${handle} ${piece}`, { handle, offset, bytes });
        writes += 1;
      }
    };
    const writers = [
      writer(1, 3_000),
      writer(2, 11_111),
      writer(3, 300_000),
      writer(10 + round, 40_000),
    ];
    await until(() => writes >= 40 + round * 7);
    child.kill("SIGKILL");
    await once(child, "exit");
    await Promise.all(writers);
    client.pool.close();
    t.ok(answered.size > 0, `round ${round}: ${writes} writes`);
  }
});

t.test("SIGTERM ends it with nothing dirty, and a second start says so", async (t) => {
  const master = await new FakeMaster().start(t);
  const root = temporaryDirectory(t);
  const first = start(root, master);
  t.teardown(() => first.kill("SIGKILL"));
  await until(() => master.inventories.length === 1);
  const { address } = must(master.registrations[0], "a registration");
  const self: Replica = { server: 1 as never, address, rack: "" };
  await new TestClient(t).write([self], pattern(300_000, 1), { handle: h(1) });
  first.kill("SIGTERM");
  const [code] = await once(first, "exit");
  t.equal(code, 0);
  const second = start(root, master);
  t.teardown(() => second.kill("SIGKILL"));
  await until(() => master.inventories.length === 2);
  t.same(master.inventories[1], [{ handle: 1, version: 1, dirty: false }]);
  t.equal(master.registrations[1]?.address, address, "on the same port");
});
