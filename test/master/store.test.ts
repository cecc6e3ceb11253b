import fc from "fast-check";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { createMemoryStore } from "../../master/store/memory.ts";
import { prefixEnd, type Store } from "../../master/store/store.ts";
import { openRealStore } from "../support/journaled-store.ts";

/** Both stores behave the same: the one that tests use, and the one that keeps the data. */
const directory = mkdtempSync(join(tmpdir(), "gfs-store-"));
let opened = 0;
const kinds: [string, () => Store | Promise<Store>][] = [
  ["memory", createMemoryStore],
  ["journal and LMDB", () => openRealStore(join(directory, `db${(opened += 1)}`))],
];
t.teardown(() => rmSync(directory, { recursive: true, force: true }));

const bytes = (text: string): Buffer => Buffer.from(text, "latin1");
const rows = (store: Store, bounds: { from: Buffer; to?: Buffer; limit?: number }): string[] =>
  [...store.range("entry", bounds)].map(
    ({ key, value }) => `${key.toString("latin1")}=${value.toString("latin1")}`,
  );

for (const [kind, open] of kinds) {
  t.test(`${kind}: rows come in byte order, within their bounds, and stay valid`, async (t) => {
    const store = await open();
    store.write((writer) => {
      for (const key of ["b", "a\xff", "a", "a\x00", "c", "\xff"]) {
        writer.put("entry", bytes(key), bytes(`v${key}`));
      }
      writer.put("inode", bytes("a"), bytes("another table"));
    });
    const all = ["a=va", "a\x00=va\x00", "a\xff=va\xff", "b=vb", "c=vc", "\xff=v\xff"];
    t.same(rows(store, { from: Buffer.alloc(0) }), all, "all");
    t.same(rows(store, { from: bytes("a"), to: bytes("b") }), all.slice(0, 3), "from, not to");
    t.same(rows(store, { from: bytes("a\x01"), limit: 2 }), all.slice(2, 4), "limited");
    t.same(rows(store, { from: bytes("d"), to: bytes("a") }), [], "upside down");
    t.equal(store.count("entry"), 6);
    const kept = [...store.range("entry", { from: Buffer.alloc(0) })];
    const got = store.get("entry", bytes("b"));
    store.write((writer) => {
      for (const { key } of kept) writer.put("entry", key, bytes("overwritten, and longer"));
    });
    const before = kept.map(
      ({ key, value }) => `${key.toString("latin1")}=${value.toString("latin1")}`,
    );
    t.same(before, all, "what was read before a write is as it was");
    t.equal(got?.toString(), "vb");
    await store.close();
  });

  t.test(`${kind}: a write that throws leaves nothing, one that returns leaves all`, async (t) => {
    const store = await open();
    store.write((writer) => writer.put("meta", bytes("kept"), bytes("1")));
    const fails = (): void =>
      store.write((writer) => {
        writer.put("meta", bytes("new"), bytes("2"));
        writer.remove("meta", bytes("kept"));
        t.equal(writer.get("meta", bytes("kept")), undefined, "a writer sees its own changes");
        t.equal([...writer.range("meta", { from: Buffer.alloc(0) })].length, 1, "in ranges too");
        throw new Error("no");
      });
    t.throws(fails, /no/);
    t.equal(store.get("meta", bytes("kept"))?.toString(), "1");
    t.equal(store.get("meta", bytes("new")), undefined);
    await store.close();
  });
}

t.test("a master that is stopped leaves everything in data.mdb", async (t) => {
  const path = join(directory, "again");
  const first = await openRealStore(path);
  first.write((writer) => writer.put("inode", bytes("k"), bytes("v")));
  await first.close();
  t.same(
    readdirSync(path).filter((name) => name.startsWith("journal")),
    [],
  );
  const second = await openRealStore(path);
  t.equal(second.get("inode", bytes("k"))?.toString(), "v");
  await second.close();
});

t.test("the end of a prefix is after all keys with it, and before all others", async (t) => {
  const key = fc.uint8Array({ maxLength: 4 }).map((b) => Buffer.from(b));
  fc.assert(
    fc.property(key, key, (prefix, other) => {
      const end = prefixEnd(prefix);
      const has = other.subarray(0, prefix.length).equals(prefix);
      const inRange =
        Buffer.compare(other, prefix) >= 0 && (end === undefined || Buffer.compare(other, end) < 0);
      return has === inRange;
    }),
    { numRuns: 2000, examples: [[Buffer.from([255]), Buffer.from([255, 1])]] },
  );
  t.pass();
});
