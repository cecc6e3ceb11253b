import fc from "fast-check";
import t from "tap";
import { createMemoryStore } from "../../master/store/memory.ts";
import {
  type Store,
  type StoreReader,
  type StoreWriter,
  type Table,
  tableNames,
} from "../../master/store/store.ts";
import { type End, JournalDisk, turn } from "../support/journal-disk.ts";

/**
 * The journaled store against the store in memory: the same after every commit, every failure and
 * every checkpoint; after kill -9 as it was; after a loss of power as it was after some commit that
 * is not older than what was said to be on the disk.
 */

type Action =
  | {
      kind: "write";
      rows: { table: Table; key: Buffer; value: Buffer | undefined }[];
      fails: boolean;
    }
  | { kind: "range"; table: Table; from: Buffer; to: Buffer | undefined; limit: number | undefined }
  | { kind: "turns"; count: number }
  | { kind: "sync" }
  | { kind: "sync-now" }
  | { kind: "timers" }
  | { kind: "close" }
  | { kind: "end"; how: End };

const key = fc
  .array(fc.constantFrom(0, 1, 0x61, 0x80, 0xff), { minLength: 1, maxLength: 3 })
  .map((bytes) => Buffer.from(bytes));
const value = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes));
const table = fc.constantFrom<Table>("meta", "entry", "session");
const row = fc.record({ table, key, value: fc.option(value, { nil: undefined }) });

const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      kind: fc.constant("write" as const),
      rows: fc.array(row, { minLength: 1, maxLength: 8 }),
      fails: fc.boolean().map((fails) => fails),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("range" as const),
      table,
      from: key,
      to: fc.option(key, { nil: undefined }),
      limit: fc.option(fc.nat(5), { nil: undefined }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("turns" as const),
      count: fc.integer({ min: 1, max: 12 }),
    }),
  },
  { weight: 2, arbitrary: fc.constant<Action>({ kind: "sync" }) },
  { weight: 1, arbitrary: fc.constant<Action>({ kind: "sync-now" }) },
  { weight: 2, arbitrary: fc.constant<Action>({ kind: "timers" }) },
  { weight: 1, arbitrary: fc.constant<Action>({ kind: "close" }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("end" as const),
      how: fc.constantFrom<End>("power", "kill"),
    }),
  },
);

const hex = (bytes: Buffer): string => bytes.toString("hex");

/** All rows of all tables, and that `count` says how many there are. */
function contents(store: StoreReader): string {
  const lines: string[] = [];
  for (const name of tableNames) {
    const rows = [...store.range(name, { from: Buffer.alloc(0) })];
    if (store.count(name) !== rows.length) lines.push(`${name} counts ${store.count(name)}`);
    for (const found of rows) lines.push(`${name} ${hex(found.key)}=${hex(found.value)}`);
  }
  return lines.join("\n");
}

/** Small enough that checkpoints are always under way. */
const limits = { journalBytes: 300, sliceRows: 3, waitBytes: 2_000 };
const marks = { checkpoints: 0, restarts: 0, lost: 0, kept: 0 };

class Run {
  readonly #disk = new JournalDisk();
  readonly #random: () => number;
  readonly #model = createMemoryStore();
  #store: Store | undefined;
  /** The contents after each commit, and which of them has to survive. */
  #history = [contents(this.#model)];
  #safe = 0;

  constructor(random: () => number) {
    this.#random = random;
  }

  async start(): Promise<void> {
    this.#store = await this.#disk.open(limits);
  }

  async act(action: Action): Promise<void> {
    const store = this.#store;
    if (!store) throw new Error("not open");
    switch (action.kind) {
      case "write":
        return this.#write(store, action);
      case "range": {
        const { from, to, limit } = action;
        const bounds = { from, to, ...(limit === undefined ? {} : { limit }) };
        const found = (of: Store): string[] =>
          [...of.range(action.table, bounds)].map((r) => `${hex(r.key)}=${hex(r.value)}`);
        same(found(store).join(), found(this.#model).join(), "range");
        return;
      }
      case "turns":
        for (let i = 0; i < action.count; i += 1) await turn();
        return same(contents(store), this.#latest(), "after some turns");
      case "sync": {
        const commits = this.#history.length - 1;
        const history = this.#history;
        const safe = async (): Promise<void> => {
          await store.synced();
          if (this.#history === history) this.#safe = Math.max(this.#safe, commits);
        };
        safe().catch(() => undefined); // The process has ended.
        return;
      }
      case "sync-now":
        store.syncNow();
        this.#safe = this.#history.length - 1;
        return;
      case "timers":
        this.#disk.fireTimers();
        return;
      case "close":
        await store.close();
        same([...this.#disk.files.keys()].join(), "", "no journal is left");
        this.#safe = this.#history.length - 1;
        return this.#restart("power");
      case "end":
        return this.#restart(action.how);
    }
  }

  #latest(): string {
    return this.#history.at(-1) ?? "";
  }

  #write(store: Store, { rows, fails }: Action & { kind: "write" }): void {
    const work = (writer: StoreWriter): void => {
      for (const { table: name, key: at, value: to } of rows) {
        if (to) writer.put(name, at, to);
        else writer.remove(name, at);
        same(String(writer.get(name, at)), String(to), "a writer sees its own changes");
      }
      if (fails) throw new Error("refused");
    };
    const outcome = (of: Store): string => {
      try {
        of.write(work);
        return "done";
      } catch (error) {
        return String(error);
      }
    };
    same(outcome(store), outcome(this.#model), "outcome");
    same(contents(store), contents(this.#model), "after a commit");
    if (!fails) this.#history.push(contents(this.#model));
  }

  async #restart(how: End): Promise<void> {
    const commits = this.#history.length - 1;
    this.#disk.end(how, this.#random);
    marks.restarts += 1;
    marks.checkpoints += this.#disk.steps.filter((site) => site === "checkpoint.flush").length;
    this.#disk.steps.length = 0;
    await this.start();
    const found = contents(this.#store as Store);
    const survived = this.#history.lastIndexOf(found);
    const oldest = how === "kill" ? commits : this.#safe;
    // Commits that change nothing have the same contents: the last one with them counts.
    if (survived < oldest)
      throw new Error(`after ${how}: ${survived} of ${oldest}..${commits}\n${found}`);
    if (survived < commits) marks.lost += 1;
    else marks.kept += 1;
    this.#history = this.#history.slice(0, survived + 1);
    this.#safe = survived;
    copyTo(this.#model, this.#store as Store);
  }
}

/** Makes the model the same as a store that has lost its last commits. */
function copyTo(model: Store, store: Store): void {
  model.write((writer) => {
    for (const name of tableNames) {
      for (const { key: at } of [...model.range(name, { from: Buffer.alloc(0) })]) {
        writer.remove(name, at);
      }
      for (const { key: at, value: to } of store.range(name, { from: Buffer.alloc(0) })) {
        writer.put(name, at, to);
      }
    }
  });
}

function same(actual: string, expected: string, what: string): void {
  if (actual !== expected) throw new Error(`${what}:\n${actual}\nis not\n${expected}`);
}

function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state / 2 ** 31;
  };
}

t.test("it is the store in memory, and a crash takes only what was not synced", async (t) => {
  const seed = Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  t.comment(`seed ${seed}`);
  const runs = Number(process.env["RUNS"] ?? 400);
  await fc.assert(
    fc.asyncProperty(
      fc.nat(),
      fc.array(action, { maxLength: 60, size: "max" }),
      async (from, actions) => {
        const run = new Run(seeded(from));
        await run.start();
        for (const next of actions) await run.act(next);
      },
    ),
    { numRuns: runs, seed },
  );
  t.comment(JSON.stringify(marks));
  for (const [name, count] of Object.entries(marks)) t.ok(count > 0, `${name}: ${count}`);
});
