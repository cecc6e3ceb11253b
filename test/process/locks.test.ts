import { spawnSync } from "node:child_process";
import t from "tap";
import { Cluster } from "../support/cluster.ts";
import { Locker } from "../support/locker.ts";
import { programPath } from "../support/process-program.ts";
import { until } from "../support/until.ts";

/** flock(2) and fcntl(2) of real processes on two mounts, as they would be on one machine. */

const help = spawnSync(process.execPath, [programPath("mount"), "--help"], { encoding: "utf8" });
if (!/"device"/.test(help.stdout)) {
  t.plan(0, "fuse-native cannot carry locks, and this gfs-mount has no device binding");
  process.exit(0);
}

const binding = ["--binding", "device"];
const cluster = await Cluster.start(t, { servers: 2, mounts: 0 });
const m1 = await cluster.mount(binding);
const m2 = await cluster.mount(binding);
const at = (mount: { directory: string }, name: string): string => `${mount.directory}/${name}`;
type Test = Parameters<typeof Locker.open>[0];
const open = (t: Test, mount: { directory: string }, name: string): Promise<Locker> =>
  Locker.open(t, at(mount, name));

t.test("fcntl locks of two mounts exclude each other byte by byte", async (t) => {
  const [a, b, c] = [await open(t, m1, "f"), await open(t, m2, "f"), await open(t, m2, "f")];
  t.equal(await a.do("lock write 0 10"), "ok");
  t.equal(await b.do("lock read 9 1"), "EAGAIN");
  t.equal(await b.do("lock write 10 5"), "ok");
  t.equal(await c.do("ask write 0 0"), "write 0 10 0", "a process of another machine has no pid");
  t.equal(await c.do("ask write 10 0"), `write 10 5 ${b.pid}`);
  t.equal(await a.do("lock unlock 3 2"), "ok", "it is split");
  t.equal(await b.do("lock write 3 2"), "ok");
  t.equal(await b.do("lock write 5 1"), "EAGAIN");
  t.equal(await a.do("lock read 0 0"), "EAGAIN", "to the end of the file");
  t.equal(await a.do("fork"), "ok");
  t.equal(await b.do("lock write 0 1"), "EAGAIN", "a child's exit takes nothing from its parent");
  t.equal(await a.do("reopen"), "ok");
  t.equal(await b.do("lock write 0 0"), "ok", "any close of the file does");
});

t.test("who waits gets it, is interrupted, or is told that he would wait for ever", async (t) => {
  const [a, b] = [await open(t, m1, "w"), await open(t, m2, "w")];
  await a.do("lock write 0 1");
  await b.do("lock write 1 1");
  const { answer: granted } = await b.begin("lockw write 0 1");
  t.ok(b.isWaiting);
  t.match(await a.do("lockw write 1 1"), /^EDEADL/);
  await a.do("put 0 hello");
  await a.do("lock unlock 0 1");
  t.equal(await granted, "ok");
  t.equal(await b.do("read 0 5"), "hello", "with what was written under it");
  const { answer: interrupted } = await a.begin("lockw write 0 1");
  a.signal("SIGUSR1");
  t.equal(await interrupted, "EINTR");
  const { answer: after } = await a.begin("lockw write 0 1");
  await b.kill();
  t.equal(await after, "ok", "a killed process holds nothing");
});

t.test("flock belongs to the open file, on two mounts", async (t) => {
  const [a, b, c] = [await open(t, m1, "l"), await open(t, m2, "l"), await open(t, m1, "l")];
  t.equal(await a.do("flock read"), "ok");
  t.equal(await b.do("flock read"), "ok");
  t.equal(await c.do("flock write"), "EAGAIN");
  t.equal(await c.do("lock write 0 0"), "ok", "fcntl does not see it");
  const { answer: granted } = await c.begin("flockw write");
  await a.kill();
  await b.do("fork");
  t.ok(c.isWaiting, "b's is there after a child with the same open file has ended");
  await b.kill();
  t.equal(await granted, "ok");
  const d = await open(t, m2, "l");
  await d.begin("flockw write");
  await d.kill();
  await c.do("flock unlock");
  const e = await open(t, m1, "l");
  t.equal(await e.do("flock write"), "ok", "a killed waiter leaves nothing");
});

t.test("locks of open file descriptions (F_OFD_SETLK) end with the last close", async (t) => {
  const [a, b] = [await open(t, m1, "o"), await open(t, m2, "o")];
  t.equal(await a.do("ofd write 0 0"), "ok");
  t.equal(await b.do("lock read 0 1"), "EAGAIN");
  await a.do("reopen");
  t.equal(await b.do("lock read 0 1"), "EAGAIN", "another close does not end it");
  await a.kill();
  await until("it is free", async () => (await b.do("lock read 0 1")) === "ok");
});

t.test("two mounts that take turns under a lock see each other's writes", async (t) => {
  const [a, b] = [await open(t, m1, "turns"), await open(t, m2, "turns")];
  const read: string[] = [];
  const expected: string[] = [];
  for (let i = 0; i < 60; i += 1) {
    const one = i % 2 === 0 ? a : b;
    await one.do("lockw write 0 1");
    if (i > 0) {
      read.push(await one.do(`read ${(i - 1) * 3000} 5`));
      expected.push(String(9999 + i));
    }
    await one.do(`put ${i * 3000} ${10_000 + i}`);
    await one.do("lock unlock 0 1");
  }
  t.same(read, expected);
});

t.test("P2: kill -9 of the master takes no lock and no place in line", async (t) => {
  const [a, b] = [await open(t, m1, "r"), await open(t, m2, "r")];
  await a.do("lock write 0 10");
  await a.do("flock write");
  const { answer: granted } = await b.begin("lockw write 5 1");
  await cluster.master.kill();
  cluster.master.start();
  await cluster.ready();
  const c = await open(t, m2, "r");
  t.equal(await c.do("lock write 0 1"), "EAGAIN");
  t.equal(await c.do("flock read"), "EAGAIN");
  t.equal(await c.do("lock write 11 1"), "ok");
  t.ok(b.isWaiting);
  await a.do("lock unlock 5 1");
  t.equal(await granted, "ok");
});

t.test("sqlite: writers on both mounts lose nothing", async (t) => {
  const writer = `import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=120, isolation_level=None)
for i in range(40):
    db.execute("begin immediate")
    n = db.execute("select n from c").fetchone()[0]
    db.execute("update c set n = ?", (n + 1,))
    db.execute("insert into r values (?, ?)", (sys.argv[2], i))
    db.execute("commit")`;
  const [one, two] = [at(m1, "q.db"), at(m2, "q.db")];
  const make = "create table c (n); insert into c values (0); create table r (w, i)";
  await cluster.ok(`sqlite3 ${one} '${make}'`);
  const env = { WRITER: writer };
  const run = (file: string, name: string) =>
    cluster.ok(`python3 -c "$WRITER" ${file} ${name}`, { env, timeoutMs: 240_000 });
  await Promise.all([run(one, "a"), run(two, "b"), run(two, "c")]);
  const check = "select n from c; select count(distinct w || i) from r; pragma integrity_check";
  for (const file of [one, two])
    t.equal(await cluster.ok(`sqlite3 ${file} '${check}'`), "120\n120\nok");
});

t.test("kill -9 of a mount frees its locks when its lease has run out", async (t) => {
  const [a, b] = [await open(t, m1, "k"), await open(t, m2, "k")];
  await a.do("lock write 0 0");
  await a.do("flock write");
  const { answer: granted } = await b.begin("lockw write 0 1");
  await m1.program.kill();
  t.ok(b.isWaiting, "not at once: the mount might only be cut off");
  t.equal(await granted, "ok");
  t.equal(await b.do("flock write"), "ok");
});

t.test("a mount that was stopped for longer than its lease has lost its locks", async (t) => {
  const [b, other] = [await open(t, m2, "s"), await cluster.mount(binding)];
  const c = await open(t, other, "s");
  await b.do("lock write 0 0");
  const { answer: granted } = await c.begin("lockw write 0 0");
  // Last, so that it is not sent before its mount stops.
  await b.do("put 0 mine");
  m2.program.signal("SIGSTOP");
  t.equal(await granted, "ok");
  await c.do("put 0 his!");
  await c.do("lock unlock 0 0");
  m2.program.signal("SIGCONT");
  await until("its log says so", () => m2.program.log().includes('"lock.lost"'));
  t.equal(await b.do("put 0 mine"), "EIO");
  t.equal(await b.do("lock write 1 1"), "EIO");
  t.equal(await b.do("lock unlock 0 0"), "EIO", "what it wrote under it is not in the file");
  t.equal(await b.do("read 0 4"), "his!", "now it knows");
  t.equal(await c.do("read 0 4"), "his!");
});
