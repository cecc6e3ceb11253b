import t from "tap";
import type { Clock } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { diskCalmSeconds } from "../../chunkd/limits.ts";
import { cleanChunk } from "../../chunkd/store/sync.ts";
import { get, kib, put } from "./store-support.ts";
import {
  h,
  openTestStore,
  pattern,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
} from "./support.ts";

/** The machine's clock, of which a test moves the wall. */
function wallClock(): Clock & { pushSeconds: (seconds: number) => void } {
  let pushedNs = 0n;
  return {
    nowMs: () => systemClock.nowMs(),
    wallNs: () => systemClock.wallNs() + pushedNs,
    timer: (ms, fire) => systemClock.timer(ms, fire),
    pushSeconds: (seconds) => (pushedNs += BigInt(seconds) * 1_000_000_000n),
  };
}

t.test("a disk that fails is known to, over restarts, until it was calm for long", async (t) => {
  const root = temporaryDirectory(t);
  const clock = wallClock();
  const tampered = new TamperedDisk();
  const options = { disk: tampered.disk, clock };
  const first = await openTestStore(root, options);
  await put(first.store, h(1), pattern(100 * kib, 1));
  tampered.fail("write.bytes", "EIO");
  t.equal(await statusFrom(put(first.store, h(1), pattern(100 * kib, 2))), "io-error");
  tampered.before = () => undefined;
  t.equal(first.store.space.health, "failing");
  await put(first.store, h(1), pattern(100 * kib, 2));
  t.equal(first.store.space.health, "failing", "one success is no reason to trust it");
  t.match(first.store.space.trouble, /EIO/);
  await first.close();
  const second = await openTestStore(root, options);
  t.equal(second.store.space.health, "failing");
  clock.pushSeconds(diskCalmSeconds - 60);
  t.equal(second.store.space.health, "failing");
  clock.pushSeconds(120);
  t.equal(second.store.space.health, "ok");
  tampered.fail("read.blocks", "EIO");
  await statusFrom(get(second.store, h(1)));
  t.equal(second.store.space.health, "ok", "what was before the calm does not count");
  await second.close();
});

t.test("unreadable places: one is a chunk's matter, three make the disk fail", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  for (const handle of [1, 2, 3]) {
    await put(store, h(handle), pattern(100 * kib, handle));
    await cleanChunk(store, h(handle));
  }
  const healths: string[] = [];
  for (const handle of [1, 2, 3]) {
    tampered.fail("read.blocks", "EIO");
    t.equal(await statusFrom(get(store, h(handle))), "io-error");
    tampered.before = () => undefined;
    healths.push(store.space.health);
  }
  t.same(healths, ["ok", "ok", "failing"]);
  t.equal(store.faults.bad().length, 3);
  t.ok((await get(store, h(1))).equals(pattern(100 * kib, 1)), "what can be read is served");
  await close();
});

t.test("a read-only disk serves reads, and is found out to be writable again", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  await put(store, h(1), pattern(100 * kib, 1));
  const readOnly = (site: string): void => {
    if (!/write|probe$/.test(site)) return;
    throw Object.assign(new Error("EROFS"), { code: "EROFS" });
  };
  tampered.before = readOnly;
  t.equal(await statusFrom(put(store, h(1), pattern(100 * kib, 2))), "io-error");
  await store.space.refresh();
  t.equal(store.space.health, "read-only");
  t.match(store.space.trouble, /read-only/);
  t.ok((await get(store, h(1))).equals(pattern(100 * kib, 1)));
  tampered.before = () => undefined;
  await store.space.refresh();
  t.equal(store.space.health, "ok");
  await close();
});
