import t from "tap";
import { AccessTimes } from "../../../mount/client/access-times.ts";
import { MetaCache } from "../../../mount/client/meta-cache.ts";
import type { MasterClient } from "../../../mount/client/master-client.ts";
import type { Attr } from "../../../protocol/shapes.ts";
import { attrOf, clock, Deferred, file, settled } from "./support.ts";

const day = 24n * 3_600n * 1_000_000_000n;

interface Told {
  accesses: { ino: number; atime: bigint; ctime: bigint }[];
  answer: Deferred<object>;
}

function setUp(now = 10n * day, enabled = true) {
  const at = { now };
  const told: Told[] = [];
  const cache = new MetaCache();
  const read = (_method: unknown, { accesses }: Told): Promise<object> => {
    const answer = new Deferred<object>();
    told.push({ accesses, answer });
    return answer.promise;
  };
  const accesses = new AccessTimes({
    clock: { ...clock, wallNs: () => at.now },
    cache,
    enabled,
    master: { read: read as MasterClient["read"] },
  });
  return { at, told, cache, accesses };
}

const withTimes = (atime: bigint, mtime: bigint, ctime: bigint): Attr => ({
  ...attrOf(file, 0),
  ...{ atime, mtime, ctime },
});

t.test("reading moves atime after a change, and otherwise once a day", async (t) => {
  const now = 10n * day;
  const cases = [
    { times: [5n, 5n, 5n], moves: true, what: "a new file" },
    { times: [now - 5n, now - 4n, now - 9n], moves: true, what: "written since" },
    { times: [now - 5n, now - 9n, now - 4n], moves: true, what: "changed since" },
    { times: [now - 5n, now - 9n, now - 9n], moves: false, what: "read since" },
    { times: [now - day + 1n, 0n, 0n], moves: false, what: "read within a day" },
    { times: [now - day, 0n, 0n], moves: true, what: "read a day ago" },
    { times: [now + day, 0n, 0n], moves: false, what: "an atime in the future" },
  ];
  for (const { times, moves, what } of cases) {
    const { accesses } = setUp(now);
    const [atime = 0n, mtime = 0n, ctime = 0n] = times;
    const attr = withTimes(atime, mtime, ctime);
    accesses.note(attr);
    t.equal(accesses.shown(attr).atime, moves ? now : atime, what);
  }
});

t.test("with noatime nothing moves", async (t) => {
  const { accesses, told } = setUp(10n * day, false);
  const attr = withTimes(1n, 1n, 1n);
  accesses.note(attr);
  t.equal(accesses.shown(attr).atime, 1n);
  await accesses.tell();
  t.equal(told.length, 0);
});

t.test("an access is shown at once, told later, and stays shown", async (t) => {
  const { accesses, told, cache, at } = setUp();
  const attr = withTimes(1n, 1n, 1n);
  cache.putAttr(attr, cache.ticket());
  accesses.note(attr);
  t.equal(told.length, 0, "reading waits for nobody");
  const telling = accesses.tell();
  t.same(told[0]?.accesses, [{ ino: file, atime: at.now, ctime: 1n }]);
  t.equal(accesses.shown(attr).atime, at.now, "while it is told");
  told[0]?.answer.resolve({});
  await telling;
  t.equal(cache.attr(file)?.atime, at.now, "what is cached has it now");
  await accesses.tell();
  t.equal(told.length, 1, "it is told once");
});

t.test("a change of the inode makes an earlier access void", async (t) => {
  const { accesses, cache, told } = setUp();
  accesses.note(withTimes(1n, 1n, 1n));
  const changed = withTimes(7n, 1n, 9n);
  cache.putAttr(changed, cache.ticket());
  t.equal(accesses.shown(changed).atime, 7n, "utimensat(2) after the read has the last word");
  const telling = accesses.tell();
  told[0]?.answer.resolve({});
  await telling;
  t.equal(cache.attr(file)?.atime, 7n);
});

t.test("what is read while the master is told is told next", async (t) => {
  const { accesses, told, at } = setUp();
  accesses.note(withTimes(1n, 1n, 1n));
  const telling = accesses.tell();
  at.now += 2n * day;
  accesses.note(withTimes(1n, 1n, 1n));
  told[0]?.answer.resolve({});
  await settled();
  t.same(told[1]?.accesses, [{ ino: file, atime: at.now, ctime: 1n }]);
  told[1]?.answer.resolve({});
  await telling;
});

t.test("a failure is no reason to forget", async (t) => {
  const { accesses, told } = setUp();
  accesses.note(withTimes(1n, 1n, 1n));
  const telling = accesses.tell();
  told[0]?.answer.reject(new Error("no master"));
  await t.rejects(telling);
  const again = accesses.tell();
  t.equal(told.length, 2);
  told[1]?.answer.resolve({});
  await again;
});
