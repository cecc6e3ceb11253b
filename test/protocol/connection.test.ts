import { once } from "node:events";
import { connect as connectRaw } from "node:net";
import fc from "fast-check";
import t from "tap";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { encodeCbor } from "../../protocol/codec.ts";
import { Connection, Handlers, WithPayload } from "../../protocol/connection.ts";
import { ino } from "../../protocol/id.ts";
import { inFlightMax, queuedBytesMax } from "../../protocol/limits.ts";
import { readChunk } from "../../protocol/methods/chunk.ts";
import { lookup } from "../../protocol/methods/namespace.ts";
import { renewSession } from "../../protocol/methods/session.ts";
import { chunkHandle, chunkVersion } from "../../protocol/id.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import { listen } from "../../protocol/websocket.ts";
import { outcome } from "../support/outcome.ts";
import { transportPair } from "../support/memory-transport.ts";
import { until } from "../support/until.ts";

function connect(handlers: Handlers) {
  const [near, far] = transportPair();
  const options = { clock: systemClock, log: silentLog, peerName: "peer" };
  const client = new Connection(near, { ...options, handlers: new Handlers() });
  const server = new Connection(far, { ...options, handlers });
  return { client, server, near, far };
}

const never = (): Promise<never> => new Promise(() => undefined);
const attr = {
  ...{ ino: ino(7), mode: 0o100644, nlink: 1, uid: 0, gid: 0, rdev: 0, size: 2 ** 40 },
  ...{ blocks: 8, atime: 1n, mtime: -5n, ctime: 1_763_760_000_123_456_789n },
};
const name = Buffer.from([0xff, 0x0a, 0x20]);

t.test("a request reaches its handler whole, and its reply comes back whole", async (t) => {
  const { client } = connect(
    new Handlers().serve(lookup, (params) => {
      t.same(Buffer.from(params.name), name, "a name of any bytes");
      return { attr: { ...attr, ino: params.parent } };
    }),
  );
  const reply = await client.call(lookup, { parent: ino(2 ** 50), name });
  t.same(reply.attr, { ...attr, ino: 2 ** 50 }, "64-bit times and large numbers are exact");
});

t.test("a payload goes beside the envelope, both ways", async (t) => {
  const bytes = Buffer.alloc(100_000, 7);
  const { client } = connect(
    new Handlers().serve(readChunk, (_params, { payload }) => {
      t.equal(payload.length, 3);
      return new WithPayload({ crcs: [1] }, bytes);
    }),
  );
  const params = { handle: chunkHandle(1), version: chunkVersion(1), offset: 0, length: 9 };
  const { reply, payload } = await client.callForPayload(readChunk, params, {
    payload: Buffer.from("abc"),
  });
  t.same(reply, { crcs: [1] });
  t.ok(payload.equals(bytes));
});

t.test(
  "a failure crosses with its status, message and servers; a bug is only internal",
  async (t) => {
    let fails: Error = new StatusError("replica-failed", "two are gone", { servers: [3, 4] });
    const { client } = connect(
      new Handlers().serve(renewSession, () => {
        throw fails;
      }),
    );
    const failure = client.call(renewSession, {});
    await t.rejects(failure, {
      status: "replica-failed",
      message: "two are gone",
      servers: [3, 4],
    });
    fails = new TypeError("secret detail");
    await t.rejects(client.call(renewSession, {}), {
      status: "internal",
      message: "internal error",
    });
  },
);

t.test("an interrupted request is cancelled at its server", async (t) => {
  const abort = new AbortController();
  const cancelled = new Promise<void>((resolve) => {
    const { client } = connect(
      new Handlers().serve(renewSession, (_params, { signal }) => {
        signal.addEventListener("abort", () => resolve());
        abort.abort();
        return never();
      }),
    );
    const options = { signal: abort.signal };
    void outcome(client.call(renewSession, {}, options)).then((end) => t.equal(end, "interrupted"));
  });
  await cancelled;
  t.pass("the server's signal was aborted");
});

t.test("a request without an answer ends with its deadline, and the server is told", async (t) => {
  let told = (): void => undefined;
  const cancelled = new Promise<void>((resolve) => (told = resolve));
  const { client, server } = connect(
    new Handlers().serve(renewSession, (_params, { signal }) => {
      signal.addEventListener("abort", () => told());
      return never();
    }),
  );
  t.equal(await outcome(client.call(renewSession, {}, { deadlineMs: 30 })), "deadline");
  await cancelled;
  t.equal(server.closed, false, "the connection goes on");
});

t.test("when the connection ends, everybody who waits is told", async (t) => {
  const { client, server } = connect(new Handlers().serve(renewSession, never));
  const waiting = [client.call(renewSession, {}), client.call(renewSession, {})];
  setImmediate(() => server.close("maintenance"));
  for (const call of waiting) t.equal(await outcome(call), "disconnected");
  t.equal(await outcome(client.call(renewSession, {})), "disconnected");
});

t.test("more requests than a connection may have under way are refused, not kept", async (t) => {
  const { client } = connect(new Handlers().serve(renewSession, never));
  for (let i = 0; i < inFlightMax; i += 1) {
    client.call(renewSession, {}).catch(() => undefined);
  }
  t.equal(await outcome(client.call(renewSession, {})), "overloaded");
  client.close("done");
});

t.test("a handler is told when its payload is sent, or never will be", async (t) => {
  const sent: string[] = [];
  const handlers = new Handlers().serve(
    readChunk,
    ({ offset }) => new WithPayload({ crcs: [] }, Buffer.alloc(9), () => sent.push(`${offset}`)),
  );
  const { client, far } = connect(handlers);
  const ask = (offset: number) =>
    client.callForPayload(readChunk, {
      ...{ handle: chunkHandle(1), version: chunkVersion(1), offset, length: 9 },
    });
  await ask(1);
  t.same(sent, ["1"]);
  far.queued = queuedBytesMax + 1;
  t.equal(await outcome(ask(2)), "disconnected");
  t.same(sent, ["1", "2"]);
});

t.test("over a socket too, also when the peer goes away without reading", async (t) => {
  const waiting = new Set<object>();
  let asked = 0;
  const handlers = new Handlers().serve(readChunk, () => {
    const token = {};
    waiting.add(token);
    asked += 1;
    return new WithPayload({ crcs: [] }, Buffer.alloc(1 << 20), () => waiting.delete(token));
  });
  const options = { clock: systemClock, log: silentLog, peerName: "peer" };
  const listener = await listen({
    address: { host: "127.0.0.1", port: 0 },
    clock: systemClock,
    onTransport: (transport) => new Connection(transport, { ...options, handlers }),
  });
  t.teardown(() => listener.close());
  const reader = connectRaw(listener.address.port, "127.0.0.1");
  t.teardown(() => reader.destroy());
  reader.write(
    "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
  );
  await once(reader, "data");
  reader.pause();
  const params = { handle: 1, version: 1, offset: 0, length: 1 << 20 };
  for (let id = 1; id <= 40; id += 1) {
    reader.write(maskedFrame(encodeCbor([0, id, readChunk.code, 60_000, params])));
  }
  await until("forty are asked", () => asked >= 40);
  t.ok(waiting.size > 10, "what nobody reads is still in memory");
  reader.destroy();
  await until("nothing is in memory", () => waiting.size === 0);
});

/** A whole binary message of a client, masked with zeros (RFC 6455 §5.2). */
function maskedFrame(message: Buffer): Buffer {
  const head = Buffer.from([0x82, 0x80 | message.length, 0, 0, 0, 0]);
  return Buffer.concat([head, message]);
}

t.test("nothing more is sent to a peer that does not read, and it loses its replies", async (t) => {
  const { client, near, far, server } = connect(new Handlers().serve(renewSession, () => ({})));
  near.queued = queuedBytesMax + 1;
  t.equal(await outcome(client.call(renewSession, {})), "overloaded");
  near.queued = 0;
  far.queued = queuedBytesMax + 1;
  t.equal(await outcome(client.call(renewSession, {})), "disconnected");
  t.equal(server.closed, true);
});

t.test("what is no message ends the connection, and only that", async (t) => {
  const hostile: [string, Buffer][] = [
    ["no CBOR", Buffer.from("GET / HTTP/1.1\r\n")],
    ["nothing", Buffer.alloc(0)],
    ["not an array", encodeCbor({ id: 1 })],
    ["no id", encodeCbor([0])],
    ["an unknown kind", encodeCbor([9, 1])],
    ["an unknown method", encodeCbor([0, 1, 4711, 1000, {}])],
    ["a negative deadline", encodeCbor([0, 1, renewSession.code, -1, {}])],
    ["parameters of another shape", encodeCbor([0, 1, lookup.code, 1000, { parent: "x" }])],
    ["parameters too many", encodeCbor([0, 1, renewSession.code, 1000, { more: 1 }])],
    ["a long name", encodeCbor([0, 1, lookup.code, 9, { parent: 1, name: Buffer.alloc(256) }])],
    ["a malformed failure", encodeCbor([2, 1, "x"])],
  ];
  for (const [what, bytes] of hostile) {
    const { server, far } = connect(new Handlers().serve(renewSession, () => ({})));
    far.inject(bytes);
    t.equal(server.closed, true, what);
  }
});

t.test("a reply of another shape than declared ends the connection", async (t) => {
  const { client, near } = connect(new Handlers().serve(lookup, never));
  const call = client.call(lookup, { parent: ino(1), name });
  near.inject(encodeCbor([1, 1, { attr: { ...attr, size: -1 } }]));
  t.equal(await outcome(call), "disconnected");
});

t.test("whatever arrives, a connection answers or closes; it never throws", async (t) => {
  const shape = fc.array(
    fc.oneof(fc.integer(), fc.constantFrom(0, 1, 2, 3, 20, 11), fc.string(), fc.object()),
    { maxLength: 6 },
  );
  fc.assert(
    fc.property(shape, (envelope) => {
      const { far } = connect(new Handlers().serve(renewSession, () => ({})));
      far.inject(encodeCbor(envelope));
      return true;
    }),
    { numRuns: 500 },
  );
  t.equal(statusOf(new Error("x")), "internal");
});
