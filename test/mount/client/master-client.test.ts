import t from "tap";
import { must } from "../../../common/assert.ts";
import type { Clock } from "../../../common/clock.ts";
import { silentLog } from "../../../common/log.ts";
import { systemClock } from "../../../common/os/clock.ts";
import { Tasks } from "../../../common/tasks.ts";
import { MasterClient } from "../../../mount/client/master-client.ts";
import { Handlers } from "../../../protocol/connection.ts";
import { accept } from "../../../protocol/dial.ts";
import { sessionId } from "../../../protocol/id.ts";
import { cacheLeaseMs } from "../../../protocol/limits.ts";
import { openSession, renewSession } from "../../../protocol/methods/session.ts";
import { type MemoryTransport, transportPair } from "../../support/memory-transport.ts";
import { until } from "../../support/until.ts";

t.test("nothing is believed, and all is dropped, when the master does not answer", async (t) => {
  let nowMs = 5_000;
  const clock: Clock = { ...systemClock, nowMs: () => nowMs };
  const tasks = new Tasks({ clock, log: silentLog });
  t.teardown(() => tasks.stop());
  const transports: MemoryTransport[] = [];
  const answers = new Handlers()
    .serve(openSession, () => {
      nowMs += 100; // It took its time: the lease began with the question.
      return { session: sessionId(1), resumed: true, leaseMs: 30_000, chunkBytes: 1 << 20 };
    })
    .serve(renewSession, () => ({}));
  const connect = async (): Promise<MemoryTransport> => {
    const [near, far] = transportPair();
    transports.push(near);
    const server = { peer: "test", cluster: () => "c", handlersFor: () => answers };
    accept(far, { ...server, onReady: () => undefined, clock: systemClock, log: silentLog });
    return near;
  };
  let dropped = 0;
  const done = (): Promise<void> => Promise.resolve();
  const client = new MasterClient({
    ...{ address: { host: "x", port: 1 }, connect, mountpoint: "/m", name: "m", secret: "s" },
    ...{ timeoutMs: undefined, clock, log: silentLog, tasks, random: () => 0.5 },
    ...{ onInvalidate: done, onSession: done, onFlush: done, onRecall: done, opens: () => [] },
    onLockReady: () => undefined,
    onDisconnect: async () => void (dropped += 1),
  });
  t.equal(client.believesForMs, 0, "not connected yet");
  await client.start();
  t.equal(client.believesForMs, cacheLeaseMs - 100);
  nowMs += cacheLeaseMs / 2;
  await client.renewed();
  t.equal(client.believesForMs, cacheLeaseMs, "an answer begins a new lease");
  must(transports[0], "a transport").held = [];
  nowMs += cacheLeaseMs - 1;
  t.equal(client.believesForMs, 1);
  t.equal(dropped, 0);
  nowMs += 1;
  t.equal(client.believesForMs, 0, "at once, whenever it may be noticed");
  await until("it believes again", () => transports.length >= 2 && client.believesForMs > 0);
  t.equal(dropped, 1, "before it goes on over another connection");
});
