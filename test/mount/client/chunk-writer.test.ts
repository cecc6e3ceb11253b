import t from "tap";
import { chunkHandle, chunkVersion, epoch, serverId } from "../../../protocol/id.ts";
import type { RequestOf } from "../../../protocol/method.ts";
import {
  type grant as grantMethod,
  syncChunks,
  type writeChunk,
} from "../../../protocol/methods/chunk.ts";
import type { Pool } from "../../../protocol/dial.ts";
import type { Grant, Location } from "../../../protocol/shapes.ts";
import { StatusError, type Status } from "../../../protocol/status.ts";
import { ChunkWriter, type Taken } from "../../../mount/client/chunk-writer.ts";
import type { MasterClient } from "../../../mount/client/master-client.ts";
import { clock, file, log, mib, outcome, settled } from "./support.ts";

type Asked = RequestOf<typeof grantMethod>;

/** A master with one chunk, and servers 1 … n at addresses "1", "2", …. */
class Servers {
  readonly asked: Asked[] = [];
  readonly writes: RequestOf<typeof writeChunk>[] = [];
  readonly syncs: string[] = [];
  /** Whether the master says that the chunk is there to read. */
  located = true;
  fresh = false;
  version = 1;
  set: number[];
  /** By server; 1 if nothing is said. */
  boots: Record<number, number> = {};
  onGrant: () => void = () => undefined;
  onLocate: () => void = () => undefined;
  onSync: () => Promise<void> = () => Promise.resolve();
  onCall: (address: string, nth: number) => void = () => undefined;
  readonly writer: ChunkWriter;
  #calls = 0;

  constructor(servers = 2) {
    this.set = Array.from({ length: servers }, (_, i) => i + 1);
    const read = async (_method: unknown, { first }: { first: number }) => {
      this.onLocate();
      return { locations: this.located ? [this.#chunk(first)] : [] };
    };
    const mutate = async (_method: unknown, request: Asked): Promise<{ grant: Grant }> => ({
      grant: this.#grant(request),
    });
    this.writer = new ChunkWriter({
      master: {
        chunkBytes: 4 * mib,
        read: read as unknown as MasterClient["read"],
        mutate: mutate as MasterClient["mutate"],
      },
      pool: { call: this.#call.bind(this) as Pool["call"] },
      ...{ clock, log, random: () => 0, timeoutMs: undefined },
      stop: new AbortController().signal,
    });
  }

  #chunk(index: number): Location {
    const replicas = this.set.map((id) => ({ server: serverId(id), address: `${id}`, rack: "" }));
    const { version } = this;
    return { index, handle: chunkHandle(7), version: chunkVersion(version), replicas };
  }

  #grant(request: Asked): Grant {
    this.asked.push(request);
    const { failed } = request;
    if (failed?.version === this.version) {
      this.version += 1;
      this.set = this.set.filter((id) => !failed.servers.includes(serverId(id)));
    }
    const grant = { ...this.#chunk(request.index), epoch: epoch(1), fresh: this.fresh };
    this.onGrant();
    return grant;
  }

  async #call(address: string, method: unknown, request: unknown): Promise<unknown> {
    this.#calls += 1;
    if (method === syncChunks) {
      this.syncs.push(address);
      await this.onSync();
    } else this.writes.push(request as RequestOf<typeof writeChunk>);
    await Promise.resolve();
    this.onCall(address, this.#calls);
    const boots = this.set.map((id) => this.boots[id] ?? 1);
    const reply = { boots, boot: this.boots[Number(address)] ?? 1 };
    return { reply, payload: Buffer.alloc(0) };
  }

  write(): Promise<Taken> {
    return this.writer.write(file, 0, Buffer.alloc(10));
  }

  /** fsync of what one write, or none, has left behind. */
  sync(taken?: Taken): Promise<number[]> {
    return this.writer.sync(file, new Map([[0, taken ? [taken.taking] : []]]));
  }
}

const fail = (status: Status, servers: number[] = []): never => {
  throw new StatusError(status, "as the test says", { servers });
};

await t.test("after an invalidation a chunk is asked for again, but never created", async (tt) => {
  const servers = new Servers();
  servers.fresh = true;
  const { handle, fresh } = await servers.write();
  tt.same([handle, fresh], [7, true]);
  servers.writer.forget(file);
  await servers.write();
  tt.equal(servers.asked.length, 2);
  tt.same(
    servers.writes.map(({ create }) => create),
    [true, false],
  );
});

await t.test("a grant that was taken back while on its way is not used", async (tt) => {
  const servers = new Servers();
  servers.onGrant = () => {
    servers.onGrant = () => undefined;
    servers.writer.forget(file);
    servers.version = 4;
  };
  await servers.write();
  tt.equal(servers.asked.length, 2);
  tt.same(
    servers.writes.map(({ version }) => version),
    [4],
  );
});

await t.test("ENOSPC is believed under a second version, and leaves a third", async (tt) => {
  const servers = new Servers();
  servers.onCall = () => fail("no-space");
  tt.equal(await outcome(servers.write()), "no-space");
  tt.same(
    servers.writes.map(({ version }) => version),
    [1, 2],
  );
  servers.onCall = () => undefined;
  await servers.write();
  tt.equal(servers.writes.at(-1)?.version, 3, "the remembered failure does not apply");
  tt.same(servers.set, [1, 2], "a full disk costs no replica");
});

await t.test("there is nothing to sync of a file that is deleted", async (tt) => {
  const servers = new Servers();
  await servers.write();
  servers.writer.forget(file);
  servers.onLocate = () => fail("stale");
  await servers.sync();
  tt.same(servers.syncs, []);
});

await t.test("a file may be deleted while it is synced", async (tt) => {
  const servers = new Servers();
  await servers.write();
  servers.onCall = (address) => address === "1" && fail("io-error");
  servers.onGrant = servers.onLocate = () => fail("stale");
  await servers.sync();
  tt.same(servers.syncs, ["1", "2"]);
});

await t.test("a primary without the version that is granted again does not hold up", async (tt) => {
  const servers = new Servers();
  servers.onCall = () => servers.version === 1 && fail("stale-version");
  await servers.write();
  tt.same(
    servers.writes.map(({ version }) => version),
    [1, 1, 2],
  );
  tt.same(servers.set, [1, 2], "the master finds out who lacks it");
});

await t.test("a broken disk of the primary, or of another, costs that replica only", async (tt) => {
  const servers = new Servers(3);
  servers.onCall = (_address, nth) => {
    if (nth === 1) fail("io-error");
    if (nth === 2) fail("replica-failed", [3]);
  };
  await servers.write();
  tt.same(servers.set, [2]);
  servers.onCall = () => fail("io-error");
  tt.equal(await outcome(servers.write()), "io-error", "unless it is the last");
});

await t.test("the only replica is waited for, not thrown out", async (tt) => {
  const servers = new Servers(1);
  servers.onCall = (_address, nth) => {
    if (nth <= 3) fail("unavailable");
  };
  await servers.write();
  tt.same(servers.set, [1]);
});

await t.test("fsync of a hole is done, and asks for no chunk", async (tt) => {
  const servers = new Servers();
  servers.located = false;
  await servers.sync();
  tt.same([servers.asked, servers.syncs], [[], []]);
});

await t.test("fsync of a chunk that was cut off meanwhile is done", async (tt) => {
  const servers = new Servers();
  await servers.write();
  servers.onCall = () => {
    servers.located = false;
    fail("no-chunk");
  };
  await servers.sync();
  tt.equal(servers.asked.length, 1, "only for the write");
});

await t.test("any failure of one replica in fsync counts against that one", async (tt) => {
  const servers = new Servers(3);
  servers.onCall = (address) => {
    if (address === "2") fail("corrupt");
  };
  await servers.sync();
  tt.same(
    servers.asked.map(({ failed }) => failed),
    [{ handle: 7, version: 1, servers: [2] }],
  );
  servers.onCall = () => fail("io-error");
  tt.equal(await outcome(servers.sync()), "io-error", "of all: an error");
});

await t.test("what all servers of a chunk have lost with their power is not synced", async (tt) => {
  const servers = new Servers(3);
  const taken = await servers.write();
  servers.boots = { 1: 2, 2: 2 };
  tt.same(await servers.sync(taken), [], "the third still has it");
  servers.boots = { 1: 2, 2: 2, 3: 2 };
  tt.same(await servers.sync(taken), [0]);
  tt.same(await servers.sync(await servers.write()), [], "what was written since is there");
});

await t.test("a copy elsewhere has what none of the servers before has lost", async (tt) => {
  const servers = new Servers();
  const taken = await servers.write();
  servers.set = [3];
  servers.writer.forget(file);
  tt.same(await servers.sync(taken), []);
  tt.same(servers.syncs, ["3", "1", "2"], "those that took it are asked too");
  servers.boots = { 1: 2 };
  tt.same(await servers.sync(taken), [0], "it may have been copied from the first");
});

await t.test(
  "chunks are synced several at a time, and none is begun after a failure",
  async (tt) => {
    const servers = new Servers(1);
    const chunks = new Map(Array.from({ length: 40 }, (_, i) => [i, []]));
    let underWay = 0;
    let most = 0;
    servers.onSync = async () => {
      most = Math.max(most, ++underWay);
      await settled();
      underWay -= 1;
    };
    tt.same(await servers.writer.sync(file, chunks), []);
    tt.equal(servers.syncs.length, 40);
    tt.ok(most > 1 && most <= 8, `${most} at a time`);
    servers.onCall = (_address, nth) => {
      if (nth === 50) fail("io-error");
    };
    tt.equal(await outcome(servers.writer.sync(file, chunks)), "io-error");
    tt.ok(servers.syncs.length < 40 + 10 + 8, `${servers.syncs.length - 40} were begun`);
    tt.equal(underWay, 0, "those under way have ended");
  },
);
