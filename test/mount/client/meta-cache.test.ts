import t from "tap";
import { ino } from "../../../protocol/id.ts";
import { MetaCache } from "../../../mount/client/meta-cache.ts";
import { attrOf } from "./support.ts";

const name = Buffer.from("lock");

await t.test("an answer that another mount's change has overtaken is not kept", async (tt) => {
  const cache = new MetaCache();
  const ticket = cache.ticket();
  cache.invalidate([ino(5)], [{ parent: ino(1), name }]);
  tt.equal(cache.changedAttr(attrOf(5, 1), ticket), false);
  cache.changedEntry(ino(1), name, 0, ticket);
  tt.equal(cache.attr(ino(5)), undefined);
  tt.equal(cache.entry(ino(1), name), undefined, "no false absence");
});

await t.test("an answer is kept if only other things have changed", async (tt) => {
  const cache = new MetaCache();
  const ticket = cache.ticket();
  cache.dropAttr(ino(7));
  cache.invalidate([ino(8)], [{ parent: ino(1), name: Buffer.from("other") }]);
  tt.ok(cache.putAttr(attrOf(5, 1), ticket));
  cache.putEntry(ino(1), name, ino(5), ticket);
  tt.equal(cache.entry(ino(1), name), 5);
});

await t.test("an older answer does not replace that of a change", async (tt) => {
  const cache = new MetaCache();
  const before = cache.ticket();
  tt.ok(cache.changedAttr(attrOf(5, 100), cache.ticket()));
  tt.equal(cache.putAttr(attrOf(5, 1), before), false);
  tt.equal(cache.attr(ino(5))?.size, 100);
});

await t.test("nothing asked for before the connection was lost is kept", async (tt) => {
  const cache = new MetaCache();
  const ticket = cache.ticket();
  cache.clear();
  tt.equal(cache.putAttr(attrOf(5, 1), ticket), false);
  tt.ok(cache.putAttr(attrOf(5, 1), cache.ticket()));
});

await t.test("changes that are not remembered any more count as changes of all", async (tt) => {
  const cache = new MetaCache();
  const ticket = cache.ticket();
  cache.dropAttr(ino(5));
  for (let i = 0; i < 20_000; i += 1) cache.dropAttr(ino(100 + i));
  tt.equal(cache.putAttr(attrOf(5, 1), ticket), false);
});
