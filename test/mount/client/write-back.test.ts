import t from "tap";
import { chunkHandle, ino as toIno } from "../../../protocol/id.ts";
import { StatusError } from "../../../protocol/status.ts";
import { Behind, Deferred, failure, file, mib, nobody, settled, outcome } from "./support.ts";

const fresh = (behind: Behind) => ({ cursor: behind.back.errors.cursor(file) });

await t.test("a file never shrinks while its commit is under way", async (tt) => {
  const behind = new Behind();
  behind.answerCommits = false;
  await behind.back.write(file, 0, Buffer.alloc(4096), fresh(behind));
  const flushed = behind.back.flush(file, fresh(behind));
  await settled();
  tt.equal(behind.commits.length, 1, "the commit is under way");
  tt.equal(behind.shownSize(), 4096);
  behind.takeCommit(0);
  await flushed;
  tt.equal(behind.shownSize(), 4096);
  tt.equal(behind.back.pending(file), undefined, "nothing is pending any more");
});

await t.test("whoever read a file hears of every piece that arrives or fails", async (tt) => {
  const behind = new Behind();
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(2 * mib), fresh(behind));
  await settled();
  tt.same(behind.arrived, []);
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await settled();
  tt.same(behind.arrived, [5]);
  await behind.back.readable(file, 0, mib);
  const waiting = outcome(behind.back.readable(file, mib, mib));
  behind.sent[1]?.answer.reject(failure());
  tt.equal(await waiting, "io-error", "it does not read what was there before");
  tt.same(behind.arrived, [5, 5]);
});

await t.test("fsync after a truncation syncs no chunk beyond the new end", async (tt) => {
  const behind = new Behind();
  await behind.back.write(file, 0, Buffer.alloc(mib), fresh(behind));
  await behind.back.write(file, 4 * mib, Buffer.alloc(mib), fresh(behind));
  await behind.back.flush(file, fresh(behind));
  behind.back.truncated(file, 10);
  await behind.back.fsync(file, fresh(behind));
  tt.same(behind.synced, [[0]]);
  behind.back.truncated(file, 0);
  await behind.back.fsync(file, fresh(behind));
  tt.same(behind.synced, [[0]], "nothing was left");
});

await t.test("fsync syncs the master too, and what other mounts have written", async (tt) => {
  const behind = new Behind();
  await behind.back.fsync(file, fresh(behind));
  tt.same([behind.masterSyncs, behind.synced], [1, []], "that the file was made, for example");
  await behind.back.write(file, 0, Buffer.alloc(mib), fresh(behind));
  await behind.back.flush(file, fresh(behind));
  behind.ofOthers = [0, 3];
  await behind.back.fsync(file, fresh(behind));
  tt.equal(behind.masterSyncs, 2, "although nothing was left to be committed");
  tt.same(behind.synced, [[0], [3]]);
  tt.same(behind.back.unwritten(), []);
});

await t.test("an fsync does not believe what another has not finished", async (tt) => {
  const gate = new Deferred();
  const synced: number[] = [];
  const behind: Behind = new Behind({
    writer: {
      write: async () => ({ handle: chunkHandle(1), fresh: false, taking: nobody }),
      sync: async (_ino, chunks) => {
        synced.push(...chunks.keys());
        await gate.promise;
        return [];
      },
    },
  });
  await behind.back.write(file, 0, Buffer.alloc(8), fresh(behind));
  const first = behind.back.fsync(file, fresh(behind));
  await settled();
  const second = behind.back.fsync(file, fresh(behind));
  await settled();
  tt.same(synced, [0, 0]);
  gate.resolve();
  await Promise.all([first, second]);
  await behind.back.fsync(file, fresh(behind));
  tt.same(synced, [0, 0], "then it is done");
});

await t.test("a commit claims no byte that is not at the chunk servers", async (tt) => {
  const behind = new Behind();
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(mib), fresh(behind));
  await settled();
  const flushed = behind.back.flush(file, fresh(behind));
  await behind.back.write(file, mib, Buffer.alloc(2 * mib), fresh(behind));
  await settled();
  behind.sent[2]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await settled();
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await flushed;
  tt.equal(behind.commits.at(-1)?.request.size, mib, "the second piece is on its way");
  tt.equal(behind.shownSize(), 3 * mib, "here it is seen whole");
  behind.sent[1]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await behind.back.flush(file, fresh(behind));
  tt.equal(behind.commits.at(-1)?.request.size, 3 * mib);
});

await t.test("a lost piece does not extend the file, nor does what follows it", async (tt) => {
  const behind = new Behind();
  behind.answerWrites = false;
  const waiter = fresh(behind);
  await behind.back.write(file, 0, Buffer.alloc(3 * mib), waiter);
  await settled();
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  behind.sent[1]?.answer.reject(failure());
  behind.sent[2]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  tt.equal(await outcome(behind.back.flush(file, waiter)), "io-error");
  tt.equal(behind.commits.at(-1)?.request.size, mib);
  tt.equal(behind.shownSize(), mib);
});

await t.test(
  "a commit that the master will never take makes what is cached out of date",
  async (tt) => {
    const behind = new Behind();
    behind.answerCommits = false;
    const waiter = fresh(behind);
    await behind.back.write(file, 0, Buffer.alloc(10), waiter);
    const flushed = outcome(behind.back.flush(file, waiter));
    await settled();
    tt.same(behind.uncommitted, []);
    behind.commits[0]?.answer.reject(new StatusError("stale", "the inode does not exist any more"));
    tt.equal(await flushed, "stale");
    tt.same(behind.uncommitted, [file]);
  },
);

await t.test("rewriting a file's start does not hold back its new end", async (tt) => {
  const behind = new Behind();
  await behind.back.write(file, 0, Buffer.alloc(2 * mib), fresh(behind));
  await settled();
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(10), fresh(behind));
  behind.answerWrites = true;
  await behind.back.write(file, 2 * mib, Buffer.alloc(mib), fresh(behind));
  await settled();
  behind.sent
    .find(({ length }) => length === 10)
    ?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await behind.back.flush(file, fresh(behind));
  tt.equal(behind.commits.at(-1)?.request.size, 3 * mib);
});

await t.test("a commit names the handle that took the latest write", async (tt) => {
  const behind = new Behind();
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(2 * mib), fresh(behind));
  await settled();
  behind.sent[1]?.answer.resolve({ handle: chunkHandle(9), fresh: false });
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(3), fresh: false });
  await behind.back.flush(file, fresh(behind));
  tt.same(behind.commits[0]?.request.written, [{ index: 0, handle: 9 }]);
});

await t.test(
  "a failure is told once to every open file, not only to who asks first",
  async (tt) => {
    const behind = new Behind();
    behind.answerWrites = false;
    const [one, two] = [fresh(behind), fresh(behind)];
    await behind.back.write(file, 0, Buffer.alloc(mib), one);
    await settled();
    behind.sent[0]?.answer.reject(failure());
    await behind.back.settle(file);
    await behind.back.exclusively(file, async () => undefined);
    tt.equal(await outcome(behind.back.fsync(file, one)), "io-error", "after chmod and truncate");
    tt.equal(await outcome(behind.back.flush(file, two)), "io-error");
    await behind.back.fsync(file, one);
    await behind.back.flush(file, two);
    await behind.back.fsync(file, fresh(behind));
  },
);

await t.test("an interrupted fsync ends at once, and the writing goes on", async (tt) => {
  const behind = new Behind();
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(mib), fresh(behind));
  const abort = new AbortController();
  const { signal } = abort;
  const waiting = behind.back.fsync(file, { ...fresh(behind), signal });
  const draining = behind.back.drain(file, signal);
  abort.abort();
  tt.equal(await outcome(waiting), "interrupted");
  tt.equal(await outcome(draining), "interrupted");
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await behind.back.flush(file, fresh(behind));
  tt.equal(behind.commits[0]?.request.size, mib);
});

await t.test("an interrupted write that waited for memory takes nothing", async (tt) => {
  const behind = new Behind({ unsentBytesMax: mib });
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(mib), fresh(behind));
  const abort = new AbortController();
  const waiter = { ...fresh(behind), signal: abort.signal };
  const waiting = behind.back.write(file, mib, Buffer.alloc(mib), waiter);
  abort.abort();
  tt.equal(await outcome(waiting), "interrupted");
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await behind.back.flush(file, fresh(behind));
  await settled();
  tt.equal(behind.sent.length, 1);
  tt.equal(behind.back.pending(file), undefined);
});

await t.test("data is copied before write returns, also if it has to wait", async (tt) => {
  const seen: number[] = [];
  const behind = new Behind({
    unsentBytesMax: mib,
    writer: {
      write: async (_ino, _offset, data) => {
        seen.push(data[0] ?? 0);
        await settled();
        return { handle: chunkHandle(1), fresh: false, taking: nobody };
      },
      sync: async () => [],
    },
  });
  const data = Buffer.alloc(mib, 1);
  const writes = [0, 1, 2].map((i) => behind.back.write(file, i * mib, data, fresh(behind)));
  data.fill(7);
  await Promise.all(writes);
  await behind.back.flush(file, fresh(behind));
  tt.same(seen, [1, 1, 1]);
});

await t.test("a file whose servers are gone holds up no other", async (tt) => {
  const behind = new Behind({ unsentBytesMax: 3 * mib });
  const other = toIno(6);
  behind.answerWrites = false;
  await behind.back.write(file, 0, Buffer.alloc(10), fresh(behind));
  const stuck = behind.back.tick(0);
  await settled();
  behind.answerWrites = true;
  await behind.back.write(other, 0, Buffer.alloc(10), fresh(behind));
  const begun = behind.back.tick(0);
  tt.equal(begun.length, 1, "the stuck one is not begun again");
  await Promise.all(begun);
  tt.same(
    behind.commits.map(({ request }) => request.ino),
    [6],
  );
  behind.sent[0]?.answer.resolve({ handle: chunkHandle(1), fresh: false });
  await Promise.all(stuck);
});

await t.test("writers that wait for memory get it, whatever was opened since", async (tt) => {
  const behind = new Behind({ unsentBytesMax: 128 * 1024 });
  const files = Array.from({ length: 20 }, (_, i) => toIno(10 + i));
  const waiter = fresh(behind);
  await Promise.all(files.map((ino) => behind.back.write(ino, 0, Buffer.alloc(10), waiter)));
  await behind.back.flushAll();
  tt.equal(behind.sent.length, 20);
});

await t.test("a commit that can never be taken is reported, and not sent for ever", async (tt) => {
  const behind = new Behind();
  behind.answerCommits = false;
  const waiter = fresh(behind);
  await behind.back.write(file, 0, Buffer.alloc(10), waiter);
  const flushed = behind.back.flush(file, waiter);
  await settled();
  behind.commits[0]?.answer.reject(new StatusError("stale", "cut off by another mount"));
  tt.equal(await outcome(flushed), "stale");
  await Promise.all(behind.back.tick(0));
  tt.equal(behind.commits.length, 1);
  tt.same(behind.back.unwritten(), []);
});

t.test("a chunk that the master has not heard of is committed before it is read", async (tt) => {
  const behind = new Behind();
  behind.fresh = true;
  const { back } = behind;
  const waiter = { cursor: back.errors.cursor(file) };
  await back.write(file, 0, Buffer.alloc(100), waiter);
  await back.readable(file, 50, 10);
  tt.equal(behind.commits.length, 1, "the master would have told of a hole");
  await back.write(file, 0, Buffer.alloc(100), waiter);
  await back.readable(file, 4 * mib, 10);
  tt.equal(behind.commits.length, 1, "another chunk");
  await back.readable(file, 0, 10);
  tt.equal(behind.commits.length, 1, "it knows of the chunk by now, whatever the old grant says");
  await back.settle(file);
});

t.test("what was written under a lock that is lost meanwhile is not sent", async (t) => {
  const asked = new Deferred();
  const sent: number[] = [];
  const behind = new Behind({
    admit: () => asked.promise,
    writer: {
      write: async (_ino, offset, _data, admit) => {
        await admit?.();
        sent.push(offset);
        return { handle: chunkHandle(1), fresh: false, taking: nobody };
      },
      sync: () => Promise.resolve([]),
    },
  });
  const { back } = behind;
  const cursor = back.errors.cursor(file);
  await back.write(file, 0, Buffer.from("on its way"), { cursor });
  const flushed = outcome(back.flush(file, { cursor }));
  await settled();
  await back.write(file, 2 * mib, Buffer.from("collected"), { cursor });
  back.abandon(file);
  await back.write(file, 3 * mib, Buffer.from("later"), { cursor });
  asked.resolve();
  t.equal(await flushed, "io-error");
  await back.settle(file);
  t.same(sent, [3 * mib], "what is written after it is");
});

await t.test("every open file is told once that bytes were lost before the sync", async (tt) => {
  const behind = new Behind();
  const [writer, other] = [fresh(behind), fresh(behind)];
  await behind.back.write(file, 0, Buffer.alloc(8), writer);
  behind.lost = [0];
  tt.equal(await outcome(behind.back.fsync(file, writer)), "io-error");
  tt.equal(await outcome(behind.back.fsync(file, writer)), "done");
  tt.equal(await outcome(behind.back.flush(file, other)), "io-error");
  tt.equal(await outcome(behind.back.fsync(file, other)), "done");
  tt.same(behind.synced, [[0]], "there is nothing left to be synced");
});
