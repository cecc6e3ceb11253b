import fc from "fast-check";
import t from "tap";
import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import { envelopeDepthMax } from "../../protocol/limits.ts";
import { statusOf } from "../../protocol/status.ts";
import { outcome } from "../support/outcome.ts";

const value = fc.letrec((tie) => ({
  any: fc.oneof(
    { depthSize: "small" },
    fc.integer(),
    fc.maxSafeInteger(),
    fc.boolean(),
    fc.string(),
    fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    fc.array(tie("any"), { maxLength: 4 }),
    fc.dictionary(fc.string({ minLength: 1, maxLength: 8 }), tie("any"), { maxKeys: 4 }),
  ),
})).any;

/** Buffers and plain objects compare by what is in them, whatever their prototypes. */
function plain(item: unknown): unknown {
  if (item instanceof Uint8Array) return { bytes: Buffer.from(item).toString("hex") };
  if (Array.isArray(item)) return item.map(plain);
  if (typeof item === "bigint") return { big: String(item) };
  if (typeof item === "object" && item !== null) {
    return Object.entries(item).map(([key, inner]) => [key, plain(inner)]);
  }
  return item;
}

t.test("what is encoded is decoded again, and the payload behind it is left alone", async (t) => {
  fc.assert(
    fc.property(value, fc.uint8Array({ maxLength: 50 }), (item, payload) => {
      const message = Buffer.concat([encodeCbor(item), payload]);
      const decoded = decodeCbor(message);
      return (
        JSON.stringify(plain(decoded.value)) === JSON.stringify(plain(item)) &&
        decoded.rest.equals(Buffer.from(payload))
      );
    }),
    { numRuns: 500 },
  );
  t.pass("all values");
});

t.test("any bytes whatever are decoded or refused, and never crash the program", async (t) => {
  let refused = 0;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      try {
        decodeCbor(Buffer.from(bytes));
      } catch (error) {
        refused += 1;
        return statusOf(error) === "protocol";
      }
      return true;
    }),
    { numRuns: 3000 },
  );
  t.ok(refused > 1000, `${refused} of 3000 were refused`);
});

t.test(
  "lengths that lie and nesting without end are refused before anything is built",
  async (t) => {
    const nested = Buffer.alloc(100_000, 0x81);
    t.equal(await outcome(() => decodeCbor(nested)), "protocol", "100,000 arrays in each other");
    const hugeArray = Buffer.from([0x9b, 0, 0, 0, 1, 0, 0, 0, 0]);
    t.equal(await outcome(() => decodeCbor(hugeArray)), "protocol", "an array of 4 G items");
    const hugeString = Buffer.from([0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    t.equal(await outcome(() => decodeCbor(hugeString)), "protocol", "a string of 16 E bytes");
    let deep: unknown = 1;
    for (let i = 0; i < envelopeDepthMax; i += 1) deep = [deep];
    t.doesNotThrow(() => decodeCbor(encodeCbor(deep)), "as deep as is allowed");
    t.equal(await outcome(() => decodeCbor(encodeCbor([deep]))), "protocol", "one deeper");
  },
);
