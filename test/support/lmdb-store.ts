import { open, type Database, type RootDatabase } from "lmdb";
import { must } from "../../common/assert.ts";
import { StatusError } from "../../protocol/status.ts";
import {
  type Row,
  type Store,
  type StoreWriter,
  type Table,
  tableNames,
} from "../../master/store/store.ts";

/**
 * For comparison only (bench-commits.ts): the store without a journal. LMDB keeps the last commit
 * whole whatever happens (copy-on-write pages, two roots). A commit includes its
 * fdatasync; the caller puts many operations into one (group commit).
 */
export function openLmdbStore(path: string): Store {
  const root: RootDatabase<Buffer, Buffer> = open({
    path,
    maxDbs: tableNames.length + 1,
    noMemInit: false,
    // The default of 126 readers is for many processes; here is one.
    maxReaders: 16,
    overlappingSync: false,
    keyEncoding: "binary",
    encoding: "binary",
  });
  const tables = new Map<Table, Database<Buffer, Buffer>>();
  for (const name of tableNames) {
    tables.set(
      name,
      root.openDB<Buffer, Buffer>({ name, keyEncoding: "binary", encoding: "binary" }),
    );
  }
  const table = (name: Table): Database<Buffer, Buffer> => must(tables.get(name), "table");

  const writer: StoreWriter = {
    get: (name, key) => table(name).getBinary(key),
    range: (name, bounds) => rangeOf(table(name), bounds),
    count: (name) => countOf(table(name)),
    put: (name, key, value) => void table(name).putSync(key, value),
    remove: (name, key) => void table(name).removeSync(key),
  };
  return {
    ...writer,
    write: (work) => {
      try {
        return root.transactionSync(() => work(writer));
      } catch (cause) {
        throw storeFailure(cause);
      }
    },
    synced: () => Promise.resolve(),
    syncedSoon: () => Promise.resolve(),
    syncNow: () => undefined,
    ready: () => undefined,
    close: () => root.close(),
  };
}

function* rangeOf(
  database: Database<Buffer, Buffer>,
  bounds: { from: Buffer; to?: Buffer | undefined; limit?: number },
): Iterable<Row> {
  const rows = database.getRange({
    start: bounds.from,
    ...(bounds.to === undefined ? {} : { end: bounds.to }),
    ...(bounds.limit === undefined ? {} : { limit: bounds.limit }),
  });
  for (const { key, value } of rows) yield { key, value };
}

function countOf(database: Database<Buffer, Buffer>): number {
  const stats: unknown = database.getStats();
  return stats && typeof stats === "object" && "entryCount" in stats ? Number(stats.entryCount) : 0;
}

/** What went wrong on the disk, as a status; everything else is passed on as it is. */
function storeFailure(cause: unknown): unknown {
  if (!(cause instanceof Error)) return cause;
  if (/no space|ENOSPC|MDB_MAP_FULL/i.test(cause.message)) {
    return new StatusError("no-space", "the master's disk is full", { cause });
  }
  if (/input\/output error|EIO\b/i.test(cause.message)) {
    return new StatusError("io-error", `the master's disk: ${cause.message}`, { cause });
  }
  return cause;
}
