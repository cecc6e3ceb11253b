import fc from "fast-check";
import t from "tap";
import { blockBytes, crcsByBlock } from "../../common/crc32c.ts";
import { splice } from "../../chunkd/store/blocks.ts";
import { pattern } from "./support.ts";

/** Offsets and lengths crowd around block borders, where mistakes are. */
const places = fc
  .tuple(fc.nat({ max: 5 }), fc.integer({ min: -3, max: 3 }), fc.nat({ max: blockBytes }))
  .map(([block, near, inside]) =>
    Math.max(0, block * blockBytes + (inside % 3 === 0 ? inside : near)),
  );

t.test("spliced CRCs are those of the spliced bytes, whatever is written where", async (t) => {
  await fc.assert(
    fc.asyncProperty(places, places, places, fc.nat(), async (length, offset, count, seed) => {
      const old = pattern(length, seed);
      const bytes = pattern(count + 1, seed + 1);
      const expected = Buffer.alloc(Math.max(length, offset + bytes.length));
      old.copy(expected);
      bytes.copy(expected, offset);

      let blocksRead = 0;
      const crcs = crcsByBlock(old, 0);
      const spliced = await splice({
        length,
        crcs,
        offset,
        bytes,
        bytesCrcs: crcsByBlock(bytes, offset),
        readBlock: async (block) => {
          blocksRead += 1;
          return old.subarray(block * blockBytes, (block + 1) * blockBytes);
        },
      });
      spliced.crcs.forEach((crc, i) => {
        crcs[spliced.first + i] = crc;
      });
      if (blocksRead > 2) throw new Error(`${blocksRead} blocks were read`);
      return spliced.length === expected.length && crcs.join() === crcsByBlock(expected, 0).join();
    }),
    { numRuns: 300 },
  );
  t.pass();
});

t.test("a pure append reads nothing back", async (t) => {
  const old = pattern(blockBytes + 100, 1);
  const bytes = pattern(3 * blockBytes, 2);
  const spliced = await splice({
    length: old.length,
    crcs: crcsByBlock(old, 0),
    offset: old.length,
    bytes,
    bytesCrcs: crcsByBlock(bytes, old.length),
    readBlock: () => Promise.reject(new Error("a block was read")),
  });
  t.same(spliced.crcs, crcsByBlock(Buffer.concat([old, bytes]), 0).slice(1));
});
