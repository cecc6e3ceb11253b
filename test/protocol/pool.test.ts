import t from "tap";
import { must } from "../../common/assert.ts";
import type { Clock } from "../../common/clock.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { Connection, Handlers, type Transport } from "../../protocol/connection.ts";
import { accept, Pool } from "../../protocol/dial.ts";
import { protocolVersion } from "../../protocol/methods.ts";
import { hello, renewSession } from "../../protocol/methods/session.ts";
import { StatusError } from "../../protocol/status.ts";
import { handClock } from "../support/hand-clock.ts";
import { transportPair } from "../support/memory-transport.ts";
import { outcome } from "../support/outcome.ts";
import { until } from "../support/until.ts";

/** A server that can be switched off and on, and a pool that dials it. */
function poolAndServer() {
  let nowMs = 0;
  const clock: Clock = { ...systemClock, nowMs: () => nowMs };
  const state = { up: false, dials: 0, connections: [] as Connection[] };
  const answers = new Handlers().serve(renewSession, () => ({}));
  const connect = async (): Promise<Transport> => {
    state.dials += 1;
    if (!state.up) throw new StatusError("unavailable", "nothing listens there");
    const [near, far] = transportPair();
    const options = { peer: "test", cluster: () => "c", handlersFor: () => answers };
    accept(far, {
      ...options,
      onReady: (connection) => state.connections.push(connection),
      clock: systemClock,
      log: silentLog,
    });
    return near;
  };
  const pool = new Pool(
    {
      connect,
      role: "mount",
      name: "m",
      cluster: "c",
      handlers: new Handlers(),
      clock,
      log: silentLog,
    },
    () => 1,
  );
  const call = () => outcome(pool.call("127.0.0.1:1", renewSession, {}));
  const pass = (ms: number): void => {
    nowMs += ms;
  };
  return { state, call, pass };
}

t.test(
  "a server that was down is found again after the back-off, however often asked",
  async (t) => {
    const { state, call, pass } = poolAndServer();
    t.equal(await call(), "unavailable");
    t.equal(await call(), "unavailable", "refused at once");
    t.equal(await call(), "unavailable", "and again");
    t.equal(state.dials, 1, "without dialling");
    state.up = true;
    pass(10_000);
    t.equal(await call(), "ok");
    t.equal(state.dials, 2);
  },
);

t.test("calls at the same time share one connection, and a lost one is dialled anew", async (t) => {
  const { state, call } = poolAndServer();
  state.up = true;
  t.same(await Promise.all([call(), call(), call()]), ["ok", "ok", "ok"]);
  t.equal(state.dials, 1);
  for (const connection of state.connections) connection.close("restart");
  t.ok(["ok", "disconnected"].includes(await call()));
  t.equal(await call(), "ok");
  t.equal(state.dials, 2);
});

t.test("a peer that does not say who it is does not keep its place", async (t) => {
  const { clock, fire } = handClock();
  const options = { cluster: () => "c", handlersFor: () => new Handlers(), log: silentLog };
  const closed: boolean[] = [];
  const transports = [transportPair(), transportPair()];
  for (const [, far] of transports) {
    accept(far, { ...options, peer: "test", clock, onReady: () => undefined });
  }
  const [polite, silent] = transports.map(([near]) => near);
  const connection = new Connection(must(polite, "a peer"), {
    ...{ handlers: new Handlers(), clock: systemClock, log: silentLog, peerName: "server" },
  });
  const greeting = { protocol: protocolVersion, role: "mount", name: "m", cluster: "c" } as const;
  await connection.call(hello, greeting);
  must(silent, "a peer").onClose(() => closed.push(true));
  fire();
  await until("one is closed", () => closed.length > 0);
  t.equal(connection.closed, false);
});
