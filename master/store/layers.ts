import { must } from "../../common/assert.ts";
import type { BaseStore } from "./base.ts";
import type { Change } from "./batch.ts";
import { keyText, Overlay, type OverlayRow } from "./overlay.ts";
import { type Row, type StoreReader, type StoreWriter, type Table, tableNames } from "./store.ts";

/** A row as it was before the current commit changed it. */
interface Before {
  table: Table;
  text: string;
  row: OverlayRow | undefined;
}

/**
 * The active overlay over the frozen one over the base, as one store in memory. A commit changes
 * the active one at once and keeps what is needed to take that back.
 */
export class Layers implements StoreReader {
  readonly #base: BaseStore;
  readonly #counts: Record<Table, number>;
  #active: Overlay;
  #frozen: Overlay | undefined;
  /** The rows that the current commit has changed, in order of their first change. */
  readonly #changed = new Map<string, Before>();
  /** Keys that the current commit has looked for in vain, and the table of the last try. */
  readonly #absent = new Map<string, Table>();
  readonly writer: StoreWriter = {
    get: (table, key) => this.#look(table, key),
    range: (table, bounds) => this.range(table, bounds),
    count: (table) => this.count(table),
    put: (table, key, value) => this.#change(table, key, value),
    remove: (table, key) => this.#change(table, key, undefined),
  };

  /** `active`: what the base does not have yet. */
  constructor(base: BaseStore, active = new Overlay()) {
    this.#base = base;
    this.#active = active;
    this.#counts = Object.fromEntries(
      tableNames.map((table) => [table, base.count(table)]),
    ) as Record<Table, number>;
  }

  /** Roughly what the active overlay takes of memory. */
  get activeBytes(): number {
    return this.#active.bytes;
  }

  // Reading

  get(table: Table, key: Buffer): Buffer | undefined {
    const text = keyText(key);
    const row = this.#active.get(table, text) ?? this.#frozen?.get(table, text);
    return row ? row.value : this.#base.get(table, key);
  }

  /** As `get`, in a commit: what is not there and is then put needs not be looked for again. */
  #look(table: Table, key: Buffer): Buffer | undefined {
    const text = keyText(key);
    const row = this.#active.get(table, text) ?? this.#frozen?.get(table, text);
    if (row) return row.value;
    const value = this.#base.get(table, key);
    if (value === undefined) this.#absent.set(text, table);
    return value;
  }

  count(table: Table): number {
    return this.#counts[table];
  }

  *range(
    table: Table,
    bounds: { from: Buffer; to?: Buffer | undefined; limit?: number },
  ): Iterable<Row> {
    let left = bounds.limit ?? Infinity;
    if (left <= 0) return;
    for (const row of this.#rows(table, bounds)) {
      yield row;
      left -= 1;
      if (left === 0) return;
    }
  }

  #rows(
    table: Table,
    bounds: { from: Buffer; to?: Buffer | undefined; limit?: number },
  ): Iterable<Row> {
    const from = keyText(bounds.from);
    const to = bounds.to && keyText(bounds.to);
    const over = [this.#active, this.#frozen].filter(
      (overlay) => overlay && !overlay.isEmpty(table, from, to),
    );
    const [upper, lower] = over.map((overlay) => must(overlay, "overlay").range(table, from, to));
    if (!upper) return this.#base.range(table, bounds);
    // How many rows of the base are hidden is not known, so the limit is not passed on.
    const { from: start, to: end } = bounds;
    return merged(
      lower ? over2(upper, lower) : upper,
      this.#base.range(table, { from: start, to: end }),
    );
  }

  // Commits

  #change(table: Table, key: Buffer, value: Buffer | undefined): void {
    const text = keyText(key);
    const old = this.#active.get(table, text);
    const hides = old ? old.hides : this.#existsBelow(table, key, text);
    const existed = old ? old.value !== undefined : hides;
    if (value === undefined && !existed) return;
    const changed = `${table}:${text}`;
    if (!this.#changed.has(changed)) this.#changed.set(changed, { table, text, row: old });
    const row: OverlayRow | undefined =
      value !== undefined || hides
        ? { key: old?.key ?? Buffer.from(key), value: value && Buffer.from(value), hides }
        : undefined;
    this.#active.set(table, text, row);
    this.#counts[table] += Number(value !== undefined) - Number(existed);
  }

  #existsBelow(table: Table, key: Buffer, text: string): boolean {
    const frozen = this.#frozen?.get(table, text);
    if (frozen) return frozen.value !== undefined;
    return this.#absent.get(text) !== table && this.#base.has(table, key);
  }

  /** The rows that the current commit has changed, as they are now. */
  changes(): Change[] {
    const changes: Change[] = [];
    for (const { table, text, row: before } of this.#changed.values()) {
      const row = this.#active.get(table, text);
      // What was made and removed again in one commit has never been.
      if (!row && !before) continue;
      changes.push({ table, key: row?.key ?? Buffer.from(text, "latin1"), value: row?.value });
    }
    return changes;
  }

  keep(): void {
    this.#absent.clear();
    this.#changed.clear();
  }

  undo(): void {
    for (const { table, text, row } of this.#changed.values()) {
      const now = this.#active.get(table, text);
      const hides = row?.hides ?? now?.hides ?? false;
      const before = row ? row.value !== undefined : hides;
      const after = now ? now.value !== undefined : hides;
      this.#counts[table] += Number(before) - Number(after);
      this.#active.set(table, text, row);
    }
    this.keep();
  }

  // Checkpoints

  freeze(): void {
    this.#frozen = this.#active;
    this.#active = new Overlay();
  }

  frozenSlices(rows: number): Iterable<Change[]> {
    return must(this.#frozen, "frozen overlay").slices(rows);
  }

  /** The base has all that the frozen overlay has. */
  thaw(): void {
    this.#frozen = undefined;
  }
}

type OverlayRows = Iterable<[string, OverlayRow]>;

/** Two sorted streams as one; where both have a key, the row of `upper`. */
function* over2(upper: OverlayRows, lower: OverlayRows): OverlayRows {
  const two = lower[Symbol.iterator]();
  let b = two.next();
  for (const [text, row] of upper) {
    while (!b.done && b.value[0] < text) {
      yield b.value;
      b = two.next();
    }
    if (!b.done && b.value[0] === text) b = two.next();
    yield [text, row];
  }
  for (; !b.done; b = two.next()) yield b.value;
}

/** The rows of `base` as `over` has them. */
function* merged(over: OverlayRows, base: Iterable<Row>): Iterable<Row> {
  const below = base[Symbol.iterator]();
  let b = below.next();
  try {
    for (const [, { key, value }] of over) {
      for (; !b.done; b = below.next()) {
        const order = b.value.key.compare(key);
        if (order > 0) break;
        if (order < 0) yield b.value;
      }
      if (value !== undefined) yield { key, value };
    }
    for (; !b.done; b = below.next()) yield b.value;
  } finally {
    below.return?.();
  }
}
