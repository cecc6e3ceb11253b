import t, { type Test } from "tap";
import { assert } from "../../../common/assert.ts";
import type { LockTarget } from "../../../mount/client/lock-client.ts";
import { ino } from "../../../protocol/id.ts";
import { newTestStore } from "../../support/test-store.ts";
import { MasterCluster } from "../../support/master-cluster.ts";
import { LockMount, turns, watched } from "../../support/lock-mount.ts";
import { until } from "../../support/until.ts";

const target: LockTarget = { ino: ino(7), at: undefined, flock: false, owner: 1n };

/** A master and three mounts; the test's end stops them. */
async function start(t: Test): Promise<[MasterCluster, LockMount, LockMount, LockMount]> {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  const [a, b, c] = [0, 1, 2].map((i) => new LockMount(cluster, `m${i}`));
  assert(a !== undefined && b !== undefined && c !== undefined, "three mounts");
  const mounts = [a, b, c];
  for (const mount of mounts) await mount.start();
  t.teardown(async () => {
    for (const mount of mounts) await mount.stop();
    await cluster.stop();
  });
  return [cluster, a, b, c];
}

/** All are cut off by it; those named `gone` stay so. */
async function restart(cluster: MasterCluster, mounts: LockMount[], gone: LockMount[]) {
  for (const mount of mounts) mount.leave();
  await cluster.restart();
  for (const mount of mounts) mount.reachable = !gone.includes(mount);
}

async function expire(cluster: MasterCluster): Promise<void> {
  cluster.nowMs += 31_000;
  await cluster.master.sessions.expire();
}

t.test(
  "two mounts exclude each other, and are served in the order in which they came",
  async (t) => {
    const [, a, b, c] = await start(t);
    t.equal(await a.try({}), "done");
    t.equal(await b.try({}), "would-block");
    t.equal(await b.shown(), "write 0-9223372036854775807 by 0", "a process of another machine");
    t.equal(await a.shown(), "write 0-9223372036854775807 by 1", "a process of this one");
    const second = watched(b.wait({}));
    await turns();
    const third = watched(c.wait({}));
    await turns();
    t.same([second.outcome, third.outcome], ["waiting", "waiting"]);
    await a.unlock();
    await until("the second has it", () => second.outcome === "done");
    t.equal(third.outcome, "waiting", "who came later waits on");
    t.equal(await a.try({}), "would-block", "and nobody is quicker than who waits");
    await b.unlock();
    await until("the third has it", () => third.outcome === "done");
    await c.unlock();
    t.equal(await a.shown(), "free");
  },
);

t.test("fcntl and flock do not see each other; files and bytes are apart", async (t) => {
  const [, a, b] = await start(t);
  t.equal(await a.try({}), "done");
  t.equal(await b.try({ flock: true }), "done");
  t.equal(await b.try({ file: 8 }), "done");
  await a.unlock({ bytes: [10, 19] });
  t.equal(await b.try({ bytes: [10, 19] }), "done");
  t.equal(await b.try({ bytes: [19, 20] }), "would-block");
});

t.test("a deadlock between two mounts is found, for fcntl", async (t) => {
  const [, a, b] = await start(t);
  await a.set({ file: 1 });
  await b.set({ file: 2 });
  const first = watched(a.wait({ file: 2 }));
  await turns();
  t.equal(await b.wait({ file: 1 }), "deadlock");
  await b.unlock({ file: 2 });
  await until("the first has it", () => first.outcome === "done");
});

t.test("whoever is interrupted while he waits leaves nothing behind", async (t) => {
  const [, a, b, c] = await start(t);
  await a.set({});
  const abort = new AbortController();
  const waiting = b.wait({ signal: abort.signal });
  await turns();
  abort.abort();
  t.equal(await waiting, "interrupted");
  await a.unlock();
  t.equal(await c.try({}), "done");
});

t.test("also when the lock is granted in that moment, and he keeps what he had", async (t) => {
  const [, a, b, c] = await start(t);
  await b.set({ type: "read", bytes: [0, 4] });
  await a.set({ bytes: [5, 9] });
  const abort = new AbortController();
  const waiting = b.wait({ bytes: [0, 9], signal: abort.signal });
  await turns();
  // The master grants it, and its word of that does not arrive.
  b.deaf = true;
  await a.unlock();
  abort.abort();
  await turns();
  b.cut();
  t.equal(await waiting, "interrupted");
  await until("it is read only", async () => (await c.shown()) === "read 0-4 by 0");
  t.equal(await c.try({ bytes: [5, 9] }), "done");
  t.equal(await c.try({ type: "read" }), "done");
});

t.test("a mount that is cut off while it waits keeps its place and goes on waiting", async (t) => {
  const [, a, b, c] = await start(t);
  await a.set({});
  const second = watched(b.wait({}));
  await turns();
  const third = watched(c.wait({}));
  await turns();
  b.leave();
  await a.unlock();
  await turns();
  t.equal(third.outcome, "waiting", "it is the turn of the one that is cut off");
  b.reachable = true;
  await until("the second has it", () => second.outcome === "done");
  await b.unlock();
  await until("the third has it", () => third.outcome === "done");
});

t.test("an answer that is lost is asked for again, and happens once", async (t) => {
  const [, a, b] = await start(t);
  a.deaf = true;
  const taken = a.try({});
  await turns();
  a.cut();
  t.equal(await taken, "done");
  t.equal(await b.try({}), "would-block");
  a.deaf = true;
  const freed = a.unlock();
  await turns();
  t.equal(await b.try({}), "done", "the master has done it");
  a.cut();
  t.equal(await freed, "done");
  t.equal(await a.try({}), "would-block", "unlocking again takes nothing from others");
});

t.test("the locks of a mount that dies are free when its session ends", async (t) => {
  const [cluster, a, b] = await start(t);
  await a.set({});
  await a.set({ flock: true });
  const waiting = watched(b.wait({}));
  a.leave();
  await turns();
  cluster.nowMs += 29_000;
  await cluster.master.sessions.expire();
  t.equal(waiting.outcome, "waiting", "not before: it may come back");
  await expire(cluster);
  await until("who waits has it", () => waiting.outcome === "done");
  t.equal(await b.try({ flock: true }), "done");
});

t.test("a mount that has lost its session gets errors from what it had locked", async (t) => {
  const [cluster, a, b] = await start(t);
  await a.set({ owner: 5, bytes: [0, 9] });
  await a.set({ owner: 6, file: 8 });
  a.leave();
  await turns();
  await expire(cluster);
  t.equal(await b.try({}), "done");
  a.reachable = true;
  await until("both are lost", () => a.lost.length === 2);
  t.throws(() => a.locks.check(5), "reading and writing through that open file");
  t.doesNotThrow(() => a.locks.check(9), "not through others");
  t.equal(await a.try({ owner: 5, bytes: [20, 29] }), "io-error", "locking it further");
  t.equal(await a.unlock({ owner: 5 }), "done");
  t.doesNotThrow(() => a.locks.check(5), "until he has unlocked");
  t.throws(() => a.locks.check(6));
  t.equal(await b.try({}), "done", "what others have got meanwhile is theirs");
});

t.test("P2: locks survive a restart of the master, and nobody gets in between", async (t) => {
  const [cluster, a, b, c] = await start(t);
  await a.set({ bytes: [0, 9] });
  await a.set({ type: "read", bytes: [5, 6] });
  await a.set({ flock: true, owner: 3 });
  await restart(cluster, [a, b, c], [a]);
  const taken = watched(b.try({ bytes: [0, 4] }));
  const free = watched(b.try({ file: 8 }));
  await until("it may be held", () => b.locks.mayHold({ ...target, ino: ino(8) }));
  await turns(200);
  t.same([taken.outcome, free.outcome], ["waiting", "waiting"], "who had what is not known yet");
  a.reachable = true;
  await until("both are answered", () => taken.outcome !== "waiting" && free.outcome !== "waiting");
  t.same([taken.outcome, free.outcome], ["would-block", "done"]);
  t.equal(await b.try({ type: "read", bytes: [5, 6] }), "done", "as they were");
  t.equal(await b.try({ bytes: [7, 9] }), "would-block");
  t.equal(await b.try({ flock: true }), "would-block");
  t.same(a.lost, []);
});

t.test(
  "a mount that does not come back after the restart holds up others for its lease",
  async (t) => {
    const [cluster, a, b, c] = await start(t);
    await a.set({});
    await restart(cluster, [a, b, c], [a]);
    const waiting = watched(b.wait({}));
    await turns(200);
    t.equal(waiting.outcome, "waiting");
    await expire(cluster);
    await until("who waits has it", () => waiting.outcome === "done");
  },
);

t.test("who waits goes on waiting over a restart, of the master and of its holder", async (t) => {
  const [cluster, a, b, c] = await start(t);
  await a.set({ flock: true });
  const waiting = watched(b.wait({ flock: true }));
  await turns();
  await restart(cluster, [a, b, c], []);
  await until("it is held", async () => (await a.shown(7, true)) !== "free");
  t.equal(waiting.outcome, "waiting");
  await a.unlock({ flock: true });
  await until("who waits has it", () => waiting.outcome === "done");
});

t.test("closing a file that has no locks costs nothing", async (t) => {
  const [, a] = await start(t);
  const before = a.sent;
  await a.locks.end(target);
  await a.unlock();
  t.equal(a.sent - before, 0);
  await a.set({});
  await a.locks.end(target);
  await a.locks.end(target);
  t.equal(a.sent - before, 2, "one to lock, one to unlock");
  t.equal(await a.shown(), "free");
});

t.test("changing a flock that others share gives it up, as on Linux", async (t) => {
  const [, a, b, c] = await start(t);
  const shared = { flock: true, type: "read" } as const;
  await a.set(shared);
  await b.set(shared);
  t.equal(await a.try({ flock: true }), "would-block");
  await b.unlock(shared);
  t.equal(await c.try({ flock: true }), "done", "a has lost its lock by asking for more");
});
