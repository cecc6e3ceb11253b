import type { Change } from "./batch.ts";
import { SortedKeys } from "./sorted-keys.ts";
import { type Table, tableNames } from "./store.ts";

/** What a row costs in memory besides its bytes: its objects, its place in a map and a list. */
const rowOverheadBytes = 250;
/** Keys that a range takes at a time. */
const sliceKeys = 64;

/** A row over what lies below; without a value, the row below is removed. */
export interface OverlayRow {
  readonly key: Buffer;
  readonly value: Buffer | undefined;
  /** True when there is a row below it, which it hides. */
  readonly hides: boolean;
}

/** Keys are looked up as text with one character per byte. */
export function keyText(key: Buffer): string {
  return key.toString("latin1");
}

class OverlayTable {
  readonly rows = new Map<string, OverlayRow>();
  readonly keys = new SortedKeys();
}

/** Rows by table, over other rows: what the base does not have yet. */
export class Overlay {
  readonly #tables: Record<Table, OverlayTable>;
  #bytes = 0;

  constructor() {
    this.#tables = Object.fromEntries(
      tableNames.map((name) => [name, new OverlayTable()]),
    ) as Record<Table, OverlayTable>;
  }

  /** Roughly what it takes of memory. */
  get bytes(): number {
    return this.#bytes;
  }

  get(table: Table, text: string): OverlayRow | undefined {
    return this.#tables[table].rows.get(text);
  }

  /** Without a `row`, nothing is hidden or added under this key. */
  set(table: Table, text: string, row: OverlayRow | undefined): void {
    const { rows, keys } = this.#tables[table];
    const old = rows.get(text);
    if (old) this.#bytes -= costOf(old);
    if (row) {
      this.#bytes += costOf(row);
      rows.set(text, row);
      if (!old) keys.add(text);
    } else if (old) {
      rows.delete(text);
      keys.delete(text);
    }
  }

  /** The rows with from ≤ key < to, in order of keys. */
  *range(table: Table, from: string, to: string | undefined): Iterable<[string, OverlayRow]> {
    const { rows, keys } = this.#tables[table];
    for (let start = from; ;) {
      const texts = keys.slice(start, to, sliceKeys);
      for (const text of texts) {
        const row = rows.get(text);
        if (row) yield [text, row];
      }
      const last = texts.at(-1);
      if (last === undefined || texts.length < sliceKeys) return;
      start = `${last}\0`;
    }
  }

  /** True when a range has no rows here. */
  isEmpty(table: Table, from: string, to: string | undefined): boolean {
    const { rows, keys } = this.#tables[table];
    return rows.size === 0 || keys.slice(from, to, 1).length === 0;
  }

  /** Every row, `count` at a time. */
  *slices(count: number): Iterable<Change[]> {
    let slice: Change[] = [];
    for (const table of tableNames) {
      for (const { key, value } of this.#tables[table].rows.values()) {
        slice.push({ table, key, value });
        if (slice.length < count) continue;
        yield slice;
        slice = [];
      }
    }
    if (slice.length > 0) yield slice;
  }
}

function costOf({ key, value }: OverlayRow): number {
  return rowOverheadBytes + 2 * key.length + (value?.length ?? 0);
}
