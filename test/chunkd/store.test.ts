import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import t from "tap";
import { chunkChecksums } from "../../chunkd/store/checksums.ts";
import { cloneChunk } from "../../chunkd/store/clone.ts";
import { copyChunk } from "../../chunkd/store/copy.ts";
import { StatusError } from "../../protocol/status.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { decodeRecord } from "../../chunkd/store/record.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import { cleanChunk, syncChunk } from "../../chunkd/store/sync.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { flipByte, get, kib, put, sourceOf } from "./store-support.ts";
import {
  barrier,
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
  t.equal(store.faults.corruptBlocks, 1);
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
  const { store, close } = await openTestStore(root, { disk: tampered.disk });
  t.teardown(close);
  t.same(
    [h(1), h(2), h(3)].map((handle) => store.faults.isDoubtful(handle)),
    [true, false, true],
  );
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

t.test("what a failed sync was to keep is never called safe, nor read again", async (t) => {
  const root = temporaryDirectory(t);
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(root, { disk: tampered.disk });
  const bytes = pattern(300 * kib, 1);
  await put(store, h(1), bytes);
  const name = { handle: h(1), version: v(1) };
  const reports: unknown[] = [];
  store.faults.onBad((bad) => reports.push(bad));
  tampered.fail("sync.data", "EIO");
  const both = [syncChunk(store, name), syncChunk(store, name)].map(statusFrom);
  t.same(await Promise.all(both), ["io-error", "io-error"]);
  t.match(store.space.trouble, /fails to read or write/);
  tampered.before = () => undefined;
  t.equal(await statusFrom(syncChunk(store, name)), "io-error", "though the disk would say yes");
  t.equal(await statusFrom(get(store, h(1))), "io-error");
  t.equal(await statusFrom(raiseVersion(store, { ...name, newVersion: v(2) })), "io-error");
  t.match(reports, [{ handle: 1, version: 1, reason: /failed to keep/ }]);
  await cleanChunk(store, h(1));
  await store.index.flushed();
  const stored = decodeRecord(h(1), store.index.get(h(1)) ?? Buffer.alloc(0));
  t.match(stored, { dirty: true }, "a restart reports it");
  await copyChunk(store, { handle: h(1), version: v(1), draft: false }, sourceOf(bytes));
  t.ok((await get(store, h(1))).equals(bytes), "mended by a copy");
  t.equal(await statusFrom(syncChunk(store, name)), "ok");
  await close();
});

t.test("raising a version is refused from elsewhere and repeated at will", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bytes = pattern(300 * kib, 1);
  await put(store, h(1), bytes);
  const raise = (version: number, newVersion: number, length?: number): Promise<boolean> =>
    raiseVersion(store, { handle: h(1), version: v(version), newVersion: v(newVersion), length });
  t.equal(await raise(1, 2), false);
  t.equal(await raise(1, 2), true, "nobody knows any more whether replicas are equal");
  t.equal(await statusFrom(raise(1, 3)), "stale-version");
  t.equal(await statusFrom(get(store, h(1), { version: 1 })), "stale-version");
  await raise(2, 3, 100_001);
  t.ok((await get(store, h(1), { version: 3 })).equals(bytes.subarray(0, 100_001)));
  t.equal(
    await statusFrom(raiseVersion(store, { handle: h(9), version: v(1), newVersion: v(2) })),
    "no-chunk",
  );
});

t.test("a cut whose record the index refuses leaves a chunk that is cut and whole", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bytes = pattern(300 * kib, 4);
  await put(store, h(1), bytes);
  const order = { handle: h(1), version: v(1), newVersion: v(2), length: 99_999 };
  const { index } = store;
  const write = index.put.bind(index);
  index.put = () => {
    const committed = Promise.reject(new StatusError("no-space", "the test says so"));
    committed.catch(() => undefined);
    return { committed, flushed: () => committed };
  };
  t.equal(await statusFrom(raiseVersion(store, order)), "no-space");
  index.put = write;
  t.ok((await get(store, h(1))).equals(bytes.subarray(0, 99_999)));
  t.equal(await statusFrom(raiseVersion(store, order)), "ok");
  t.ok((await get(store, h(1), { version: 2 })).equals(bytes.subarray(0, 99_999)));
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

t.test("a read that a write overtakes is never taken for corruption", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  const [write, read] = [barrier(), barrier()];
  let [writes, reads] = [0, 0];
  tampered.before = (site) => {
    if (site !== "write.bytes") return undefined;
    writes += 1;
    return write.passed;
  };
  tampered.after = (site) => {
    if (site !== "read.blocks") return undefined;
    reads += 1;
    return reads === 1 ? read.passed : undefined;
  };
  const writing = put(store, h(1), pattern(64 * kib, 2)); // Under way when the read begins,
  await until(() => writes === 1);
  const reading = get(store, h(1), { length: 64 * kib });
  await until(() => reads === 1); // which has the old bytes now.
  write.open();
  await writing; // It ends before the read does.
  read.open();
  t.ok((await reading).equals(pattern(64 * kib, 2)));
  t.equal(store.faults.corruptBlocks, 0);
  t.same(store.faults.bad(), []);
});

for (const [name, length] of [
  ["small chunk", 100],
  ["small chunk that grows into a file", 100 * kib],
] as const) {
  t.test(`the first write to a clean ${name} is answered when its mark is safe`, async (t) => {
    const { store, close } = await openTestStore(temporaryDirectory(t));
    t.teardown(close);
    const flush = barrier();
    let flushes = 0;
    const real = store.index.put.bind(store.index);
    store.index.put = (...args) => {
      const written = real(...args);
      const flushed = (): Promise<void> => {
        flushes += 1;
        return flush.passed.then(written.flushed);
      };
      return { ...written, flushed };
    };
    await put(store, h(1), pattern(1000, 1));
    await put(store, h(1), pattern(1000, 2));
    t.equal(flushes, 0, "a new chunk waits for no disk: without its record it is not reported");
    await cleanChunk(store, h(1));
    const answered: string[] = [];
    const first = put(store, h(1), pattern(length, 3)).then(() => answered.push("first"));
    const second = put(store, h(1), pattern(10, 4), 50).then(() => answered.push("second"));
    await until(() => flushes === 1);
    await store.index.flushed();
    for (let turns = 0; turns < 100; turns += 1) await new Promise(setImmediate);
    t.same(answered, [], "power loss now could bring back the clean record");
    flush.open();
    await Promise.all([first, second]);
    await put(store, h(1), pattern(length, 5));
    t.equal(flushes, 1, "once for each time it was clean");
  });
}

t.test("a raise that is repeated cuts, too", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  for (const [handle, length] of [
    [h(1), 300 * kib],
    [h(2), 30 * kib],
  ] as const) {
    const bytes = pattern(length, handle);
    await put(store, handle, bytes);
    const order = { handle, version: v(1), newVersion: v(2) };
    await raiseVersion(store, order);
    await raiseVersion(store, { ...order, length: 20 * kib });
    await raiseVersion(store, { ...order, length: 25 * kib });
    const read = await get(store, handle, { version: 2 });
    t.ok(read.equals(bytes.subarray(0, 20 * kib)), `${length} bytes`);
  }
});

t.test("an order that was cancelled before its turn came is not carried out", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const bytes = pattern(300 * kib, 1);
  await put(store, h(1), bytes);
  const cancelled = new AbortController();
  const gate = barrier();
  const held = store.table.with(h(1), (chunk) => chunk.gate.run("shared", () => gate.passed));
  const name = { handle: h(1), version: v(1) };
  const newer = { handle: h(1), version: v(3), draft: false };
  const orders = [
    raiseVersion(store, { ...name, newVersion: v(2), length: 5 }, cancelled.signal),
    cloneChunk(store, { ...name, target: h(2) }, cancelled.signal),
    copyChunk(store, newer, sourceOf(pattern(9, 9)), cancelled.signal),
  ].map(statusFrom);
  cancelled.abort();
  gate.open();
  await held;
  t.same(await Promise.all(orders), ["interrupted", "interrupted", "interrupted"]);
  t.ok((await get(store, h(1))).equals(bytes));
  t.equal(await statusFrom(get(store, h(2))), "no-chunk");
});

t.test("what a clone or a copy holds counts as planned", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const planned = (handle: ChunkHandle): Promise<number> =>
    store.table.with(handle, async (chunk) => chunk.plannedLength);
  await store.table.with(h(2), async (kept) => {
    for (const [source, length] of [
      [h(1), 300 * kib],
      [h(5), 30 * kib],
    ] as const) {
      const [clone, copy] = [h(source + 1), h(source + 2)];
      await put(store, source, pattern(length, 1));
      await cloneChunk(store, { handle: source, version: v(1), target: clone });
      await copyChunk(
        store,
        { handle: copy, version: v(1), draft: false },
        sourceOf(pattern(length, 1)),
      );
      t.same([await planned(clone), await planned(copy)], [length, length]);
    }
    t.ok(kept.record);
  });
});

t.test(
  "files that no record speaks of are kept aside, what is ours to delete is not",
  async (t) => {
    const root = temporaryDirectory(t);
    const tampered = new TamperedDisk();
    const first = await openTestStore(root, { disk: tampered.disk });
    const { files, disk } = first.store;
    await put(first.store, h(1), pattern(300 * kib, 1));
    await put(first.store, h(2), pattern(30 * kib, 2));
    await put(first.store, h(3), pattern(300 * kib, 3));
    const unknown = pattern(10, 4);
    await disk.writeFile("test", files.path(h(0x1234)), unknown);
    await disk.writeFile("test", files.path(h(2)), unknown); // A move into a file, broken off.
    tampered.fail("remove.file", "EIO"); // A deletion, broken off.
    await removeChunk(first.store, h(3)).catch(() => undefined);
    await first.close();
    const { store, close } = await openTestStore(root);
    t.teardown(close);
    for (const handle of [2, 3, 0x1234]) t.same(readdirSync(files.directory(h(handle))), []);
    const [lost, ...others] = readdirSync(files.lostDirectory);
    t.same(others, []);
    t.match(lost, /^00000000001234\.[0-9]+$/);
    t.ok(readFileSync(`${files.lostDirectory}/${lost}`).equals(unknown));
    await store.index.flushed(); // Notes of deletions are taken back behind the start.
    t.same(store.index.removals(), []);
    t.equal((await get(store, h(1))).length, 300 * kib);
    t.equal((await get(store, h(2))).length, 30 * kib);
  },
);

t.test("a dirty chunk whose file is gone is bad, not empty", async (t) => {
  const root = temporaryDirectory(t);
  const first = await openTestStore(root);
  await put(first.store, h(1), pattern(300 * kib, 1));
  await cleanChunk(first.store, h(1));
  await put(first.store, h(1), pattern(10, 2));
  await first.close();
  rmSync(first.store.files.path(h(1)));
  const { store, close } = await openTestStore(root);
  t.teardown(close);
  t.equal(await statusFrom(get(store, h(1))), "corrupt");
  t.match(store.faults.bad(), [{ handle: 1, reason: /gone/ }]);
});
