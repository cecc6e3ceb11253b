import type { Log } from "../../common/log.ts";
import type { Ino } from "../../protocol/id.ts";
import { sync } from "../../protocol/methods/namespace.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ChunkWriter } from "./chunk-writer.ts";
import type { Unsynced, Writes } from "./dirty-file.ts";
import type { MasterClient } from "./master-client.ts";
import type { WriteErrors } from "./write-errors.ts";

/** Files that syncfs works on at a time. */
const syncsAtATime = 16;
/** Chunks that one line of the log names. */
const lostToldMax = 20;

interface FileSyncOptions {
  master: Pick<MasterClient, "read">;
  writer: Pick<ChunkWriter, "sync">;
  log: Log;
  errors: WriteErrors;
  /** Sends everything of the file and tells the master; resolves with what is to be synced then. */
  settled: (ino: Ino) => Promise<Unsynced>;
  /** There is nothing left in it. */
  onSynced: (ino: Ino, unsynced: Unsynced) => void;
}

/** Has files put on the disks of their servers and of the master. Failures go to `errors`. */
export class FileSync {
  readonly #options: FileSyncOptions;

  constructor(options: FileSyncOptions) {
    this.#options = options;
  }

  /**
   * The commit comes first: until it has, the master tells nobody where a new chunk is. Then both
   * go to the disk, the data and what the master knows (also of a file that has nothing unwritten:
   * that it was made, or truncated).
   */
  async sync(ino: Ino): Promise<void> {
    const unsynced = await this.#options.settled(ino);
    const taken = unsynced.take();
    const done = await Promise.allSettled([this.#syncOwn(ino, taken), this.#syncRest(ino, taken)]);
    if (done[0].status === "fulfilled") unsynced.synced(taken);
    for (const one of done) {
      if (one.status === "fulfilled") continue;
      this.#options.log.error("sync.failed", { ino, error: one.reason });
      this.#options.errors.add(ino, one.reason);
    }
    if (unsynced.size === 0) this.#options.onSynced(ino, unsynced);
  }

  /** Of what is lost the application is told once, as of a write that failed. */
  async #syncOwn(ino: Ino, taken: ReadonlyMap<number, Writes>): Promise<void> {
    if (taken.size === 0) return;
    const chunks = new Map([...taken].map(([index, { takings }]) => [index, takings]));
    const lost = await this.#options.writer.sync(ino, chunks);
    if (lost.length === 0) return;
    const message = "every server that had it lost power before it was synced";
    this.#options.log.error("sync.lost", { ino, chunks: lost.slice(0, lostToldMax) });
    this.#options.errors.add(ino, new StatusError("io-error", message));
  }

  /**
   * What the master knows, and what other mounts have written: fsync(2) is for the whole file. Who
   * took that, and whether it is all still there, only those mounts know.
   */
  async #syncRest(ino: Ino, own: ReadonlyMap<number, Writes>): Promise<void> {
    const { master, writer } = this.#options;
    const { unsynced } = await master.read(sync, { ino });
    const others = unsynced.filter((index) => !own.has(index));
    if (others.length > 0) await writer.sync(ino, new Map(others.map((index) => [index, []])));
  }

  /** Several files, some at a time. */
  async syncAll(inos: Iterable<Ino>): Promise<void> {
    const each = [...inos].values();
    const worker = async (): Promise<void> => {
      for (const ino of each) await this.sync(ino);
    };
    await Promise.all(Array.from({ length: syncsAtATime }, worker));
  }
}
