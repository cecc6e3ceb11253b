/** The native module by itself. A socket stands for the device: what is sent is what is read. */

import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import t from "tap";
import { assert } from "../../common/assert.ts";
import {
  type ChannelEvent,
  channelEvent,
  loadAddon,
  modulePath,
} from "../../mount/fuse/device/addon.ts";
import { run } from "./fuse-native-support.ts";

const addon = loadAddon();

function sockets(): [number, number] {
  const pair = addon.socketPair();
  assert(typeof pair !== "number", "a socket pair");
  return pair;
}

type Seen = [ChannelEvent, number];

/** A channel on one end of a socket; `next` resolves with the next event. */
function openOne(buffer = new Uint8Array(10_000)) {
  const [device, peer] = sockets();
  const seen: Seen[] = [];
  let wake: () => void = () => undefined;
  const channel = addon.open(device, buffer, (event, value) => {
    seen.push([event, value]);
    wake();
  });
  const next = async (): Promise<Seen | undefined> => {
    while (seen.length === 0) await new Promise<void>((resolve) => (wake = resolve));
    return seen.shift();
  };
  const end = async (): Promise<void> => {
    addon.close(channel);
    while ((await next())?.[0] !== channelEvent.closed);
    closeSync(peer);
  };
  return { channel, device, peer, buffer, next, end };
}

await t.test("messages arrive in the buffer, replies leave in one piece", async (tt) => {
  const { channel, peer, buffer, next, end } = openOne();
  tt.equal(addon.start(channel), 0);
  writeSync(peer, "question");
  tt.same(await next(), [channelEvent.message, 8]);
  tt.equal(Buffer.from(buffer.subarray(0, 8)).toString(), "question");
  const parts = ["an", "", "swer"].map((text) => Buffer.from(text));
  tt.equal(addon.reply(channel, ...parts), 0);
  tt.equal(addon.notify(channel, Buffer.from("notification")), 0);
  tt.same(await next(), [channelEvent.notified, 0]);
  const got = Buffer.alloc(100);
  const length = readSync(peer, got);
  tt.equal(got.toString("utf8", 0, length), "answernotification");
  await end();
});

await t.test("a closed channel answers ENODEV, and its descriptor is closed", async (tt) => {
  const { channel, device, end } = openOne();
  await end();
  tt.throws(() => fstatSync(device), { code: "EBADF" });
  tt.equal(addon.start(channel), -19);
  tt.equal(addon.reply(channel, Buffer.alloc(1)), -19);
  tt.equal(addon.notify(channel, Buffer.alloc(1)), -19);
  tt.equal(addon.close(channel), -19);
});

await t.test(
  "a buffer that was taken away ends the reading, and nothing is written to it",
  async (tt) => {
    const { channel, peer, buffer, next, end } = openOne();
    addon.start(channel);
    structuredClone(buffer.buffer, { transfer: [buffer.buffer] });
    writeSync(peer, "question");
    tt.same(await next(), [channelEvent.end, 14], "EFAULT");
    await end();
  },
);

await t.test("what cannot be a channel stays the caller's", (tt) => {
  const buffer = new Uint8Array(10_000);
  const file = openSync("/etc/passwd", "r");
  const listener = (): void => undefined;
  tt.equal(addon.open(file, buffer, listener), -1, "a file cannot be polled: EPERM");
  tt.ok(fstatSync(file).isFile());
  closeSync(file);
  tt.equal(addon.open(100_000, buffer, listener), -9, "EBADF");
  tt.throws(() => addon.open(2 ** 32, buffer, listener), { name: "RangeError" }, "not 0");
  tt.throws(() => addon.open(0, new Uint8Array(8191), listener), { name: "RangeError" });
  tt.end();
});

await t.test("no argument does anything but throw or fail", async (tt) => {
  const { channel, end } = openOne();
  const detached = new Uint8Array(9000);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  const odd = fc.oneof(
    fc.anything(),
    fc.uint8Array({ maxLength: 40 }),
    fc.constantFrom<unknown>(
      channel,
      channel + 1,
      detached,
      new Uint8Array(new SharedArrayBuffer(9)),
    ),
    fc.constantFrom<unknown>(new DataView(new ArrayBuffer(9)), new Proxy([], {}), () => undefined),
    fc.constantFrom<unknown>(
      new Uint8Array(2 << 20),
      "x".repeat(9000),
      "a\0b",
      Number.NaN,
      2 ** 40,
    ),
  );
  const names = ["mount", "receiveDescriptor", "open", "start", "reply", "notify"] as const;
  // A number that happens to be a descriptor of this process is a right argument, and not for play:
  // a channel on one of the event loop's own would keep it from ending.
  const isInUse = (value: unknown): boolean => {
    try {
      return typeof value === "number" && fstatSync(Math.trunc(value)) !== undefined;
    } catch {
      return false;
    }
  };
  fc.assert(
    fc.property(fc.constantFrom(...names), fc.array(odd, { maxLength: 70 }), (name, args) => {
      if (isInUse(args[0])) return;
      try {
        const result = (addon[name] as (...given: unknown[]) => unknown)(...args);
        assert(typeof result === "number", "a result is a number");
      } catch (error) {
        assert(error instanceof TypeError || error instanceof RangeError, String(error));
      }
    }),
    { numRuns: 5000 },
  );
  tt.pass();
  await end();
});

await t.test("a worker can end with a channel open", async (tt) => {
  const program = `
    const addon = require(${JSON.stringify(modulePath)});
    const [device, peer] = addon.socketPair();
    const channel = addon.open(device, new Uint8Array(10_000), () => undefined);
    addon.start(channel);
    const { parentPort } = require("node:worker_threads");
    parentPort.postMessage(addon.notify(channel, Buffer.from("x")));`;
  for (let i = 0; i < 10; i++) {
    const worker = new Worker(program, { eval: true });
    const sent = await new Promise((resolve) => worker.once("message", resolve));
    tt.equal(sent, 0);
    await worker.terminate();
  }
});

await t.test("what a listener throws is an uncaught exception", async (tt) => {
  const program = `
    const addon = require(${JSON.stringify(modulePath)});
    const [device, peer] = addon.socketPair();
    process.on("uncaughtException", ({ message }) => {
      console.log(message);
      addon.close(channel);
    });
    const channel = addon.open(device, new Uint8Array(10_000), (event) => {
      if (event === 0) throw new Error("thrown");
      console.log(event === 3 ? "closed" : event);
    });
    addon.start(channel);
    require("node:fs").writeSync(peer, "x");`;
  const { code, output, errors } = await run(process.execPath, ["-e", program]);
  tt.equal(output, "thrown\nclosed\n", errors);
  tt.equal(code, 0, "and the process ends by itself");
});
