import t from "tap";
import { connectionReadBytesMax, readBytesMax } from "../../chunkd/limits.ts";
import { ReadMemory } from "../../chunkd/service/read-memory.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { Connection, Handlers } from "../../protocol/connection.ts";
import { transportPair } from "../support/memory-transport.ts";

const mib = 1024 * 1024;

function connection(): Connection {
  const [near] = transportPair();
  const options = { handlers: new Handlers(), clock: systemClock, log: silentLog };
  return new Connection(near, { ...options, peerName: "peer" });
}

/** Acquires until it has to wait; returns what it got, and those that wait. */
async function fill(memory: ReadMemory, by: Connection): Promise<((count: number) => void)[]> {
  const got: ((count: number) => void)[] = [];
  for (let i = 0; i < 1_000; i += 1) void memory.acquire(by, mib).then((give) => got.push(give));
  await new Promise(setImmediate);
  return got;
}

t.test("a connection that takes no answers leaves memory to the others", async (t) => {
  const memory = new ReadMemory();
  const held = await fill(memory, connection());
  t.equal(held.length, connectionReadBytesMax / mib, "its part, and the rest waits");
  const others = Array.from({ length: 20 }, connection);
  const served = await Promise.all(others.slice(0, 7).map((other) => fill(memory, other)));
  const total = served.reduce((sum, { length }) => sum + length, held.length);
  t.equal(total, readBytesMax / mib, "all together have a limit too");
  let late = false;
  const waiting = memory.acquire(connection(), mib).then(() => (late = true));
  await new Promise(setImmediate);
  t.equal(late, false);
  for (const give of served[0] ?? []) give(mib);
  await waiting;
});
