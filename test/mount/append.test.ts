import t from "tap";
import { ino } from "../../protocol/id.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { until } from "../support/until.ts";
import { openFlags, TestFile } from "./contents-support.ts";

/** O_APPEND from several mounts at a time (design §4), and what a dead mount leaves behind. */

const { readWrite, append } = openFlags;
const mib = 1024 * 1024;

/** A record that says whose it is and which, and is full of that. */
function record(writer: number, number: number, length: number): Buffer {
  const head = `<${writer}:${number}:${length}>`;
  return Buffer.from(head.padEnd(length - 1, String(writer)) + "\n");
}

/** The numbers of each writer's records, in order; throws where the file is not made of records. */
function records(bytes: Buffer): Map<number, number[]> {
  const found = new Map<number, number[]>();
  for (let at = 0; at < bytes.length;) {
    const head = /^<(\d+):(\d+):(\d+)>/.exec(bytes.subarray(at, at + 40).toString("latin1"));
    if (!head) throw new Error(`no record at ${at} of ${bytes.length}`);
    const [writer, number, length] = head.slice(1).map(Number) as [number, number, number];
    const whole = bytes.subarray(at, at + length);
    if (!whole.equals(record(writer, number, length))) throw new Error(`torn record at ${at}`);
    found.set(writer, [...(found.get(writer) ?? []), number]);
    at += length;
  }
  return found;
}

t.test("records appended by several mounts and processes never overlap or get lost", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const mounts = [await cluster.mount(), await cluster.mount(), await cluster.mount()];
  const first = mounts[0]?.fileSystem;
  if (!first) throw new Error("there is a mount");
  await (await TestFile.create(first, "log")).close();
  const count = 60;
  // Two processes on each mount. Records cross borders of pieces and chunks.
  const writers = [...mounts, ...mounts].map(async ({ fileSystem }, writer) => {
    const file = await TestFile.open(fileSystem, "log", readWrite | append);
    for (let number = 0; number < count; number += 1) {
      const large = (writer + number) % 13 === 0;
      await file.append(record(writer, number, large ? 150_000 + writer : 40 + 7 * number));
      if (number % 20 === 19) await file.fsync();
    }
    await file.close();
  });
  let seen = 0;
  const watched = (async () => {
    const file = await TestFile.open(first, "log", openFlags.readOnly);
    for (let i = 0; i < 20; i += 1) {
      const bytes = await file.contents();
      t.ok(bytes.length >= seen, `the file only grows: ${bytes.length}`);
      seen = bytes.length;
    }
    await file.close();
  })();
  await Promise.all([...writers, watched]);
  for (const { fileSystem } of mounts) {
    const file = await TestFile.open(fileSystem, "log", openFlags.readOnly);
    const found = records(await file.contents());
    const all = Array.from({ length: count }, (_, number) => number);
    t.equal(found.size, writers.length);
    for (const numbers of found.values()) t.same(numbers, all, "each writer's, in order");
    await file.close();
  }
});

t.test("appending goes on after truncations by another mount", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const [one, two] = [await cluster.mount(), await cluster.mount()];
  const log = await TestFile.create(one.fileSystem, "log", append);
  await log.append(Buffer.alloc(1000, 1));
  const other = await TestFile.open(two.fileSystem, "log", readWrite | append);
  t.equal(other.directIo, true, "the kernel keeps no pages of what others append to as well");
  await other.truncate(10);
  await log.append(Buffer.alloc(5, 2));
  await other.append(Buffer.alloc(5, 3));
  await log.append(Buffer.alloc(5, 4));
  await log.flush();
  const expected = Buffer.concat([1, 2, 3, 4].map((n) => Buffer.alloc(n === 1 ? 10 : 5, n)));
  t.same(await other.contents(), expected);
  await log.close();
  await other.close();
});

t.test("appending goes on after a restart of the master", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const [one, two] = [await cluster.mount(), await cluster.mount()];
  const log = await TestFile.create(one.fileSystem, "log", append);
  await log.append(Buffer.alloc(3000, 1));
  await cluster.restartMaster();
  const other = await TestFile.open(two.fileSystem, "log", readWrite | append);
  await other.append(Buffer.alloc(2000, 2));
  await log.append(Buffer.alloc(1000, 3));
  await other.append(Buffer.alloc(500, 4));
  await Promise.all([log.flush(), other.flush()]);
  const parts = [3000, 2000, 1000, 500].map((length, i) => Buffer.alloc(length, i + 1));
  t.same(await log.contents(), Buffer.concat(parts));
});

t.test("what was sent and not committed survives a restart of the master", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const { fileSystem } = await cluster.mount();
  const file = await TestFile.create(fileSystem, "f");
  const onServers = (): boolean =>
    cluster.servers.every(({ store }) => store.table.usedBytes === mib);
  await file.write(0, Buffer.alloc(mib, 1));
  await until("the servers have it", onServers);
  const committed = cluster.master.reader.inode(ino(file.node), undefined).size;
  t.equal(committed, 0, "the master does not know of it");
  const before = cluster.master;
  const restarted = cluster.restartMaster();
  await until("there is a new master", () => cluster.master !== before);
  // The mount notices that its connection has ended.
  for (let turn = 0; turn < 50; turn += 1) await new Promise(setImmediate);
  // It needs the file's tail before the background has told the new master of the rest.
  await file.write(mib, Buffer.alloc(1000, 2));
  await restarted;
  await file.flush();
  const expected = Buffer.concat([Buffer.alloc(mib, 1), Buffer.alloc(1000, 2)]);
  t.ok((await file.contents()).equals(expected));
});

t.test("what a mount wrote past the end and never committed is not seen in a gap", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const { fileSystem } = await cluster.mount();
  const file = await TestFile.create(fileSystem, "f");
  await file.write(0, Buffer.alloc(100_000, 1));
  await file.close();
  await cluster.writeAndDie(file.node, [
    { index: 0, offset: 100_000, data: Buffer.alloc(300_000, 2) },
    { index: 1, offset: 0, data: Buffer.alloc(1000, 3) },
  ]);
  const again = await TestFile.open(fileSystem, "f", readWrite);
  t.equal(await again.size(), 100_000);
  await again.write(mib + 500_000, Buffer.from("end"));
  await again.flush();
  const expected = Buffer.alloc(mib + 500_003);
  expected.fill(1, 0, 100_000).write("end", mib + 500_000);
  t.ok((await again.contents()).equals(expected), "the gap is zeros");
  await again.close();
});
