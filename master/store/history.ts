import type { Epoch } from "../../protocol/id.ts";
import { numberFromKey, numberKey, sinceOf } from "./bytes.ts";
import { keyAfter, prefixEnd, type Row, type StoreReader } from "./store.ts";

/**
 * Versioned tables: a record is visible in epoch e if since ≤ e < until. The current record has no
 * until; earlier ones are in `history`, whose key ends with it:
 *
 *   [table: 1 byte][key, its first 8 bytes an ino][0: 1 byte][until: 8 bytes]
 *
 * Names have no NUL, so the 0 keeps the order of names; keys of numbers have one length per table.
 */

const versionedTables = ["inode", "entry", "link", "chunkmap", "xattr"] as const;
export type VersionedTable = (typeof versionedTables)[number];

/** Forever: they are in keys on disk. */
const tableByte: Record<VersionedTable, number> = {
  inode: 1,
  entry: 2,
  link: 3,
  chunkmap: 4,
  xattr: 5,
};

interface HistoryKey {
  table: VersionedTable;
  key: Buffer;
  until: number;
}

export function historyKey(table: VersionedTable, key: Buffer, until: number): Buffer {
  return Buffer.concat([historyPrefix(table, key), Buffer.from([0]), numberKey(until)]);
}

function historyPrefix(table: VersionedTable, key: Buffer): Buffer {
  return Buffer.concat([Buffer.from([tableByte[table]]), key]);
}

/** Where the rows of a table begin in history. */
export function historyStart(table: VersionedTable): Buffer {
  return historyPrefix(table, Buffer.alloc(0));
}

export function parseHistoryKey(key: Buffer): HistoryKey | undefined {
  const table = versionedTables.find((name) => tableByte[name] === key[0]);
  if (!table || key.length < 18) return undefined;
  return {
    table,
    key: key.subarray(1, key.length - 9),
    until: numberFromKey(key, key.length - 8),
  };
}

/** The record of `key` as it was in epoch `at`; without `at`, as it is. */
export function recordAt(
  store: StoreReader,
  table: VersionedTable,
  key: Buffer,
  at: Epoch | undefined,
): Buffer | undefined {
  const current = store.get(table, key);
  if (at === undefined || (current && sinceOf(current) <= at)) return current;
  const from = historyKey(table, key, at + 1);
  const to = keyAfter(historyKey(table, key, Number.MAX_SAFE_INTEGER));
  for (const { value } of store.range("history", { from, to, limit: 1 })) {
    return sinceOf(value) <= at ? value : undefined;
  }
  return undefined;
}

/**
 * The rows of `table` whose key starts with `prefix` and is not below `from`, as they were in epoch
 * `at` (now, without it), in order of keys.
 */
export function* rowsAt(
  store: StoreReader,
  table: VersionedTable,
  options: { prefix: Buffer; from?: Buffer; at: Epoch | undefined },
): Iterable<Row> {
  const { prefix, at } = options;
  const from = options.from ?? prefix;
  const current = store.range(table, { from, to: prefixEnd(prefix) });
  if (at === undefined) return yield* current;
  yield* merged(visible(current, at), formerly(store, table, { prefix, from, at }));
}

function* visible(rows: Iterable<Row>, at: Epoch): Iterable<Row> {
  for (const row of rows) if (sinceOf(row.value) <= at) yield row;
}

/** Rows of history that were visible in epoch `at`: for each key at most one is. */
function* formerly(
  store: StoreReader,
  table: VersionedTable,
  options: { prefix: Buffer; from: Buffer; at: Epoch },
): Iterable<Row> {
  const rows = store.range("history", {
    from: historyPrefix(table, options.from),
    to: prefixEnd(historyPrefix(table, options.prefix)),
  });
  for (const row of rows) {
    const parsed = parseHistoryKey(row.key);
    if (!parsed || parsed.until <= options.at || sinceOf(row.value) > options.at) continue;
    yield { key: parsed.key, value: row.value };
  }
}

/** Two sorted streams without a common key, as one. */
function* merged(one: Iterable<Row>, two: Iterable<Row>): Iterable<Row> {
  const left = one[Symbol.iterator]();
  const right = two[Symbol.iterator]();
  let a = left.next();
  let b = right.next();
  try {
    while (!a.done || !b.done) {
      if (b.done || (!a.done && a.value.key.compare(b.value.key) < 0)) {
        if (!a.done) yield a.value;
        a = left.next();
      } else {
        yield b.value;
        b = right.next();
      }
    }
  } finally {
    left.return?.();
    right.return?.();
  }
}
