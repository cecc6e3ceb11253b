import { must } from "../../common/assert.ts";
import { type Row, type Store, type StoreWriter, type Table, tableNames } from "./store.ts";

/** The store in memory, for tests: the same order and atomicity, nothing on disk. */
export function createMemoryStore(): Store {
  const tables = new Map<Table, Sorted>(tableNames.map((name) => [name, new Sorted()]));
  const table = (name: Table): Sorted => must(tables.get(name), "table");
  let undo: (() => void)[] = [];

  const change = (name: Table, key: Buffer, value: Buffer | undefined): void => {
    const rows = table(name);
    const before = rows.get(key);
    undo.push(() => rows.set(key, before));
    rows.set(Buffer.from(key), value && Buffer.from(value));
  };
  const writer: StoreWriter = {
    get: (name, key) => table(name).get(key),
    range: (name, { from, to, limit }) => table(name).range(from, to, limit ?? Infinity),
    count: (name) => table(name).size,
    put: change,
    remove: (name, key) => change(name, key, undefined),
  };
  return {
    ...writer,
    write: (work) => {
      undo = [];
      try {
        return work(writer);
      } catch (error) {
        for (const step of undo.toReversed()) step();
        throw error;
      }
    },
    synced: () => Promise.resolve(),
    syncedSoon: () => Promise.resolve(),
    syncNow: () => undefined,
    ready: () => undefined,
    close: () => Promise.resolve(),
  };
}

/** A sorted array of rows: simple, and fast enough for what a test puts in. */
class Sorted {
  readonly #rows: Row[] = [];

  get size(): number {
    return this.#rows.length;
  }

  get(key: Buffer): Buffer | undefined {
    const row = this.#rows[this.#position(key)];
    return row?.key.equals(key) ? row.value : undefined;
  }

  set(key: Buffer, value: Buffer | undefined): void {
    const at = this.#position(key);
    const exists = this.#rows[at]?.key.equals(key) ?? false;
    if (value === undefined) this.#rows.splice(at, exists ? 1 : 0);
    else this.#rows.splice(at, exists ? 1 : 0, { key, value });
  }

  /** The rows as they are now: changes made while iterating are not seen. */
  range(from: Buffer, to: Buffer | undefined, limit: number): Row[] {
    const start = this.#position(from);
    const end = to === undefined ? this.#rows.length : this.#position(to);
    return this.#rows.slice(start, Math.min(Math.max(start, end), start + limit));
  }

  /** The index of the first row whose key is not below `key`. */
  #position(key: Buffer): number {
    let low = 0;
    let high = this.#rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (must(this.#rows[middle], "row").key.compare(key) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
