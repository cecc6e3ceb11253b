import t from "tap";
import type { Clock } from "../../../common/clock.ts";
import { Boots, type Taking } from "../../../mount/client/boots.ts";
import { Unsynced } from "../../../mount/client/dirty-file.ts";
import type { Pool } from "../../../protocol/dial.ts";
import { type BootId, bootId, serverId } from "../../../protocol/id.ts";
import { StatusError } from "../../../protocol/status.ts";
import { clock } from "./support.ts";

/** Servers at addresses "1", "2", …, whose boots the test tells, and the time. */
class Servers {
  nowMs = 0;
  /** By server; one that is not named does not answer. */
  boots: Record<string, number> = { 1: 1, 2: 1, 3: 1 };
  readonly asked: string[] = [];
  readonly known: Boots;

  constructor() {
    const own: Clock = { ...clock, nowMs: () => this.nowMs };
    const call = async (address: string): Promise<unknown> => {
      this.asked.push(address);
      const boot = this.boots[address];
      if (boot === undefined) throw new StatusError("unavailable", "as the test says");
      return { reply: { boot: bootId(boot) }, payload: Buffer.alloc(0) };
    };
    this.known = new Boots({ clock: own, pool: { call: call as Pool["call"] } });
  }

  /** These take a write. */
  took(...ids: number[]): Taking {
    const replicas = ids.map((id) => ({ server: serverId(id), address: `${id}`, rack: "" }));
    return this.known.took(replicas, [...this.#bootsOf(ids).values()]);
  }

  /** These, the chunk's set, answer a sync. */
  haveKept(takings: readonly Taking[], ...ids: number[]): Promise<boolean> {
    return this.known.haveKept(takings, this.#bootsOf(ids));
  }

  #bootsOf(ids: readonly number[]): Map<ReturnType<typeof serverId>, BootId> {
    return new Map(ids.map((id) => [serverId(id), bootId(this.boots[id] ?? 0)]));
  }
}

await t.test("each write has to be on one server that has lost nothing since", async (tt) => {
  const servers = new Servers();
  const first = servers.took(1, 2);
  servers.boots[1] = 2;
  const second = servers.took(1, 2);
  tt.ok(await servers.haveKept([first, second], 1, 2));
  servers.boots[2] = 2;
  tt.notOk(await servers.haveKept([first, second], 1, 2), "the first one is on none");
  tt.ok(await servers.haveKept([second], 1, 2));
  tt.same(servers.asked, []);
});

await t.test("what was written long before a server's restart is on its disk", async (tt) => {
  const servers = new Servers();
  const taking = servers.took(1, 2);
  delete servers.boots[2];
  servers.nowMs = 30_000;
  await servers.known.tick();
  tt.same(servers.asked, [], "it may not be there yet");
  servers.nowMs = 65_000;
  await servers.known.tick();
  await servers.known.tick();
  tt.same(servers.asked.toSorted(), ["1", "2", "2"], "each is asked until it has answered");
  servers.boots = { 1: 2, 2: 2 };
  tt.ok(await servers.haveKept([taking], 1, 2));
  servers.nowMs = 900_000;
  servers.asked.splice(0);
  await servers.known.tick();
  tt.same(servers.asked, [], "one that is gone is not asked for ever");
});

await t.test(
  "of copies on other servers nobody knows once a server does not answer",
  async (tt) => {
    const servers = new Servers();
    const taking = servers.took(1, 2);
    tt.ok(await servers.haveKept([taking], 3));
    delete servers.boots[2];
    servers.nowMs = 20_000;
    tt.notOk(await servers.haveKept([taking], 3));
    tt.notOk(await servers.haveKept([{ takers: [], atMs: 0 }], 3));
  },
);

await t.test("writes that a sync did not wait for stay, with those that took them", (tt) => {
  const servers = new Servers();
  const unsynced = new Unsynced();
  const takings = (): readonly Taking[] => unsynced.take().get(0)?.takings ?? [];
  unsynced.add(0, servers.took(1, 2));
  unsynced.add(0, servers.took(1, 2));
  tt.equal(takings().length, 1, "the same servers are noted once");
  const taken = unsynced.take();
  const later = servers.took(1, 3);
  unsynced.add(0, later);
  unsynced.synced(taken);
  tt.same(takings(), [later]);
  for (let boot = 2; boot < 30; boot += 1) {
    servers.boots = { 1: 1, 2: boot, 3: boot };
    unsynced.add(0, servers.took(1, 2, 3));
  }
  tt.ok(takings().length <= 8, "however often they change");
  tt.same(
    takings()[0]?.takers.map(({ server }) => server),
    [1],
    "the one that has all of the oldest",
  );
  tt.end();
});
