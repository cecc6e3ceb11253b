import { readdirSync } from "node:fs";
import t from "tap";
import { draftMsMax, draftsMax } from "../../chunkd/limits.ts";
import { copyChunk } from "../../chunkd/store/copy.ts";
import { flipByte, get, kib, put, sourceOf } from "./store-support.ts";
import {
  h,
  openTestStore,
  pattern,
  PushedClock,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  v,
} from "./support.ts";

/** Replicas that are fetched from other servers. */

t.test("a fetched replica replaces an older one, never a newer one", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  await put(store, h(1), pattern(300 * kib, 1));
  const bytes = pattern(5 * 1024 * kib + 17, 2);
  const order = { handle: h(1), version: v(4), draft: false };
  const { length } = await copyChunk(store, order, sourceOf(bytes));
  t.equal(length, bytes.length);
  const tail = await get(store, h(1), { version: 4, offset: 5 * 1024 * kib });
  t.ok(tail.equals(bytes.subarray(5 * 1024 * kib)));
  const older = copyChunk(store, { handle: h(1), version: v(3), draft: false }, sourceOf(bytes));
  t.equal(await statusFrom(older), "stale-version");
  const small = pattern(9, 3);
  await copyChunk(store, { handle: h(1), version: v(5), draft: false }, sourceOf(small));
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
    await statusFrom(copyChunk(store, { handle: h(1), version: v(2), draft: false }, lying)),
    "unavailable",
  );
  t.ok((await get(store, h(1))).equals(old));
});

t.test("a copy that is cancelled while it is fetched replaces nothing", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const old = pattern(300 * kib, 1);
  await put(store, h(1), old);
  const cancelled = new AbortController();
  const source = sourceOf(pattern(400 * kib, 2));
  const slow = {
    ...source,
    read: async (offset: number, length: number) => {
      cancelled.abort();
      return source.read(offset, length);
    },
  };
  const copy = copyChunk(
    store,
    { handle: h(1), version: v(2), draft: false },
    slow,
    cancelled.signal,
  );
  t.equal(await statusFrom(copy), "interrupted");
  t.ok((await get(store, h(1))).equals(old));
  const again = { handle: h(1), version: v(2), draft: false };
  const { fetchedBytes } = await copyChunk(store, again, source);
  t.ok(fetchedBytes < 400 * kib, "what was fetched is not fetched again");
  t.ok((await get(store, h(1), { version: 2 })).equals(pattern(400 * kib, 2)));
  t.same(readdirSync(store.files.stagingDirectory), []);
});

t.test("a copy fetches only the blocks that an older replica has not alike", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  const old = pattern(1000 * kib, 1);
  await put(store, h(1), old);
  const bytes = Buffer.concat([old, pattern(7, 3)]);
  bytes[130 * kib] = (bytes[130 * kib] ?? 0) ^ 1;
  flipByte(store.files.path(h(1)), 300 * kib);
  const order = { handle: h(1), version: v(2), draft: false };
  const { fetchedBytes } = await copyChunk(store, order, sourceOf(bytes));
  const last = bytes.length % (64 * kib);
  t.equal(fetchedBytes, 2 * 64 * kib + last, "a changed block, a damaged one, and the last");
  t.ok((await get(store, h(1), { version: 2 })).equals(bytes));
});

t.test("a draft is no replica, and leaves only what changes after it to be fetched", async (t) => {
  const root = temporaryDirectory(t);
  const { store, close } = await openTestStore(root);
  const before = pattern(700 * kib, 1);
  const draft = { handle: h(1), version: v(3), draft: true };
  await copyChunk(store, draft, sourceOf(before));
  t.equal(await statusFrom(get(store, h(1), { version: 3 })), "no-chunk");
  t.equal(store.table.count, 0);
  const bytes = Buffer.from(before.subarray(0, 600 * kib));
  bytes[70 * kib] = (bytes[70 * kib] ?? 0) ^ 1;
  const order = { handle: h(1), version: v(4), draft: false };
  const { fetchedBytes } = await copyChunk(store, order, sourceOf(bytes));
  const last = bytes.length % (64 * kib);
  t.equal(fetchedBytes, 64 * kib + last);
  t.ok((await get(store, h(1), { version: 4 })).equals(bytes));
  await copyChunk(store, { handle: h(2), version: v(1), draft: true }, sourceOf(before));
  t.equal(readdirSync(store.files.stagingDirectory).length, 1);
  await close();
  const again = await openTestStore(root);
  t.teardown(again.close);
  t.same(readdirSync(store.files.stagingDirectory), [], "a restart forgets it");
});

t.test("what a failed sync was to keep of a draft is fetched again", async (t) => {
  for (const draft of [true, false]) {
    const tampered = new TamperedDisk();
    const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
    t.teardown(close);
    const bytes = pattern(300 * kib, 1);
    const copy = { handle: h(1), version: v(1) };
    tampered.fail("copy.sync", "EIO");
    const failed = copyChunk(store, { ...copy, draft }, sourceOf(bytes));
    t.equal(await statusFrom(failed), "io-error");
    tampered.before = () => undefined;
    t.same(readdirSync(store.files.stagingDirectory), [], "its pages may be lost");
    const again = await copyChunk(store, { ...copy, draft: false }, sourceOf(bytes));
    t.equal(again.fetchedBytes, bytes.length);
    t.ok((await get(store, h(1))).equals(bytes));
  }
});

t.test("drafts that nobody finishes make room for others", async (t) => {
  const { store, close } = await openTestStore(temporaryDirectory(t));
  t.teardown(close);
  for (let i = 1; i <= draftsMax + 3; i += 1) {
    await copyChunk(
      store,
      { handle: h(i), version: v(1), draft: true },
      sourceOf(pattern(100 * kib, i)),
    );
  }
  t.equal(readdirSync(store.files.stagingDirectory).length, draftsMax);
});

t.test("a draft that nobody finishes goes", async (t) => {
  const clock = new PushedClock();
  const { store, close } = await openTestStore(temporaryDirectory(t), { clock });
  t.teardown(close);
  await copyChunk(
    store,
    { handle: h(1), version: v(1), draft: true },
    sourceOf(pattern(100 * kib, 1)),
  );
  await store.drafts.expire();
  t.equal(readdirSync(store.files.stagingDirectory).length, 1, "it has its time");
  clock.push(draftMsMax + 1);
  await store.drafts.expire();
  t.same(readdirSync(store.files.stagingDirectory), []);
});
