import t from "tap";
import { systemClock } from "../../common/os/clock.ts";
import { Scrub } from "../../chunkd/background/scrub.ts";
import { faultsMax, scrubRestMs } from "../../chunkd/limits.ts";
import type { BadChunk } from "../../chunkd/store/faults.ts";
import { cleanChunk } from "../../chunkd/store/sync.ts";
import { encodeRecord, decodeRecord } from "../../chunkd/store/record.ts";
import type { Store } from "../../chunkd/store/store.ts";
import type { Clock, Timer } from "../../common/clock.ts";
import { flipByte, kib, put } from "./store-support.ts";
import {
  FakeMaster,
  h,
  openTestStore,
  pattern,
  PushedClock,
  replicaOf,
  startServer,
  TamperedDisk,
  temporaryDirectory,
  TestClient,
  until,
  v,
} from "./support.ts";

const never = new AbortController().signal;
const quiet = (): boolean => false;

/** Time that passes only when somebody waits for it. */
class LeapingClock implements Clock {
  ms = 1_000;
  nowMs(): number {
    return this.ms;
  }
  wallNs(): bigint {
    return BigInt(Math.floor(this.ms)) * 1_000_000n;
  }
  timer(afterMs: number, fire: () => void): Timer {
    let live = true;
    setImmediate(() => {
      if (!live) return;
      this.ms += afterMs;
      fire();
    });
    return { cancel: () => void (live = false) };
  }
}

function scrubOf(store: Store, clock: Clock = new LeapingClock(), isBusy = quiet): Scrub {
  return new Scrub({ store, clock, bytesPerSecond: 1024 * kib, isBusy });
}

/** A clean chunk with these bytes. */
async function putClean(store: Store, handle: number, bytes: Buffer): Promise<void> {
  await put(store, h(handle), bytes);
  await cleanChunk(store, h(handle));
}

t.test("bits that flip where nobody reads are found, block by block, once each", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  const reports: unknown[] = [];
  store.faults.onBad((bad) => reports.push(bad));
  await putClean(store, 1, pattern(600 * kib, 1));
  await putClean(store, 2, pattern(600 * kib, 2));
  await putClean(store, 3, pattern(10 * kib, 3));
  flipByte(store.files.path(h(2)), 0);
  flipByte(store.files.path(h(2)), 64 * kib - 1);
  flipByte(store.files.path(h(2)), 599 * kib);
  const scrub = scrubOf(store);
  await scrub.runRound(never);
  t.match(store.faults.bad(), [{ handle: 2, version: 1, blocks: [0, 9] }]);
  t.equal(store.faults.corruptBlocks, 2);
  t.match(reports.at(-1), { handle: 2, blocks: [0, 9] });
  t.match(scrub.report, { round: 2, badBlocks: 2, doneBytes: 0, totalBytes: 1210 * kib });
  await scrub.runRound(never);
  t.equal(store.faults.corruptBlocks, 2, "what is known is not counted again");
  await close();
});

t.test("bad blocks beside each other are told together", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const reports: BadChunk[] = [];
  store.faults.onBad((bad) => reports.push(bad));
  await putClean(store, 1, pattern(512 * kib, 1));
  for (let block = 0; block < 7; block += 1) flipByte(store.files.path(h(1)), block * 64 * kib);
  await scrubOf(store).runRound(never);
  t.same(
    reports.map(({ blocks }) => blocks),
    [
      [0, 1, 2, 3],
      [0, 1, 2, 3, 4, 5, 6],
    ],
    "once for each piece that was read",
  );
  t.equal(store.faults.corruptBlocks, 7);
});

t.test("a bad chunk is told though there are too many to remember", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bad = (handle: number): BadChunk => ({
    ...{ handle: h(handle), version: v(1), reason: "a test", blocks: [handle] },
  });
  for (let i = 0; i < faultsMax; i += 1) store.faults.noteCorrupt(bad(i + 1));
  const reports: BadChunk[] = [];
  store.faults.onBad((one) => reports.push(one));
  store.faults.noteCorrupt(bad(9_999));
  t.same(reports, [bad(9_999)]);
  t.equal(store.faults.bad().length, faultsMax);
});

t.test("small chunks and records in the index are verified as they are stored", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  for (const handle of [1, 2, 3]) await putClean(store, handle, pattern(10 * kib, handle));
  const record = store.index.get(h(2)) ?? Buffer.alloc(0);
  await store.index.put(h(2), Buffer.from(record), pattern(10 * kib, 9)).committed;
  const damaged = Buffer.from(store.index.get(h(3)) ?? Buffer.alloc(0));
  damaged[20] = (damaged[20] ?? 0) ^ 1;
  await store.index.put(h(3), damaged, "as is").committed;
  await scrubOf(store).runRound(never);
  t.match(store.faults.bad(), [
    { handle: 2, version: 1, blocks: [0], reason: /does not match its CRC/ },
    { handle: 3, blocks: [], reason: /index record does not match/ },
  ]);
  const decoded = decodeRecord(h(2), record);
  if (typeof decoded === "string") throw new Error(decoded);
  const missing = encodeRecord(h(2), { ...decoded, length: 5 });
  await store.index.put(h(2), missing, "none").committed;
  store.faults.forget(h(2));
  await scrubOf(store).runRound(never);
  t.match(store.faults.bad()[1], { handle: 2, reason: /missing from the index/ });
  await close();
});

t.test("a round goes on after a restart where it was", async (t) => {
  const root = temporaryDirectory(t);
  const tampered = new TamperedDisk();
  const first = await openTestStore(root, { disk: tampered.disk });
  for (const handle of [1, 2, 3, 4])
    await putClean(first.store, handle, pattern(300 * kib, handle));
  const stop = new AbortController();
  let reads = 0;
  tampered.before = (site) => {
    if (site === "read.blocks" && (reads += 1) === 5) stop.abort(); // The third of four chunks.
  };
  const scrub = scrubOf(first.store);
  await scrub.runRound(stop.signal);
  t.match(scrub.report, { round: 1, totalBytes: 1200 * kib });
  await first.close();
  const second = await openTestStore(root, { disk: tampered.disk });
  const again = scrubOf(second.store);
  t.match(again.report, { round: 1, doneBytes: 856 * kib });
  t.equal(again.report.finishedAt, undefined);
  reads = 10;
  await again.runRound(never);
  t.equal(reads, 14, "the two chunks that were not done, of two pieces each");
  t.match(again.report, { round: 2, finishedAt: Number });
  await second.close();
});

t.test("it reads no faster than told, and waits for clients, but not for ever", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  await putClean(store, 1, pattern(4096 * kib, 1));
  const clock = new LeapingClock();
  const start = clock.ms;
  await scrubOf(store, clock).runRound(never);
  const tookMs = clock.ms - start;
  t.ok(tookMs >= 3_700 && tookMs < 4_100, `4 MiB at 1 MiB/s in ${tookMs} ms`);
  const busyStart = clock.ms;
  await scrubOf(store, clock, () => true).runRound(never);
  const busyMs = clock.ms - busyStart;
  t.ok(busyMs > 2 * tookMs && busyMs < 4 * tookMs, `while clients are busy, ${busyMs} ms`);
  await close();
});

t.test("a disk that refuses blocks is told of, one bad sector is not a failing disk", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  await putClean(store, 1, pattern(64 * kib + 1, 1));
  tampered.fail("read.blocks", "EIO");
  const scrub = scrubOf(store);
  t.equal(store.space.health, "ok");
  await scrub.runRound(never);
  t.match(store.faults.bad(), [{ handle: 1, blocks: [0, 1] }]);
  t.equal(store.space.health, "failing", "three reads were refused");
  await close();
});

t.test("a server tells how far it is, and what it found, with its heartbeats", async (t) => {
  const master = await new FakeMaster().start(t);
  const clock = new PushedClock();
  const server = await startServer(t, master, { clock, scrubBytesPerSecond: 1e9 });
  const client = new TestClient(t);
  await client.write([replicaOf(server)], pattern(300 * kib, 1), { handle: h(1) });
  await cleanChunk(server.store, h(1));
  await until(() => (master.beats.at(-1)?.scrub?.round ?? 0) >= 2);
  flipByte(server.store.files.path(h(1)), 200 * kib);
  clock.push(scrubRestMs);
  await until(() => master.bad.length > 0);
  t.match(master.bad, [{ handle: 1, version: 1, blocks: [3] }]);
  await until(() => (master.beats.at(-1)?.scrub?.badBlocks ?? 0) === 1);
  const finishedAt = master.beats.at(-1)?.scrub?.finishedAt ?? 0;
  t.ok(Math.abs(finishedAt - Number(systemClock.wallNs() / 1_000_000_000n)) < 60);
});
