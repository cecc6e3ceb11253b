import fc from "fast-check";
import t from "tap";
import { must } from "../../../common/assert.ts";
import { canMove, unevenPairs, unevenShare } from "../../../master/background/repair/balance.ts";
import {
  type Need,
  needOf,
  priority,
  type ServerView,
} from "../../../master/background/repair/need.ts";
import { RepairQueue } from "../../../master/background/repair/queue.ts";
import { Slots } from "../../../master/background/repair/slots.ts";
import type { ChunkFacts } from "../../../master/chunks/census.ts";
import { betterSpread, pickDrop, place, spreadCost } from "../../../master/chunks/placement.ts";
import { chunkHandle, type ServerId, serverId } from "../../../protocol/id.ts";

/** What repair decides, from facts alone. */

const healthy = {
  ...{ host: "", rack: "", used: 0.5, up: true, expected: false, maintenance: false },
  ...{ leaving: false, forced: false, takes: true },
};

/** Servers 1, 2, …, healthy but for what is said of them; each on a host of its own. */
function fleetOf(...differences: Partial<ServerView>[]): Map<ServerId, ServerView> {
  return new Map(
    differences.map((difference, i) => {
      const id = serverId(i + 1);
      return [id, { ...healthy, id, host: `h${i}`, ...difference }];
    }),
  );
}

function chunkOn(ids: readonly number[], more: Partial<ChunkFacts> = {}): ChunkFacts {
  const servers = ids.map(serverId);
  return { goal: 3, written: true, servers, present: servers, ...more };
}

const away = { up: false, expected: true, takes: false };
const dead = { up: false, takes: false };
const draining = { leaving: true, takes: false };
const inMaintenance = { maintenance: true, takes: false };

t.test("the fewer replicas are left, the sooner a chunk is copied", (t) => {
  const fleet = fleetOf({}, {}, dead, dead, {});
  t.match(needOf(chunkOn([1, 3, 4]), fleet), { kind: "copy", priority: priority.lastCopy });
  t.match(needOf(chunkOn([1, 2, 3]), fleet), { kind: "copy", priority: priority.belowGoal });
  t.equal(needOf(chunkOn([3, 4]), fleet), undefined, "there is nothing to copy from");
  t.equal(needOf(chunkOn([1, 2, 5]), fleet), undefined);
  t.ok(priority.lastCopy < priority.belowGoal && priority.belowGoal < priority.leaving);
  t.end();
});

t.test("a server that is away for a moment is waited for, but not with one replica left", (t) => {
  const two = fleetOf({}, {}, away, {});
  t.equal(needOf(chunkOn([1, 2, 3]), two), undefined);
  t.equal(needOf(chunkOn([1, 2]), two), undefined, "also if a write has reduced the set since");
  t.match(needOf(chunkOn([1, 3], { goal: 2 }), two), { kind: "copy", priority: 1 });
  t.match(needOf(chunkOn([1, 2, 3]), fleetOf({}, {}, dead, {})), { kind: "copy" });
  t.end();
});

t.test("who is in maintenance is waited for, also with one replica left", (t) => {
  const fleet = fleetOf({}, {}, { ...dead, ...inMaintenance }, {}, dead);
  t.equal(needOf(chunkOn([1, 3], { goal: 2 }), fleet), undefined);
  t.match(needOf(chunkOn([1, 3, 5]), fleet), { kind: "copy", priority: 1 }, "but for him alone");
  t.end();
});

t.test("what is on a server that is to be emptied is copied first, dropped then", (t) => {
  const fleet = fleetOf({}, {}, draining, {});
  t.match(needOf(chunkOn([1, 2, 3]), fleet), { kind: "copy", priority: priority.leaving });
  t.match(needOf(chunkOn([1, 2, 3, 4]), fleet), { kind: "drop", server: 3 });
  const alone = fleetOf({}, {}, draining);
  t.equal(needOf(chunkOn([1, 2, 3]), alone), undefined, "nobody can take it: it stays");
  const forced = fleetOf({}, {}, { ...draining, forced: true });
  t.match(needOf(chunkOn([1, 2, 3]), forced), { kind: "drop", server: 3 });
  t.equal(needOf(chunkOn([3]), forced)?.kind, "copy", "never the last one");
  t.end();
});

t.test("a set is rid of servers that are gone once the goal is met without them", (t) => {
  const fleet = fleetOf({}, {}, dead, {});
  t.match(needOf(chunkOn([1, 2, 3, 4]), fleet), { kind: "shrink" });
  t.equal(needOf(chunkOn([1, 2, 3]), fleetOf({}, {}, dead)), undefined, "but not before");
  const mixed = fleetOf({}, {}, dead, away, {});
  t.equal(needOf(chunkOn([1, 2, 3, 4, 5]), mixed), undefined, "nor of who may come back");
  t.match(needOf(chunkOn([1, 2, 4, 99]), fleetOf({}, {}, {}, {})), { kind: "shrink" }, "unknown");
  t.end();
});

t.test("who has no replica, though it is in the set, leaves it and can get a copy", (t) => {
  const lacks = (ids: readonly number[], present: readonly number[]): ChunkFacts =>
    chunkOn(ids, { present: present.map(serverId) });
  const three = fleetOf({}, {}, {});
  t.match(needOf(lacks([1, 2, 3], [1, 2]), three), { kind: "shrink", priority: 2 });
  t.match(needOf(lacks([1, 2, 3], [1]), three), { kind: "shrink", priority: 1 });
  const draining4 = fleetOf({}, {}, {}, draining);
  t.match(needOf(lacks([1, 2, 3, 4], [1, 2, 3]), draining4), { kind: "shrink", priority: 4 });
  const oneAway = fleetOf({}, {}, {}, away);
  t.equal(needOf(lacks([1, 2, 3, 4], [1, 2, 4]), oneAway), undefined, "not those who are away");
  t.end();
});

t.test("one too many: the spread over racks and hosts decides, then how full they are", (t) => {
  const fleet = fleetOf({ rack: "a" }, { rack: "a" }, { rack: "b", used: 0.9 }, { rack: "c" });
  t.match(needOf(chunkOn([1, 2, 3, 4]), fleet), { kind: "drop", server: 2 });
  const even = fleetOf({}, { used: 0.7 }, {}, {});
  t.match(needOf(chunkOn([1, 2, 3, 4]), even), { kind: "drop", server: 2 });
  t.end();
});

t.test("replicas that share a rack or a host are moved apart if that can be", (t) => {
  const fleet = fleetOf({ rack: "a" }, { rack: "a" }, { rack: "b" }, { rack: "c" });
  t.match(needOf(chunkOn([1, 2, 3]), fleet), { kind: "move", target: 4 });
  t.equal(needOf(chunkOn([1, 3, 4]), fleet), undefined);
  const hosts = fleetOf({ host: "x" }, { host: "x" }, {}, {});
  t.match(needOf(chunkOn([1, 2, 3]), hosts), { kind: "move", target: 4 });
  const oneHost = fleetOf({ host: "x" }, { host: "x" }, { host: "x" }, { host: "x" });
  t.equal(needOf(chunkOn([1, 2, 3]), oneHost), undefined, "where all share one, all is well");
  t.end();
});

t.test("a chunk without data only gets away from servers that are to be emptied", (t) => {
  const fleet = fleetOf({}, {}, draining, {}, dead);
  t.match(needOf(chunkOn([1, 2, 3], { written: false }), fleet), { kind: "replace" });
  t.equal(needOf(chunkOn([1, 2, 5], { written: false }), fleet), undefined);
  t.end();
});

const arbitraryServer = fc.record({
  rack: fc.constantFrom("a", "b", "c"),
  host: fc.constantFrom("x", "y", "z", "u", "v", "w"),
  used: fc.double({ min: 0, max: 1, noNaN: true }),
  fate: fc.constantFrom({}, {}, {}, draining, { ...draining, forced: true }, away, dead, {
    ...dead,
    ...inMaintenance,
  }),
});

type Servers = Map<ServerId, ServerView>;

const liveOf = ({ servers, present }: ChunkFacts, fleet: Servers): ServerView[] =>
  servers.flatMap((id) => {
    const server = fleet.get(id);
    return server?.up && present.includes(id) ? [server] : [];
  });

/** The chunk after a step for it. */
function after(facts: ChunkFacts, fleet: Servers, need: Need): ChunkFacts {
  const withSet = (ids: readonly ServerId[]): ChunkFacts => {
    return { ...facts, servers: ids, present: facts.present.filter((id) => ids.includes(id)) };
  };
  const added = (id: ServerId): ChunkFacts => {
    const servers = [...facts.servers, id];
    return { ...facts, servers, present: [...facts.present, id] };
  };
  switch (need.kind) {
    case "copy": {
      const free = [...fleet.values()].filter(
        ({ id, takes }) => takes && !facts.servers.includes(id),
      );
      const candidates = free.map((server) => ({ ...server, recent: 0 }));
      const present = liveOf(facts, fleet).map((server) => ({ ...server, recent: 0 }));
      return added(must(place(candidates, 1, { present, random: () => 0 })[0], "a target"));
    }
    case "move":
      return added(need.target);
    case "drop":
      return withSet(facts.servers.filter((id) => id !== need.server));
    case "shrink":
      return withSet(liveOf(facts, fleet).map(({ id }) => id));
    case "replace":
      throw new Error("it has data");
  }
}

t.test("whatever the servers' state: it ends, and no step takes a chunk below its goal", (t) => {
  const property = fc.property(
    fc.array(arbitraryServer, { minLength: 1, maxLength: 8 }),
    fc.integer({ min: 1, max: 4 }),
    fc.uniqueArray(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 5 }),
    fc.integer({ min: 1, max: 5 }),
    (servers, goal, ids, presentCount) => {
      const fleet = fleetOf(...servers.map(({ fate, ...rest }) => ({ ...rest, ...fate })));
      let facts = chunkOn(ids, { goal, present: ids.slice(0, presentCount).map(serverId) });
      const forced = [...fleet.values()].some((server) => server.forced);
      for (let steps = 0; ; steps += 1) {
        const need = needOf(facts, fleet);
        if (!need) break;
        if (steps > 40) throw new Error(`no end: ${JSON.stringify({ facts, need })}`);
        const before = liveOf(facts, fleet).length;
        facts = after(facts, fleet, need);
        const live = liveOf(facts, fleet).length;
        if (live < 1 || (!forced && live < Math.min(before, goal))) {
          throw new Error(`${before} became ${live}: ${JSON.stringify(need)}`);
        }
      }
      checkEnd(facts, fleet);
    },
  );
  fc.assert(property, { numRuns: 5_000 });
  t.end();
});

/** What has to hold when nothing is needed any more. */
function checkEnd(facts: ChunkFacts, fleet: Servers): void {
  const live = liveOf(facts, fleet);
  const staying = live.filter(({ leaving }) => !leaving);
  const free = [...fleet.values()].filter(({ id, takes }) => takes && !facts.servers.includes(id));
  const nobodyAway = [...fleet.values()].every(({ up, expected, maintenance }) => {
    return up || !(expected || maintenance);
  });
  if (live.length === 0 || !nobodyAway) return;
  const wrong = (what: string): Error => new Error(`${what}: ${JSON.stringify(facts)}`);
  if (staying.length < facts.goal && free.length > 0) throw wrong("a copy is missing");
  if (staying.length > facts.goal) throw wrong("one too many");
  if (staying.length < facts.goal) return;
  if (live.length > staying.length) throw wrong("a server is not emptied");
  if (facts.servers.length > live.length) throw wrong("somebody is gone and in the set");
  if (betterSpread(staying, free)) throw wrong("it could be spread better");
}

t.test("moving for evenness ends, with servers about equally full, and spreads no worse", (t) => {
  const property = fc.property(
    fc.array(
      fc.record({ rack: fc.constantFrom("a", "b"), start: fc.integer({ max: 60, min: 0 }) }),
      {
        minLength: 4,
        maxLength: 7,
      },
    ),
    (servers) => {
      const chunks: ChunkFacts[] = [];
      const ids = servers.map((_, i) => i + 1);
      for (const [i, { start }] of servers.entries()) {
        for (let n = 0; n < start; n += 1) chunks.push(chunkOn([ids[i] ?? 0], { goal: 1 }));
      }
      const held = (id: number): number =>
        chunks.filter((chunk) => chunk.servers.includes(serverId(id))).length;
      const fleet = (): Servers =>
        fleetOf(...servers.map(({ rack }, i) => ({ rack, used: held(i + 1) / 100 })));
      for (let moves = 0; ; moves += 1) {
        const now = fleet();
        const pairs = unevenPairs(now);
        const move = pairs.flatMap((pair) => {
          const at = chunks.findIndex((chunk) => canMove(chunk, now, pair));
          return at < 0 ? [] : [{ ...pair, at }];
        })[0];
        if (!move) break;
        if (moves > 400) throw new Error("no end");
        chunks[move.at] = chunkOn([move.target], { goal: 1 });
      }
      const shares = [...fleet().values()].map(({ used }) => used);
      const mean = shares.reduce((sum, used) => sum + used, 0) / shares.length;
      const worst = Math.max(...shares.map((used) => Math.abs(used - mean)));
      if (worst > unevenShare + 0.011) throw new Error(`${worst} from the mean`);
    },
  );
  fc.assert(property, { numRuns: 50 });
  t.end();
});

t.test("evenness is no reason to put replicas closer together", (t) => {
  const racks = [{ rack: "a", used: 0.9 }, { rack: "b" }, { rack: "c" }, { rack: "b", used: 0 }];
  const fleet = fleetOf(...racks);
  const pair = { source: serverId(1), target: serverId(4) };
  t.same(unevenPairs(fleet)[0], pair, "it is the widest difference");
  t.equal(canMove(chunkOn([1, 2, 3]), fleet, pair), false, "b would have two");
  t.equal(canMove(chunkOn([1, 3], { goal: 2 }), fleet, pair), true);
  t.equal(canMove(chunkOn([1, 3]), fleet, pair), false, "it lacks a replica: that comes first");
  t.end();
});

t.test("what is dropped leaves the best spread of all choices", (t) => {
  const place = fc.record({
    ...{ rack: fc.constantFrom("a", "b", "c"), host: fc.constantFrom("x", "y", "z") },
    used: fc.double({ min: 0, max: 1, noNaN: true }),
  });
  const property = fc.property(fc.array(place, { minLength: 2, maxLength: 6 }), (places) => {
    const members = places.map((one, i) => ({ ...one, id: serverId(i) }));
    const dropped = must(pickDrop(members), "one");
    const costs = members.map((one) => spreadCost(members.filter((other) => other !== one)));
    return costs[members.indexOf(dropped)] === Math.min(...costs);
  });
  fc.assert(property);
  t.end();
});

t.test("a full queue forgets the least urgent, and says so", (t) => {
  const queue = new RepairQueue(3);
  for (const handle of [10, 11, 12]) queue.put(chunkHandle(handle), priority.extra);
  t.equal(queue.overflowed, false);
  queue.put(chunkHandle(20), priority.spread);
  t.same([...queue.inOrder()], [10, 11, 12], "less urgent than all others");
  t.equal(queue.overflowed, true);
  queue.put(chunkHandle(30), priority.lastCopy);
  t.same([...queue.inOrder()].length, 3);
  t.equal([...queue.inOrder()][0], 30);
  queue.put(chunkHandle(12), priority.awaited);
  queue.put(chunkHandle(12), priority.spread);
  t.equal([...queue.inOrder()][0], 12, "once urgent, it stays so");
  queue.remove(chunkHandle(12));
  t.equal(queue.size, [...queue.inOrder()].length);
  t.end();
});

t.test("the caps on copies grow with the number of servers, and hold for each", (t) => {
  const slots = new Slots(2);
  const [a, b, c] = [1, 2, 3].map(serverId) as [ServerId, ServerId, ServerId];
  slots.take({ source: a, target: b });
  slots.take({ source: a, target: c });
  t.equal(slots.hasRoom(a), false);
  t.equal(slots.hasRoom(b), true);
  slots.free({ source: a, target: b });
  t.equal(slots.hasRoom(a), true);
  t.same(
    [1, 3, 10, 1_000].map((up) => slots.mostWith(up)),
    [1, 3, 10, 64],
  );
  t.end();
});
