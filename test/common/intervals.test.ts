import fc from "fast-check";
import t from "tap";
import { Intervals } from "../../common/intervals.ts";

const numbers = 12;
const range = fc
  .tuple(fc.nat(numbers - 1), fc.nat(numbers - 1))
  .map(([a, b]) => ({ start: BigInt(Math.min(a, b)), end: BigInt(Math.max(a, b)) }));
const change = fc.record({ range, value: fc.constantFrom("a", "b", undefined) });

t.test("intervals hold what an array would, in the fewest pieces", async () => {
  fc.assert(
    fc.property(fc.array(change, { maxLength: 30 }), range, (changes, asked) => {
      const intervals = new Intervals<string>();
      const array = new Array<string | undefined>(numbers).fill(undefined);
      for (const { range: its, value } of changes) {
        intervals.set(its, value);
        array.fill(value, Number(its.start), Number(its.end) + 1);
      }
      const shown = new Array<string | undefined>(numbers).fill(undefined);
      for (const { start, end, value } of intervals) {
        shown.fill(value, Number(start), Number(end) + 1);
      }
      const pieces = array.filter((value, i) => value !== undefined && value !== array[i - 1]);
      const part = array.slice(Number(asked.start), Number(asked.end) + 1);
      return (
        JSON.stringify(shown) === JSON.stringify(array) &&
        intervals.size === pieces.length &&
        intervals.overlaps(asked) === part.some((value) => value !== undefined) &&
        intervals.covers(asked, (value) => value === "a") === part.every((value) => value === "a")
      );
    }),
    { numRuns: 2_000 },
  );
});

t.test("an interval reaches to the last byte that a lock can have", async (t) => {
  const last = 2n ** 63n - 1n;
  const intervals = new Intervals<string>();
  intervals.set({ start: 5n, end: last }, "a");
  intervals.set({ start: last, end: last }, undefined);
  t.same([...intervals], [{ start: 5n, end: last - 1n, value: "a" }]);
});
