import t from "tap";
import { chunkHandle, chunkVersion } from "../../../protocol/id.ts";
import { ChunkReader } from "../../../mount/client/chunk-reader.ts";
import type { MasterClient } from "../../../mount/client/master-client.ts";
import { ReadAhead, ReadAheadBudget } from "../../../mount/client/read-ahead.ts";
import type { Location } from "../../../protocol/shapes.ts";
import { clock, Deferred, file, mib, settled, outcome } from "./support.ts";

const source = { ino: file, at: undefined };

/** Reads that the test answers. */
function fakeReader() {
  const asked: { offset: number; answer: Deferred<Buffer> }[] = [];
  const read = (_source: unknown, { offset }: { offset: number }): Promise<Buffer> => {
    const answer = new Deferred<Buffer>();
    asked.push({ offset, answer });
    return answer.promise;
  };
  return { asked, reader: { read } };
}

await t.test("nothing that was fetched before a change is read after it", async (tt) => {
  const { asked, reader } = fakeReader();
  const ahead = new ReadAhead(reader, new ReadAheadBudget(), source);
  const first = ahead.read({ offset: 0, length: 10, size: mib });
  ahead.clear();
  asked[0]?.answer.resolve(Buffer.alloc(mib, 1));
  await first;
  const second = ahead.read({ offset: 0, length: 10, size: mib });
  tt.equal(asked.length, 2, "the fetch that was under way is not kept");
  asked[1]?.answer.resolve(Buffer.alloc(mib, 2));
  tt.equal((await second)[0]?.[0], 2);
});

await t.test("memory counts until the fetch that takes it has ended", async (tt) => {
  const { asked, reader } = fakeReader();
  const budget = new ReadAheadBudget();
  const ahead = new ReadAhead(reader, budget, source);
  const reading = ahead.read({ offset: 0, length: 10, size: mib });
  ahead.clear();
  tt.equal(budget.bytes.inUse, mib);
  asked[0]?.answer.resolve(Buffer.alloc(mib));
  await reading;
  tt.equal(budget.bytes.inUse, 0);
  const failing = ahead.read({ offset: 0, length: 10, size: mib });
  asked[1]?.answer.reject(new Error("gone"));
  await tt.rejects(failing);
  await settled();
  tt.equal(budget.bytes.inUse, 0, "released once, whether kept or dropped");
});

await t.test("a reader that is interrupted does not wait for what is fetched ahead", async (tt) => {
  const { reader } = fakeReader();
  const ahead = new ReadAhead(reader, new ReadAheadBudget(), source);
  const abort = new AbortController();
  const reading = ahead.read({ offset: 0, length: 10, size: mib }, abort.signal);
  abort.abort();
  tt.equal(await outcome(reading), "interrupted");
});

await t.test("a location that was asked for before a change is not kept", async (tt) => {
  const answers: Deferred<{ locations: Location[] }>[] = [];
  const read = (): Promise<unknown> => {
    const answer = new Deferred<{ locations: Location[] }>();
    answers.push(answer);
    return answer.promise;
  };
  const reader = new ChunkReader({
    master: { chunkBytes: 4 * mib, read: read as MasterClient["read"] },
    pool: { call: () => Promise.reject(new Error("not called: holes only")) },
    clock,
    random: () => 0,
    place: { hosts: new Set(), rack: "" },
    timeoutMs: undefined,
    stop: new AbortController().signal,
  });
  const learn = reader.learner(source);
  const first = reader.read(source, { offset: 0, length: 4 });
  await settled();
  reader.forget(file);
  learn({ index: 0, handle: chunkHandle(1), version: chunkVersion(1), replicas: [] });
  answers[0]?.resolve({ locations: [] });
  await first;
  const second = reader.read(source, { offset: 0, length: 4 });
  await settled();
  tt.equal(answers.length, 2, "the master is asked again");
  answers[1]?.resolve({ locations: [] });
  await second;
});
