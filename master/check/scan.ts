import { AssertionError } from "../../common/assert.ts";
import { decodeCbor } from "../../protocol/codec.ts";
import { numberFromKey } from "../store/bytes.ts";
import type { Row, StoreReader, Table } from "../store/store.ts";
import { SparseNumbers } from "./sparse.ts";

/** Ids above what a number can be exactly are damage, whatever a key says. */
const idMax = Number.MAX_SAFE_INTEGER;

/**
 * What an inode is, as far as the tables after the first need to know. Of a damaged one nothing is
 * known: what belongs to it is not held against it.
 */
export const kind = {
  none: 0,
  directory: 1,
  regular: 2,
  symlink: 3,
  other: 4,
  damaged: 5,
} as const;

/** What all parts of a check share: the tables, what was found in them, and what is wrong. */
export class Scan {
  readonly store: StoreReader;
  readonly #onFault: (text: string) => void;
  /** The epoch now, and by name of the counter the first id that was not given out. */
  epoch = 1;
  readonly limits = new Map<string, number>();
  readonly servers = new Set<number>();
  faults = 0;
  readonly rows = new Map<Table, number>();

  // By ino: 25 bytes of memory for each inode.
  /** `kind`, plus 8 times the type bits of its mode. */
  readonly kinds = new SparseNumbers("u32");
  /** Links that it says it has, and entries that were found. */
  readonly nlinks = new SparseNumbers("u32");
  readonly entries = new SparseNumbers("u32");
  readonly parents = new SparseNumbers("u53");
  /** Directories in a directory. */
  readonly subdirectories = new SparseNumbers("u32");
  /** Those without an entry that the tables orphan and trash name. */
  readonly unlinked = new SparseNumbers("u32");
  /**
   * For inodes with several links: how many entries each parent should have less those it has, by
   * `ino:parent`. A hundred bytes for each pair.
   */
  readonly hardLinks = new Map<string, number>();

  // By handle.
  readonly references = new SparseNumbers("u32");

  constructor(store: StoreReader, onFault: (text: string) => void) {
    this.store = store;
    this.#onFault = onFault;
  }

  fault(text: string): void {
    this.faults += 1;
    this.#onFault(text);
  }

  limit(counter: string): number {
    return this.limits.get(counter) ?? 0;
  }

  /** The rows of a table, counted. A key shorter than `keyBytes` is a fault, and left out. */
  *table(table: Table, keyBytes: number): Iterable<Row> {
    let count = 0;
    for (const row of this.store.range(table, { from: Buffer.alloc(0) })) {
      count += 1;
      const short = row.key.length < keyBytes;
      if (short || (keyBytes >= 8 && numberFromKey(row.key, 0) > idMax)) {
        this.fault(`${table}: the key ${row.key.toString("hex")} is none of this table`);
      } else yield row;
    }
    this.rows.set(table, count);
  }

  /** A record, decoded; undefined, and a fault, if it is damaged. */
  decoded<T>(what: string, decode: () => T): T | undefined {
    try {
      return decode();
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      this.fault(`${what}: the record is damaged`);
      return undefined;
    }
  }

  /** A number in the table meta. */
  metaNumber(key: string): number | undefined {
    const stored = this.store.get("meta", Buffer.from(key));
    if (!stored) return undefined;
    const number = this.decoded(`meta ${key}`, () => decodeCbor(stored).value);
    return typeof number === "number" && Number.isSafeInteger(number) ? number : undefined;
  }

  since(what: string, record: { since: number }): void {
    if (record.since < 1 || record.since > this.epoch) {
      this.fault(`${what}: was written in epoch ${record.since}, it is ${this.epoch} now`);
    }
  }
}

/** The rows of one table, taken inode by inode along with those of another. */
export class Along {
  readonly #rows: Iterator<Row>;
  #next: Row | undefined;

  constructor(rows: Iterable<Row>) {
    this.#rows = rows[Symbol.iterator]();
    this.#advance();
  }

  /** The next row if it belongs to an inode up to `ino`, else undefined. */
  take(ino: number): { ino: number; row: Row } | undefined {
    const row = this.#next;
    if (!row) return undefined;
    const owner = numberFromKey(row.key, 0);
    if (owner > ino) return undefined;
    // The row is LMDB's: its bytes are good until the next one is read.
    const kept = { ino: owner, row: { key: Buffer.from(row.key), value: Buffer.from(row.value) } };
    this.#advance();
    return kept;
  }

  #advance(): void {
    const next = this.#rows.next();
    this.#next = next.done ? undefined : next.value;
  }
}
