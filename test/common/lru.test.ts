import t from "tap";
import { lastUsed } from "../../common/lru.ts";

t.test("the entries that were used last are kept", (t) => {
  const evicted: string[] = [];
  const cache = lastUsed<string, number>(2, (value, key) => void evicted.push(`${key}=${value}`));
  cache.set("a", 1).set("b", 2);
  t.equal(cache.get("a"), 1);
  cache.set("c", 3);
  t.same([...cache.keys()].toSorted(), ["a", "c"]);
  t.same(evicted, ["b=2"]);
  t.end();
});

t.test("only what makes room for another is told as evicted", (t) => {
  const evicted: string[] = [];
  const cache = lastUsed<string, number>(2, (_value, key) => void evicted.push(key));
  cache.set("a", 1).set("a", 2).set("b", 1);
  cache.delete("a");
  cache.clear();
  t.same(evicted, []);
  cache.set("c", 1).set("d", 1).set("e", 1);
  t.same(evicted, ["c"]);
  t.end();
});

t.test("a cache takes no memory for entries that it does not have", (t) => {
  // With room for all, these take 240 MB each.
  const caches = Array.from({ length: 1_000 }, () => lastUsed<number, number>(10_000_000));
  t.equal(caches.length, 1_000);
  t.end();
});
