import { readdirSync, statSync } from "node:fs";
import t from "tap";
import { chunkChecksums } from "../../chunkd/store/checksums.ts";
import { cloneChunk } from "../../chunkd/store/clone.ts";
import { copyChunk } from "../../chunkd/store/copy.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { decodeRecord } from "../../chunkd/store/record.ts";
import { cleanChunk, syncChunk } from "../../chunkd/store/sync.ts";
import { flipByte, get, kib, put, sourceOf } from "./store-support.ts";
import {
  h,
  openTestStore,
  pattern,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  until,
  v,
} from "./support.ts";

t.test("a flipped bit in a chunk file is found, counted and reported once", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  t.equal(await cleanChunk(store, h(1)), true);
  const reports: string[] = [];
  store.faults.onBad((bad) => reports.push(bad.reason));
  flipByte(store.files.path(h(1)), 130 * kib);

  t.equal(await statusFrom(get(store, h(1))), "corrupt");
  t.equal(await statusFrom(get(store, h(1), { offset: 140 * kib, length: 10 })), "corrupt");
  t.equal((await get(store, h(1), { length: 128 * kib })).length, 128 * kib, "other blocks read");
  t.equal(store.faults.corruptBlocks, 2);
  t.same(reports, ["chunk 1: block 2 does not match its CRC"]);
});

t.test("a chunk file cut short is corrupt, also where a block ends", async (t) => {
  const root = temporaryDirectory(t);
  const first = await openTestStore(root);
  await put(first.store, h(1), pattern(192 * kib, 1));
  await cleanChunk(first.store, h(1));
  const file = await first.store.disk.open("test", first.store.files.path(h(1)), "write");
  await file.truncate("test", 128 * kib);
  await file.close();
  t.equal(await statusFrom(get(first.store, h(1))), "corrupt");
  t.equal((await get(first.store, h(1), { length: 128 * kib })).length, 128 * kib);
  await first.close();
});

t.test("damaged bytes of a small chunk are found", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(5 * kib, 1));
  const record = store.index.get(h(1));
  if (!record) throw new Error("a record");
  await store.index.put(h(2), record, pattern(5 * kib, 2)).committed;
  t.equal(await statusFrom(get(store, h(2))), "corrupt", "a record under another's key");
});

t.test("a write does not launder the damaged rest of a block", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  await cleanChunk(store, h(1));
  flipByte(store.files.path(h(1)), 70 * kib);
  t.equal(await statusFrom(put(store, h(1), pattern(10, 2), 100 * kib)), "corrupt");
  t.equal(await statusFrom(get(store, h(1))), "corrupt", "still corrupt afterwards");
});

t.test("reads beside writes see whole blocks or nothing, and never corruption", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(512 * kib, 0));
  let writing = true;
  const reader = async (): Promise<number> => {
    let reads = 0;
    for (; writing; reads += 1) {
      const offset = (reads * 7_001) % (400 * kib);
      await get(store, h(1), { offset, length: 100 * kib });
    }
    return reads;
  };
  const readers = [reader(), reader(), reader()];
  for (let i = 0; i < 150; i += 1) {
    await put(store, h(1), pattern(50_000, i), (i * 13_001) % (700 * kib));
  }
  writing = false;
  for (const reads of await Promise.all(readers)) t.ok(reads > 0);
  t.equal(store.faults.corruptBlocks, 0);
});

t.test("a clean chunk is dirty in the index before its file changes", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  const stored = (): boolean | undefined => {
    const bytes = store.index.get(h(1));
    const record = bytes && decodeRecord(h(1), bytes);
    return typeof record === "object" ? record.dirty : undefined;
  };
  await put(store, h(1), pattern(300 * kib, 1));
  await cleanChunk(store, h(1));
  t.equal(stored(), false);
  let dirtyAtWrite: boolean | undefined;
  tampered.before = (site) => {
    if (site === "write.bytes") dirtyAtWrite = stored();
  };
  await put(store, h(1), pattern(10, 2), 5);
  t.equal(dirtyAtWrite, true);
});

t.test("after a crash only dirty chunks are read, and are whole", async (t) => {
  const root = temporaryDirectory(t);
  const before = await openTestStore(root);
  const dirty = pattern(300 * kib, 1);
  await put(before.store, h(1), dirty);
  await put(before.store, h(2), pattern(300 * kib, 2));
  await cleanChunk(before.store, h(2));
  await put(before.store, h(3), pattern(3 * kib, 3));
  await before.close();

  const tampered = new TamperedDisk();
  const { store, recovered, close } = await openTestStore(root, { disk: tampered.disk });
  t.teardown(close);
  t.same([...recovered], [1, 3]);
  t.equal(tampered.steps.filter((site) => site === "remake.size").length, 1);
  t.ok((await get(store, h(1))).equals(dirty));
  t.equal((await chunkChecksums(store, { handle: h(1), version: v(1) })).length, 300 * kib);
});

t.test("a chunk that grows past a block moves into a file with all its bytes", async (t) => {
  const root = temporaryDirectory(t);
  const { store, close } = await openTestStore(root);
  const all = pattern(100 * kib, 1);
  await put(store, h(1), all.subarray(0, 64 * kib));
  t.same(readdirSync(store.files.directory(h(1))), [], "no file for a small chunk");
  await put(store, h(1), all.subarray(64 * kib), 64 * kib);
  t.equal(statSync(store.files.path(h(1))).size, 100 * kib);
  t.equal(store.index.getSmall(h(1)), undefined, "and nothing is left behind in the index");
  await close();
  const again = await openTestStore(root);
  t.teardown(again.close);
  t.ok((await get(again.store, h(1))).equals(all));
});

t.test("those who sync while a sync runs share the next one", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  const name = { handle: h(1), version: v(1) };
  const syncs = (): number => tampered.steps.filter((site) => site === "sync.data").length;
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  tampered.before = (site) => (site === "sync.data" ? held : undefined);
  const first = syncChunk(store, name);
  await until(() => syncs() === 1);
  await put(store, h(1), pattern(10, 2));
  const others = Array.from({ length: 10 }, () => syncChunk(store, name));
  release();
  await Promise.all([first, ...others]);
  t.equal(syncs(), 2);
  await syncChunk(store, name);
  t.equal(syncs(), 2, "and nobody syncs what is synced");
});

t.test("a failed sync is told to those who asked, and the next one tries again", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  const name = { handle: h(1), version: v(1) };
  tampered.fail("sync.data", "EIO");
  t.equal(await statusFrom(syncChunk(store, name)), "io-error");
  t.match(store.space.trouble, /fails to write/);
  tampered.before = () => undefined;
  t.equal(await statusFrom(syncChunk(store, name)), "ok");
});

t.test("raising a version is refused from elsewhere and repeated at will", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bytes = pattern(300 * kib, 1);
  await put(store, h(1), bytes);
  const raise = (version: number, newVersion: number, length?: number): Promise<void> =>
    raiseVersion(store, { handle: h(1), version: v(version), newVersion: v(newVersion), length });
  await raise(1, 2);
  await raise(1, 2);
  t.equal(await statusFrom(raise(1, 3)), "stale-version");
  t.equal(await statusFrom(get(store, h(1), { version: 1 })), "stale-version");
  await raise(2, 3, 100_001);
  t.ok((await get(store, h(1), { version: 3 })).equals(bytes.subarray(0, 100_001)));
  t.equal(
    await statusFrom(raiseVersion(store, { handle: h(9), version: v(1), newVersion: v(2) })),
    "no-chunk",
  );
});

t.test("a clone is a copy of its own, made once", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bytes = pattern(300 * kib, 1);
  await put(store, h(1), bytes);
  const request = { handle: h(1), version: v(1), target: h(2), length: 200_001 };
  await cloneChunk(store, request);
  t.ok((await get(store, h(2))).equals(bytes.subarray(0, 200_001)));
  await put(store, h(2), pattern(100, 5));
  await cloneChunk(store, request);
  t.ok((await get(store, h(2), { length: 100 })).equals(pattern(100, 5)), "repeated, not redone");
  t.ok((await get(store, h(1))).equals(bytes), "the source is untouched");
  await put(store, h(3), bytes);
  t.equal(await statusFrom(cloneChunk(store, { ...request, handle: h(3) })), "exists");
});

t.test("a corrupt source is not cloned", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  flipByte(store.files.path(h(1)), 299 * kib);
  const clone = { handle: h(1), version: v(1), target: h(2), length: 300 * kib - 1 };
  t.equal(await statusFrom(cloneChunk(store, clone)), "corrupt");
  t.equal(await statusFrom(get(store, h(2))), "no-chunk");
});

t.test("a fetched replica replaces an older one, never a newer one", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  const bytes = pattern(5 * 1024 * kib + 17, 2);
  const length = await copyChunk(store, { handle: h(1), version: v(4) }, sourceOf(bytes));
  t.equal(length, bytes.length);
  const tail = await get(store, h(1), { version: 4, offset: 5 * 1024 * kib });
  t.ok(tail.equals(bytes.subarray(5 * 1024 * kib)));
  const older = copyChunk(store, { handle: h(1), version: v(3) }, sourceOf(bytes));
  t.equal(await statusFrom(older), "stale-version");
  const small = pattern(9, 3);
  await copyChunk(store, { handle: h(1), version: v(5) }, sourceOf(small));
  t.ok((await get(store, h(1), { version: 5 })).equals(small));
  t.same(readdirSync(store.files.directory(h(1))), [], "the file of the old replica is gone");
});

t.test("a source that changes while it is copied replaces nothing", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const old = pattern(300 * kib, 1);
  await put(store, h(1), old);
  const source = sourceOf(pattern(300 * kib, 2));
  const lying = { ...source, checksums: sourceOf(pattern(300 * kib, 3)).checksums };
  t.equal(
    await statusFrom(copyChunk(store, { handle: h(1), version: v(2) }, lying)),
    "unavailable",
  );
  t.ok((await get(store, h(1))).equals(old));
});

t.test("files that no record speaks of are removed at start, others are not", async (t) => {
  const root = temporaryDirectory(t);
  const first = await openTestStore(root);
  await put(first.store, h(1), pattern(300 * kib, 1));
  const orphan = first.store.files.path(h(0x1234));
  await first.store.disk.writeFile("test", orphan, pattern(10, 1));
  await first.close();
  const { store, close } = await openTestStore(root);
  t.teardown(close);
  t.same(readdirSync(store.files.directory(h(0x1234))), []);
  t.equal((await get(store, h(1))).length, 300 * kib);
});
