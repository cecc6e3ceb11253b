import fc from "fast-check";
import t from "tap";
import { systemClock } from "../../common/os/clock.ts";
import { type OpcodeName, opcodes } from "../../mount/fuse/device/opcodes.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { requestMessage } from "../support/fake-kernel.ts";
import { FakeMount, fakeMount, initialized } from "../support/fake-mount.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";

const names = Object.keys(opcodes) as OpcodeName[];
const numRuns = 400;

/** Small numbers meet what is open and known; others are anything. */
const number = fc.oneof(fc.nat(8), fc.nat(), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }));
const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
/** Structures are made of words: these are more telling than bytes. */
const words = fc.array(number, { maxLength: 12 }).map((values) => {
  const buffer = Buffer.alloc(values.length * 8);
  for (const [i, value] of values.entries()) buffer.writeBigUInt64LE(BigInt(value), i * 8);
  return buffer;
});

const hostile = fc.record({
  opcode: fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...names).map((name) => opcodes[name].code) },
    { weight: 1, arbitrary: fc.nat() },
  ),
  unique: fc.oneof(fc.bigInt({ min: 0n, max: 20n }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
  node: number,
  body: fc.oneof(
    words,
    bytes,
    fc.tuple(words, bytes).map((parts) => Buffer.concat(parts)),
  ),
  /** Added to the length in the header. */
  lie: fc.oneof({ weight: 9, arbitrary: fc.constant(0) }, fc.integer({ min: -200, max: 200 })),
});

function hostileMessage(given: typeof hostile extends fc.Arbitrary<infer T> ? T : never): Buffer {
  const message = Buffer.concat([Buffer.alloc(s.inHeader.byteLength), given.body]);
  s.inHeader.len.set(message, 0, Math.max(0, message.length + given.lie));
  s.inHeader.opcode.set(message, 0, given.opcode);
  message.writeBigUInt64LE(given.unique, s.inHeader.uniqueLow.offset);
  message.writeBigUInt64LE(BigInt(given.node), s.inHeader.nodeid.offset);
  return message;
}

async function settled(mount: FakeMount): Promise<void> {
  for (let i = 0; i < 100 && mount.dispatcher.held.underWay > 0; i++)
    await new Promise(setImmediate);
}

const unanswered = new Set<number>(
  ["FORGET", "BATCH_FORGET", "INTERRUPT"].map((name) => opcodes[name as OpcodeName].code),
);

await t.test("hostile messages get an errno each, and nothing is left behind", async (tt) => {
  await fc.assert(
    fc.asyncProperty(fc.array(hostile, { minLength: 1, maxLength: 12 }), async (all) => {
      const mount = await fakeMount();
      const { file, node } = await mount.create("x");
      await mount.opendir();
      await mount.write(node, file, Buffer.from("content"));
      for (const one of all) {
        mount.kernel.answers.clear();
        mount.kernel.receive(hostileMessage(one));
        await settled(mount);
        if (unanswered.has(one.opcode) && one.lie === 0) continue;
        const answer = mount.kernel.answers.get(one.unique);
        if (answer === undefined) throw new Error(`no answer to opcode ${one.opcode}`);
        if (answer.error > 0 || answer.error <= -512) throw new Error("not an errno");
      }
      mount.kernel.end();
      await mount.dispatcher.ended;
      if (mount.fileSystem.references !== 0) throw new Error("references are left");
      if (mount.fileSystem.openFiles !== 0) throw new Error("files are left open");
    }),
    { numRuns },
  );
  tt.pass("for all of them");
});

await t.test("every request cut off anywhere is answered, or ends the mount", async (tt) => {
  for (const name of names) {
    const whole = requestMessage(name, { names: ["a", "b"], data: Buffer.alloc(8), unique: 99n });
    for (let length = 0; length <= whole.length; length += 1) {
      for (const honest of [true, false]) {
        const mount = await fakeMount();
        const message = Buffer.from(whole.subarray(0, length));
        if (honest && length >= 4) s.inHeader.len.set(message, 0, length);
        mount.kernel.receive(message);
        if (length < s.inHeader.byteLength) {
          await mount.dispatcher.ended;
          continue;
        }
        await settled(mount);
        const whoAnswers =
          !unanswered.has(opcodes[name].code) || (!honest && length < whole.length);
        if (whoAnswers && !mount.kernel.answers.has(99n)) tt.fail(`${name} cut to ${length}`);
      }
    }
  }
  tt.pass("for all of them");
});

await t.test("a number that is used again while it is under way is refused", async (tt) => {
  class Stuck extends MemoryFileSystem {
    override statfs(): Promise<never> {
      return new Promise(() => undefined);
    }
  }
  for (const unique of [8n, 2n ** 63n + 1n, 2n ** 64n - 1n]) {
    const mount = await initialized(new FakeMount(new Stuck(systemClock)));
    mount.kernel.tell("STATFS", { unique });
    tt.notOk(mount.kernel.answers.has(unique));
    const again = await mount.kernel.ask("GETATTR", { unique });
    tt.equal(again.error, -71, "EPROTO");
    tt.equal(mount.dispatcher.held.underWay, 1);
    tt.strictSame(mount.log.events, ["fuse.malformed"]);
  }
});
