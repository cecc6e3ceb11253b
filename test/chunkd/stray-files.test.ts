import { existsSync } from "node:fs";
import t from "tap";
import { copyChunk } from "../../chunkd/store/copy.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import type { Store } from "../../chunkd/store/store.ts";
import { cleanChunk } from "../../chunkd/store/sync.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { get, kib, put, sourceOf } from "./store-support.ts";
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

/** Every file in `chunks/` has a record in the index, or a note there that it is to go. */

async function isStray(store: Store, handle: ChunkHandle): Promise<boolean> {
  await store.index.flushed();
  const isKnown = store.index.has(handle) || store.index.isBeingRemoved(handle);
  return existsSync(store.files.path(handle)) && !isKnown;
}

async function removals(store: Store): Promise<ChunkHandle[]> {
  await store.index.flushed();
  return store.index.removals();
}

const failure = (site: string, code = "EIO"): Error =>
  Object.assign(new Error(`${code} at ${site}`), { code });

/** Fails every step at one of `sites`. */
function failAll(tampered: TamperedDisk, sites: readonly string[]): void {
  tampered.before = (site) => {
    if (sites.includes(site)) throw failure(site);
  };
}

/** Until told otherwise, the index takes no record. */
function refusePuts({ index }: Store): { end: () => void } {
  const put = index.put.bind(index);
  index.put = () => {
    const refused = Promise.reject(new StatusError("no-space", "the index is full"));
    refused.catch(() => undefined);
    return { committed: refused, flushed: () => refused };
  };
  return { end: () => (index.put = put) };
}

t.test("a file that a small chunk did not become goes with the chunk", async (t) => {
  for (const site of ["migrate.bytes", "migrate.sync"]) {
    const tampered = new TamperedDisk();
    const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
    t.teardown(close);
    await put(store, h(1), pattern(kib, 1));
    failAll(tampered, [site, "write.undo"]);
    t.equal(await statusFrom(put(store, h(1), pattern(100 * kib, 2))), "io-error");
    t.ok((await get(store, h(1))).equals(pattern(kib, 1)), "it is small still");
    t.ok(existsSync(store.files.path(h(1))), "its file could not be removed");
    tampered.before = () => undefined;
    await removeChunk(store, h(1));
    t.notOk(existsSync(store.files.path(h(1))), `${site}: the file is gone`);
    t.same(await removals(store), []);
  }
});

t.test("a small chunk that becomes a file after all keeps it", async (t) => {
  const tampered = new TamperedDisk();
  const root = temporaryDirectory(t);
  const { store, close } = await openTestStore(root, { disk: tampered.disk });
  await put(store, h(1), pattern(kib, 1));
  failAll(tampered, ["migrate.sync", "write.undo"]);
  t.equal(await statusFrom(put(store, h(1), pattern(100 * kib, 2))), "io-error");
  tampered.before = () => undefined;
  await put(store, h(1), pattern(100 * kib, 2));
  await cleanChunk(store, h(1));
  t.same(await removals(store), []);
  await close();
  const again = await openTestStore(root);
  t.teardown(again.close);
  t.ok((await get(again.store, h(1))).equals(pattern(100 * kib, 2)));
});

t.test("a deletion that the disk refused is done when it is ordered again", async (t) => {
  for (const site of ["remove.file", "remove.sync-dir"]) {
    const tampered = new TamperedDisk();
    const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
    t.teardown(close);
    await put(store, h(1), pattern(100 * kib, 1));
    failAll(tampered, [site]);
    await t.rejects(removeChunk(store, h(1)), { code: "EIO" });
    t.same(await removals(store), [1], "a restart does it");
    tampered.before = () => undefined;
    await removeChunk(store, h(1));
    t.notOk(existsSync(store.files.path(h(1))));
    t.same(await removals(store), [], site);
  }
});

t.test("a copy that is small leaves no file of what it replaces", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  await put(store, h(1), pattern(100 * kib, 1));
  const order = { handle: h(1), version: v(2), draft: false };
  const copy = (): Promise<string> =>
    statusFrom(copyChunk(store, order, sourceOf(pattern(kib, 2))));
  failAll(tampered, ["remove.file"]);
  t.equal(await copy(), "io-error");
  t.equal(await copy(), "io-error", "the file is in the way still");
  t.notOk(await isStray(store, h(1)));
  tampered.before = () => undefined;
  t.equal(await copy(), "ok");
  t.ok((await get(store, h(1), { version: 2 })).equals(pattern(kib, 2)));
  await removeChunk(store, h(1));
  t.notOk(existsSync(store.files.path(h(1))));
});

t.test("a deletion that ends late does not speak for a copy of the same chunk", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  await put(store, h(1), pattern(100 * kib, 1));
  const held = barrier();
  tampered.before = (site) => {
    if (site === "remove.sync-dir") return held.passed;
    if (site === "copy.publish-dir") throw failure(site);
    return undefined;
  };
  const removal = removeChunk(store, h(1));
  await until(() => tampered.steps.includes("remove.sync-dir"));
  const source = sourceOf(pattern(200 * kib, 2));
  let begun = false;
  const watched = {
    ...source,
    checksums: () => {
      begun = true;
      return source.checksums();
    },
  };
  const order = { handle: h(1), version: v(2), draft: false };
  const copy = statusFrom(copyChunk(store, order, watched));
  if (begun) await copy; // It did not wait for the deletion.
  held.open();
  await removal;
  t.equal(await copy, "io-error");
  t.notOk(await isStray(store, h(1)), "the file that it left will be found");
});

t.test("a new chunk whose mark the index refuses is not there", async (t) => {
  for (const sites of [[], ["write.bytes"]]) {
    const tampered = new TamperedDisk();
    const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
    t.teardown(close);
    failAll(tampered, sites);
    const full = refusePuts(store);
    t.not(await statusFrom(put(store, h(1), pattern(100 * kib, 1))), "ok");
    t.equal(await statusFrom(get(store, h(1))), "no-chunk", sites.join());
    t.equal(store.table.count, 0);
    t.notOk(await isStray(store, h(1)));
    full.end();
    tampered.before = () => undefined;
    await put(store, h(1), pattern(100 * kib, 2));
    t.ok(store.index.has(h(1)), "what is acknowledged is in the index");
  }
});

t.test("a new chunk whose first bytes fail is in the index, as a mark", async (t) => {
  const tampered = new TamperedDisk();
  const { store, close } = await openTestStore(temporaryDirectory(t), { disk: tampered.disk });
  t.teardown(close);
  tampered.fail("write.bytes", "ENOSPC");
  t.equal(await statusFrom(put(store, h(1), pattern(100 * kib, 1))), "no-space");
  t.equal((await get(store, h(1))).length, 0);
  t.ok(store.index.has(h(1)));
  tampered.before = () => undefined;
  await raiseVersion(store, { handle: h(1), version: v(1), newVersion: v(2) });
  t.equal((await get(store, h(1), { version: 2 })).length, 0);
});
