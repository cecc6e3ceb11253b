import fc from "fast-check";
import t from "tap";
import { blockBytes } from "../../common/crc32c.ts";
import {
  blocksIn,
  type ChunkRecord,
  decodeKey,
  decodeRecord,
  encodeKey,
  encodeRecord,
} from "../../chunkd/store/record.ts";
import { h, v } from "./support.ts";

const golden: ChunkRecord = {
  version: v(3),
  length: blockBytes + 5,
  dirty: false,
  small: false,
  origin: { handle: h(0x0102), version: v(2), length: blockBytes + 5 },
  crcs: [0xdead_beef, 0x1234_5678],
};

t.test("the format on disk is what it was when it was released", async (t) => {
  t.equal(
    encodeRecord(h(0x1f_ffff_ffff_ffff), golden).toString("hex"),
    [
      "0104000002000000" + "0300000000000000" + "0500010000000000",
      "0201000000000000" + "0200000000000000" + "0500010000000000",
      "efbeadde" + "78563412" + "d86d1dfd",
    ].join(""),
    "a change needs a new format number and a way to read the old one",
  );
  t.equal(encodeKey(h(0x0102)).toString("hex"), "0000000000000102");
});

const records = fc
  .record({
    version: fc.nat().map(v),
    length: fc.nat({ max: 40 * blockBytes }),
    dirty: fc.boolean(),
    small: fc.boolean(),
    origin: fc.option(
      fc.record({
        handle: fc.maxSafeNat().map(h),
        version: fc.maxSafeNat().map(v),
        length: fc.maxSafeNat(),
      }),
      { nil: undefined },
    ),
    seed: fc.nat(),
  })
  .map(({ seed, ...record }) => {
    const mark = record.dirty && !record.small;
    const crcs = Array.from({ length: mark ? 0 : blocksIn(record.length) }, (_, i) => {
      return Math.imul(seed + i, 2_654_435_761) >>> 0;
    });
    return { ...record, crcs };
  });

t.test("what is encoded is decoded, handle by handle", async (t) => {
  fc.assert(
    fc.property(fc.maxSafeNat().map(h), records, (handle, record) => {
      const decoded = decodeRecord(handle, encodeRecord(handle, record));
      if (typeof decoded === "string") throw new Error(decoded);
      return JSON.stringify(decoded) === JSON.stringify({ ...record });
    }),
  );
  fc.assert(
    fc.property(fc.maxSafeNat().map(h), (handle) => decodeKey(encodeKey(handle)) === handle),
  );
  t.pass();
});

t.test(
  "a record with any bit flipped, cut short, or under another key is never used",
  async (t) => {
    const bytes = encodeRecord(h(7), golden);
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      if (typeof decodeRecord(h(7), flipped) !== "string") t.fail(`bit ${bit} went unnoticed`);
    }
    for (let length = 0; length < bytes.length; length += 1) {
      const cut = bytes.subarray(0, length);
      if (typeof decodeRecord(h(7), cut) !== "string") t.fail(`${length} bytes were enough`);
    }
    t.type(decodeRecord(h(8), bytes), "string");
    t.type(decodeRecord(h(7), bytes), "object");
  },
);
