import { open, type Database, type RootDatabase } from "lmdb";
import { must } from "../../common/assert.ts";
import {
  commitFailure,
  handleLostRejections,
  LmdbRoom,
  makeLockFile,
} from "../../common/os/lmdb-file.ts";
import type { BaseStore } from "./base.ts";
import type { Change } from "./batch.ts";
import { type Row, type Table, tableNames } from "./store.ts";

/** Not one of the master's tables: what the journal needs to know of this file. */
const journalTable = "journal";
const markKey = Buffer.from("mark");
/** The hidden table of tables counts, and so do `journalTable` and a spare. */
const databasesMax = tableNames.length + 3;

type Binary = Database<Buffer, Buffer>;

/**
 * The base on disk. LMDB keeps the last commit whole whatever happens (copy-on-write pages, two
 * roots). Writes of one turn of the event loop are one commit, made by another thread, which
 * includes its fdatasync. `readOnly` leaves data.mdb as it is; that of the tables may be missing in
 * an older store.
 */
export function openLmdbBase(path: string, { readOnly } = { readOnly: false }): BaseStore {
  const binary = { keyEncoding: "binary", encoding: "binary" } as const;
  if (!readOnly) makeLockFile(path);
  const root: RootDatabase<Buffer, Buffer> = open({
    path,
    maxDbs: databasesMax,
    readOnly,
    noMemInit: false,
    // The default of 126 readers is for many processes; here is one.
    maxReaders: 16,
    overlappingSync: false,
    ...binary,
  });
  handleLostRejections(root);
  const tables = new Map<Table, Binary>();
  for (const name of tableNames) tables.set(name, root.openDB({ name, ...binary }));
  const journal: Binary = root.openDB({ name: journalTable, ...binary });
  const room = readOnly ? undefined : new LmdbRoom(`${path}/data.mdb`, root);
  const table = (name: Table): Binary => must(tables.get(name), "table");

  return {
    get: (name, key) => table(name).getBinary(key),
    has: (name, key) => table(name).doesExist(key),
    range: (name, bounds) => rangeOf(table(name), bounds),
    count: (name) => countOf(table(name)),
    get marked() {
      return journal.getBinary(markKey);
    },
    apply: async (_site, changes) => {
      const taken = room?.take(changes.map(({ value }) => value?.length));
      const work = committed(changes.map((change) => written(table, change)));
      taken?.until(work);
      await work;
    },
    mark: async (_site, bytes) => {
      const taken = room?.take([bytes.length]);
      const work = committed([journal.put(markKey, bytes)]);
      taken?.until(work);
      await work;
    },
    close: () => root.close(),
  };
}

function written(table: (name: Table) => Binary, change: Change): Promise<boolean> {
  const { key, value } = change;
  return value === undefined
    ? table(change.table).remove(key)
    : table(change.table).put(key, value);
}

/** Rejects with the reason why the commit failed. */
async function committed(writes: readonly Promise<boolean>[]): Promise<void> {
  const outcomes = await Promise.allSettled(new Set(writes));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw await commitFailure(failed.reason);
}

function* rangeOf(
  database: Binary,
  bounds: { from: Buffer; to?: Buffer | undefined; limit?: number },
): Iterable<Row> {
  const rows = database.getRange({
    start: bounds.from,
    ...(bounds.to === undefined ? {} : { end: bounds.to }),
    ...(bounds.limit === undefined ? {} : { limit: bounds.limit }),
  });
  for (const { key, value } of rows) yield { key, value };
}

function countOf(database: Binary): number {
  const stats: unknown = database.getStats();
  return stats && typeof stats === "object" && "entryCount" in stats ? Number(stats.entryCount) : 0;
}
