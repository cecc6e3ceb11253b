import t from "tap";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { LmdbIndex } from "../../chunkd/store/lmdb-index.ts";
import { Admission } from "../../chunkd/write/admission.ts";
import { epoch } from "../../protocol/id.ts";
import { SmallDisk } from "../support/small-disk.ts";
import { h, statusFrom } from "./support.ts";

/** A disk that is full to the last byte, below the index. */

const disk = SmallDisk.mount(t, 64);
const needs = { skip: disk ? false : "mounting a small disk takes root" };
const where = (name: string): string => `${disk?.path}/${name}`;
t.afterEach(() => disk?.free());
const record = Buffer.alloc(16);
const bytes = Buffer.alloc(40_000, 1);

/** Puts small chunks until one is refused, and returns how many were not. */
async function putUntilFull(index: LmdbIndex, from: number): Promise<number> {
  for (let handle = from; ; handle += 1) {
    const status = await statusFrom(index.put(h(handle), record, bytes).committed);
    if (status === "no-space") return handle - from;
    if (status !== "ok") throw new Error(status);
  }
}

t.test("an index on a full disk says no-space, keeps what it has and goes on", needs, async (t) => {
  const index = new LmdbIndex(where("index"));
  await index.put(h(1), record, bytes).flushed();
  disk?.fill();
  const put = await putUntilFull(index, 2);
  const refused = index.put(h(1_000), record, bytes);
  t.equal(await statusFrom(refused.flushed()), "no-space", "it does not wait for ever");
  await index.flushed();
  t.match(index.getSmall(h(1)), bytes);
  t.equal(index.has(h(1_000)), false);
  disk?.free();
  await index.put(h(1_000), record, bytes).flushed();
  t.equal(index.scan(0, 10_000).length, put + 2);
  disk?.fill();
  await putUntilFull(index, 2_000);
  await index.close();
  disk?.free();
  const again = new LmdbIndex(where("index"));
  t.equal(again.has(h(1_000)), true);
  await again.close();
});

t.test(
  "no page of the index is ever refused by the disk, which lmdb-js does not survive",
  needs,
  async (t) => {
    const index = new LmdbIndex(where("refused"));
    const why = new Set<string>();
    const noted = (error: unknown): void => void why.add(String(error));
    for (let round = 0; round < 30; round += 1) {
      const handle = (i: number): ReturnType<typeof h> => h(round * 100 + i);
      disk?.fill();
      const puts = Array.from({ length: 99 }, (_, i) => index.put(handle(i + 1), record, bytes));
      await Promise.all(puts.map(({ committed }) => committed.catch(noted)));
      const removed = Array.from({ length: 60 }, (_, i) =>
        index.remove(handle(i + 1), { file: true }),
      );
      await Promise.all(removed.map(({ committed }) => committed));
      await index.flushed();
      disk?.free();
    }
    t.equal(why.size, 1);
    t.match([...why][0], /no-space|ENOSPC/);
    t.notMatch([...why][0], /write page/, "asked before LMDB wrote");
    t.equal(index.removals().length, 30 * 60);
    await index.close();
  },
);

t.test("a fence on a full disk holds, and is stored when there is room", needs, async (t) => {
  const index = new LmdbIndex(where("fenced"));
  const admission = new Admission({ index, clock: systemClock, log: silentLog });
  admission.renewLease(systemClock.nowMs(), 60_000);
  disk?.fill();
  await putUntilFull(index, 1);
  for (let i = 0; (await statusFrom(index.putNumber(`n${i}`, i).committed)) === "ok"; i += 1);
  await admission.fence(epoch(7));
  t.equal(await statusFrom(admission.admit(epoch(6), async () => undefined)), "stale-epoch");
  t.equal(index.getNumber("epoch"), 0);
  disk?.free();
  await admission.adopt(epoch(7));
  t.equal(index.getNumber("epoch"), 7);
  await index.close();
});
