import { readdirSync } from "node:fs";
import t from "tap";
import { cloneChunk } from "../../chunkd/store/clone.ts";
import { copyChunk } from "../../chunkd/store/copy.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import type { Store } from "../../chunkd/store/store.ts";
import { cleanChunk } from "../../chunkd/store/sync.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { get, kib, put, sourceOf } from "./store-support.ts";
import {
  h,
  openTestStore,
  pattern,
  statusFrom,
  TamperedDisk,
  temporaryDirectory,
  v,
} from "./support.ts";

/** Every operation of several steps is broken off at each of them in turn. */

const operations: Record<string, { run: (store: Store) => Promise<unknown>; after: Buffer[] }> = {
  migrate: {
    run: (store) => put(store, h(1), pattern(100 * kib, 7), 10 * kib),
    after: [Buffer.concat([pattern(60 * kib, 1).subarray(0, 10 * kib), pattern(100 * kib, 7)])],
  },
  cut: {
    run: (store) =>
      raiseVersion(store, { handle: h(2), version: v(1), newVersion: v(2), length: 99_999 }),
    after: [pattern(300 * kib, 2).subarray(0, 99_999)],
  },
  clone: {
    run: (store) => cloneChunk(store, { handle: h(2), version: v(1), target: h(3) }),
    after: [],
  },
  copy: {
    run: async (store) => {
      const name = { handle: h(2), version: v(2), draft: false };
      await copyChunk(store, name, sourceOf(pattern(400 * kib, 9)));
    },
    after: [pattern(400 * kib, 9)],
  },
};

/** Reads a chunk under whatever version it has; undefined if it is not there. */
async function anyVersion(store: Store, handle: ChunkHandle): Promise<Buffer | undefined> {
  for (const version of [1, 2]) {
    const status = await statusFrom(get(store, handle, { version }));
    if (status === "ok") return Buffer.from(await get(store, handle, { version }));
    if (status === "no-chunk") return undefined;
    if (status !== "stale-version") throw new Error(status);
  }
  throw new Error("a version that nobody gave it");
}

for (const [name, operation] of Object.entries(operations)) {
  t.test(
    `a crash at any step of a ${name} leaves the old or the new, and it can be repeated`,
    async (t) => {
      const prepare = async (root: string): Promise<Awaited<ReturnType<typeof openTestStore>>> => {
        const { store, close } = await openTestStore(root);
        await put(store, h(1), pattern(60 * kib, 1));
        await put(store, h(2), pattern(300 * kib, 2));
        await cleanChunk(store, h(1));
        await cleanChunk(store, h(2));
        await close();
        return { store, close };
      };
      const rehearsal = temporaryDirectory(t);
      await prepare(rehearsal);
      const recorder = new TamperedDisk();
      const rehearsed = await openTestStore(rehearsal, { disk: recorder.disk });
      recorder.steps.length = 0;
      await operation.run(rehearsed.store);
      const steps = [...recorder.steps];
      await rehearsed.close();
      t.ok(steps.length >= 2, steps.join(" "));

      for (let crashAt = 0; crashAt < steps.length; crashAt += 1) {
        const root = temporaryDirectory(t);
        await prepare(root);
        const tampered = new TamperedDisk();
        const crashing = await openTestStore(root, { disk: tampered.disk });
        let step = 0;
        tampered.before = () => {
          step += 1;
          if (step > crashAt) throw Object.assign(new Error("crashed"), { code: "EIO" });
        };
        const status = await statusFrom(operation.run(crashing.store));
        t.not(status, "ok", `${steps[crashAt]} failed`);
        await crashing.close().catch(() => undefined);

        const { store, close } = await openTestStore(root);
        const one = await anyVersion(store, h(1));
        const two = await anyVersion(store, h(2));
        const wanted = [pattern(60 * kib, 1), pattern(300 * kib, 2), ...operation.after];
        const isWanted = (bytes: Buffer | undefined): boolean =>
          bytes === undefined ? name === "copy" : wanted.some((good) => good.equals(bytes));
        t.ok(isWanted(one), `chunk 1 after a crash at ${steps[crashAt]}`);
        t.ok(isWanted(two), `chunk 2 after a crash at ${steps[crashAt]}`);
        t.same(readdirSync(store.files.stagingDirectory), []);
        t.equal(await statusFrom(operation.run(store)), "ok", "repeated");
        t.equal(store.faults.corruptBlocks, 0);
        await close();
      }
    },
  );
}
