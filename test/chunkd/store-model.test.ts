import fc from "fast-check";
import t from "tap";
import { crcsByBlock } from "../../common/crc32c.ts";
import { applyWrite } from "../../chunkd/store/apply.ts";
import { chunkChecksums } from "../../chunkd/store/checksums.ts";
import { cloneChunk } from "../../chunkd/store/clone.ts";
import { raiseVersion } from "../../chunkd/store/raise.ts";
import { readChunk } from "../../chunkd/store/read.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import type { Store } from "../../chunkd/store/store.ts";
import { cleanChunk, syncChunk } from "../../chunkd/store/sync.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { h, openTestStore, pattern, temporaryDirectory, v } from "./support.ts";

/** Random operations on a real store, beside a model that keeps plain byte arrays. */

type Action =
  | { kind: "write"; chunk: number; offset: number; length: number; seed: number }
  | { kind: "cut"; chunk: number; length: number }
  | { kind: "clone"; chunk: number; length: number }
  | { kind: "remove" | "sync" | "clean"; chunk: number }
  | { kind: "reopen" };

const near = fc
  .tuple(fc.nat({ max: 4 }), fc.integer({ min: -2, max: 2 }), fc.nat({ max: 65_535 }))
  .map(([block, by, inside]) => Math.max(0, block * 65_536 + (inside % 2 ? inside : by)));
const chunk = fc.nat({ max: 3 });

const actions: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("write"),
      chunk,
      offset: near,
      length: near,
      seed: fc.nat(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("cut"), chunk, length: near }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("clone"), chunk, length: near }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constantFrom("remove", "sync", "clean"), chunk }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("reopen") }) },
);

interface Known {
  handle: ChunkHandle;
  version: number;
  bytes: Buffer;
}

class Run {
  readonly #root: string;
  #opened: Awaited<ReturnType<typeof openTestStore>>;
  readonly #known = new Map<number, Known>();
  #nextHandle = 1;

  constructor(root: string, opened: Awaited<ReturnType<typeof openTestStore>>) {
    this.#root = root;
    this.#opened = opened;
  }

  async act(action: Action): Promise<void> {
    const { store } = this.#opened;
    if (action.kind === "reopen") {
      await this.#opened.close();
      this.#opened = await openTestStore(this.#root);
      return;
    }
    const known = this.#known.get(action.chunk);
    if (action.kind === "write") return this.#write(store, known, action);
    if (!known) return;
    const isForSureOnes = action.kind === "clone" || action.kind === "clean";
    if (isForSureOnes) await raiseDoubtful(store, known);
    const name = { handle: known.handle, version: v(known.version) };
    switch (action.kind) {
      case "cut":
        known.version += 1;
        known.bytes = known.bytes.subarray(0, action.length);
        await raiseVersion(store, {
          ...name,
          newVersion: v(known.version),
          length: action.length,
        });
        return;
      case "clone": {
        const target = h(this.#nextHandle++);
        await cloneChunk(store, { ...name, target, length: action.length });
        const bytes = Buffer.from(known.bytes.subarray(0, action.length));
        this.#known.set(action.chunk, { handle: target, version: 1, bytes });
        return removeChunk(store, known.handle);
      }
      case "remove":
        this.#known.delete(action.chunk);
        return removeChunk(store, known.handle);
      case "sync":
        return syncChunk(store, name);
      case "clean":
        await cleanChunk(store, known.handle);
    }
  }

  async #write(
    store: Store,
    before: Known | undefined,
    action: { chunk: number; offset: number; length: number; seed: number },
  ): Promise<void> {
    const known = before ?? { handle: h(this.#nextHandle++), version: 1, bytes: Buffer.alloc(0) };
    this.#known.set(action.chunk, known);
    const bytes = pattern(action.length, action.seed);
    const crcs = crcsByBlock(bytes, action.offset);
    await store.table.with(known.handle, (found) => {
      if (!found.record) {
        const record = { version: v(1), length: 0, crcs: [], dirty: false, small: true };
        const fresh = { bytes: Buffer.alloc(0), fresh: true, origin: undefined };
        store.table.replace(found, { ...record, ...fresh });
      }
      return applyWrite(store, found, { offset: action.offset, bytes, crcs });
    });
    if (bytes.length === 0) return;
    const next = Buffer.alloc(Math.max(known.bytes.length, action.offset + bytes.length));
    known.bytes.copy(next);
    bytes.copy(next, action.offset);
    known.bytes = next;
  }

  async compare(): Promise<void> {
    const { store } = this.#opened;
    for (const { handle, version, bytes } of this.#known.values()) {
      const name = { handle, version: v(version) };
      const { payload } = await readChunk(store, { ...name, offset: 0, length: 1 << 20 });
      if (!payload.equals(bytes)) throw new Error(`chunk ${handle} has other bytes`);
      const sums = await chunkChecksums(store, name);
      if (sums.length !== bytes.length) throw new Error(`chunk ${handle} has another length`);
      if (sums.crcs.join() !== crcsByBlock(bytes, 0).join()) throw new Error("other CRCs");
    }
    const used = [...this.#known.values()].reduce((sum, { bytes }) => sum + bytes.length, 0);
    if (store.table.usedBytes !== used) {
      throw new Error(`usedBytes is ${store.table.usedBytes}, not ${used}`);
    }
    if (store.table.count !== this.#known.size) throw new Error("the count of chunks is wrong");
    if (store.faults.corruptBlocks !== 0) throw new Error("corruption out of nothing");
  }

  close(): Promise<void> {
    return this.#opened.close();
  }
}

/** As the master does before anything else with what a crash left dirty. */
async function raiseDoubtful(store: Store, known: Known): Promise<void> {
  const { handle, version } = known;
  if (!store.faults.isDoubtful(handle)) return;
  known.version += 1;
  await raiseVersion(store, { handle, version: v(version), newVersion: v(known.version) });
}

t.test("any sequence of operations and crashes reads as plain byte arrays would", async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(actions, { minLength: 1, maxLength: 14 }), async (sequence) => {
      const root = temporaryDirectory(t);
      const run = new Run(root, await openTestStore(root));
      try {
        for (const action of sequence) {
          await run.act(action);
          await run.compare();
        }
        await run.act({ kind: "reopen" });
        await run.compare();
      } finally {
        await run.close();
      }
    }),
    { numRuns: 40, endOnFailure: false },
  );
  t.pass();
});
