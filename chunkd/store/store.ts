import type { Clock } from "../../common/clock.ts";
import type { Disk } from "../../common/disk.ts";
import type { Log } from "../../common/log.ts";
import { Semaphore } from "../../common/mutex.ts";
import { syncsAtOnce } from "../limits.ts";
import type { ChunkIndex, OpenIndex, Written } from "./chunk-index.ts";
import { Drafts } from "./drafts.ts";
import { Faults } from "./faults.ts";
import { ChunkFiles } from "./files.ts";
import { LmdbIndex } from "./lmdb-index.ts";
import { encodeRecord } from "./record.ts";
import { Space } from "./space.ts";
import { type Chunk, ChunkTable, type LiveRecord } from "./table.ts";

/** What the operations on chunks work with, one file each beside this one. */
export interface Store {
  readonly disk: Disk;
  readonly clock: Clock;
  readonly log: Log;
  readonly index: ChunkIndex;
  readonly files: ChunkFiles;
  readonly drafts: Drafts;
  readonly table: ChunkTable;
  readonly faults: Faults;
  readonly space: Space;
  readonly syncs: Semaphore;
}

/** Opens the store of a data directory that is locked and laid out. `recover` comes next. */
export function openStore(options: {
  root: string;
  disk: Disk;
  clock: Clock;
  log: Log;
  reserveBytes: number | undefined;
  openIndex?: OpenIndex | undefined;
}): Store {
  const { root, disk, clock, log } = options;
  const openIndex = options.openIndex ?? ((path) => new LmdbIndex(path));
  const index = openIndex(`${root}/index`);
  const files = new ChunkFiles({ disk, root });
  return {
    disk,
    clock,
    log,
    index,
    files,
    drafts: new Drafts({ disk, files }),
    table: new ChunkTable({ index, clock }),
    faults: new Faults({ index, log }),
    space: new Space({ disk, path: root, reserveBytes: options.reserveBytes }),
    syncs: new Semaphore(syncsAtOnce),
  };
}

/** Puts a record into the index as it is in memory. A small chunk's bytes are there already. */
export function persist(store: Store, chunk: Chunk, record: LiveRecord): Written {
  const small = record.bytes === undefined ? "none" : "as is";
  return store.index.put(chunk.handle, encodeRecord(chunk.handle, record), small);
}
