import t from "tap";
import { type Ino, rootIno, sessionId } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { openFormat } from "../../master/format.ts";
import { Committer } from "../../master/namespace/committer.ts";
import { makeDirectory } from "../../master/namespace/ops/create.ts";
import type { Store } from "../../master/store/store.ts";
import type { Txn } from "../../master/namespace/txn.ts";
import { outcome } from "../support/outcome.ts";
import { tickingClock } from "../support/namespace.ts";
import { newTestStore } from "../support/test-store.ts";

const owner = { uid: 0, gid: 0 };

async function newStore(): Promise<Store> {
  const store = await newTestStore();
  openFormat(store, { cluster: "c", chunkBytes: 4, replicas: 3, nowNs: 0n, ...owner });
  return store;
}

const makeA =
  (name: string) =>
  (txn: Txn): { ino: Ino } => {
    const { ino } = makeDirectory(txn, {
      ...{ parent: rootIno, name: Buffer.from(name), mode: 0o755 },
      ...owner,
    });
    return { ino };
  };

t.test("P7: a request that is sent again is answered again, and happens once", async (t) => {
  const store = await newStore();
  const committer = new Committer(store, tickingClock());
  const request = { session: sessionId(9), seq: 1 };
  const first = await committer.run(makeA("a"), request);
  t.same(await committer.run(makeA("a"), request), first, "the same answer, not EEXIST");
  t.equal(await outcome(committer.run(makeA("a"), { ...request, seq: 2 })), "exists");
  const both = [committer.run(makeA("b"), { ...request, seq: 3 })];
  both.push(committer.run(makeA("b"), { ...request, seq: 3 }));
  const [one, two] = await Promise.all(both);
  t.same(one, two, "also when both are in one group");
  const restarted = new Committer(store, tickingClock());
  t.same(await restarted.run(makeA("a"), request), first, "also after a restart of the master");
});

t.test("an operation that fails leaves nothing, and its group goes on", async (t) => {
  const committer = new Committer(await newStore(), tickingClock());
  const half = (txn: Txn): void => {
    makeA("half")(txn);
    throw new StatusError("no-space", "no");
  };
  const outcomes = await Promise.all([
    outcome(committer.run(makeA("a"))),
    outcome(committer.run(half)),
    outcome(committer.run(makeA("b"))),
    outcome(committer.run(makeA("a"))),
  ]);
  t.same(outcomes, ["ok", "no-space", "ok", "exists"], "each has its own outcome, in order");
  t.equal(committer.store.count("entry"), 2);
});

t.test("when a commit fails, everybody in it is told, and nothing has happened", async (t) => {
  const store = await newStore();
  let full = false;
  const failing: Store = {
    ...store,
    write: (work) =>
      store.write((writer) => {
        const result = work(writer);
        if (full) throw new StatusError("no-space", "the disk is full");
        return result;
      }),
  };
  const committer = new Committer(failing, tickingClock());
  full = true;
  const outcomes = [outcome(committer.run(makeA("a"))), outcome(committer.run(makeA("b")))];
  t.same(await Promise.all(outcomes), ["no-space", "no-space"]);
  t.equal(store.count("entry"), 0);
  full = false;
  t.equal(await outcome(committer.run(makeA("a"))), "ok", "it goes on when there is space again");
});

t.test("no id is given out twice, whatever was lost", async (t) => {
  const store = await newStore();
  const before = new Committer(store, tickingClock());
  const given = Array.from({ length: 100 }, () => before.ids.next("handle"));
  const { ino } = await before.run(makeA("a"));
  const after = new Committer(store, tickingClock());
  t.ok(after.ids.next("handle") > Math.max(...given), "handles that no commit mentions");
  t.ok((await after.run(makeA("b"))).ino > ino, "inodes");
});

t.test("records written before a snapshot and after it are in different epochs", async (t) => {
  const committer = new Committer(await newStore(), tickingClock());
  const epochs = await Promise.all([
    committer.run((txn) => txn.epoch),
    committer.run((txn) => {
      committer.raiseEpoch(txn);
      return txn.epoch;
    }),
    committer.run((txn) => txn.epoch),
  ]);
  const [first, raising, later] = epochs;
  t.equal(raising, first);
  t.equal(later, Number(first) + 1, "even when all three were waiting together");
});
