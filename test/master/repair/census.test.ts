import fc from "fast-check";
import t from "tap";
import { Census, type ChunkFacts } from "../../../master/chunks/census.ts";
import { chunkHandle, serverId } from "../../../protocol/id.ts";

/** The census against a plain count of all chunks. */

const ids = fc.uniqueArray(fc.integer({ min: 1, max: 5 }), { maxLength: 4 });
const facts = fc.record({
  ...{ goal: fc.integer({ min: 1, max: 3 }), written: fc.boolean() },
  ...{ servers: ids, present: ids },
});
const change = fc.record({
  handle: fc.integer({ min: 1, max: 12_000 }),
  facts: fc.option(facts, { nil: undefined }),
});

t.test("whatever changes: its counts and members are those of all chunks", (t) => {
  const property = fc.property(fc.array(change, { maxLength: 200 }), (changes) => {
    const chunks = new Map<number, ChunkFacts>();
    const census = new Census((handle) => chunks.get(handle));
    for (const { handle, facts } of changes) {
      if (facts) {
        const { servers, present } = facts;
        const known = { servers: servers.map(serverId), present: present.map(serverId) };
        chunks.set(handle, { ...facts, ...known });
      } else chunks.delete(handle);
      census.note(chunkHandle(handle));
    }
    compare(census, chunks);
  });
  fc.assert(property, { numRuns: 300 });
  t.end();
});

function compare(census: Census, chunks: ReadonlyMap<number, ChunkFacts>): void {
  const isUp = (id: number): boolean => id !== 2;
  const written = [...chunks.values()].filter((chunk) => chunk.written);
  const up = written.map((chunk) => chunk.present.filter(isUp).length);
  const expected = {
    total: written.length,
    belowGoal: written.filter((chunk, i) => (up[i] ?? 0) < chunk.goal).length,
    lost: up.filter((count) => count === 0).length,
  };
  const counts = census.counts(isUp);
  if (JSON.stringify(counts) !== JSON.stringify(expected)) throw new Error("the counts differ");
  for (let id = 1; id <= 5; id += 1) {
    const server = serverId(id);
    const on = ({ servers, present }: ChunkFacts): boolean =>
      servers.includes(server) || present.includes(server);
    const dependents = [...chunks.values()].filter(on).length;
    if ((census.dependents().get(server) ?? 0) !== dependents) throw new Error("dependents differ");
  }
  const all = new Set([...census.classes()].map(([number]) => number));
  const members = [...census.members(all)].toSorted((a, b) => a - b);
  const handles = [...chunks.keys()].toSorted((a, b) => a - b);
  if (members.join() !== handles.join()) throw new Error("the members differ");
  if (all.size > handles.length) throw new Error("an empty class is left");
}

t.test("a million chunks are counted from their classes", (t) => {
  const sets = Array.from({ length: 10 }, (_, i) => [1, 2, 3].map((n) => serverId(n + i)));
  let reads = 0;
  const census = new Census((handle) => {
    reads += 1;
    const servers = sets[handle % 10] ?? [];
    return { goal: 3, written: true, servers, present: servers };
  });
  for (let handle = 1; handle <= 1_000_000; handle += 1) census.note(chunkHandle(handle));
  census.flush();
  t.equal(reads, 1_000_000);
  const startMs = performance.now();
  t.match(
    census.counts(() => true),
    { total: 1_000_000, belowGoal: 0, lost: 0 },
  );
  const countMs = performance.now() - startMs;
  const wanted = new Set([...census.classes()].flatMap(([number]) => (number === 3 ? [3] : [])));
  let members = 0;
  for (const _ of census.members(wanted)) members += 1;
  const walkMs = performance.now() - startMs - countMs;
  t.equal(members, 100_000);
  t.equal(reads, 1_000_000, "without reading any chunk again");
  t.comment(`counted in ${countMs.toFixed(2)} ms, a class found in ${walkMs.toFixed(1)} ms`);
  t.end();
});
