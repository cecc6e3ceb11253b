import { LRUCache } from "lru-cache";
import type { Clock } from "../../common/clock.ts";
import type { Ino, SessionId } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";

/** Chunk servers have written by themselves, long before that, what nobody writes to any more. */
const freshMs = 60_000;
/** Files remembered. */
const filesMax = 10_000;

interface Writer {
  chunks: Set<number>;
  atMs: number;
}

/**
 * Which chunks of a file each mount has committed a moment ago. fsync(2) is for all data of a file,
 * whoever wrote it: a mount that syncs has the others' chunks synced too. Kept in memory only: it
 * is needed for as long as chunk servers leave data to the page cache, some seconds.
 */
export class FreshWrites {
  readonly #clock: Clock;
  readonly #files = new LRUCache<Ino, Map<SessionId, Writer>>({ max: filesMax });

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  note(ino: Ino, session: SessionId, chunks: readonly number[]): void {
    if (chunks.length === 0) return;
    const writers = this.#files.get(ino) ?? new Map<SessionId, Writer>();
    this.#files.set(ino, writers);
    const writer = writers.get(session) ?? { chunks: new Set(), atMs: 0 };
    writers.set(session, writer);
    if (this.#isOld(writer)) writer.chunks.clear();
    writer.atMs = this.#clock.nowMs();
    for (const chunk of chunks) if (writer.chunks.size < chunksPerPageMax) writer.chunks.add(chunk);
    for (const [id, other] of writers) if (this.#isOld(other)) writers.delete(id);
  }

  /** Chunks that others than `session` have written. */
  ofOthers(ino: Ino, session: SessionId): number[] {
    const chunks = new Set<number>();
    for (const [id, writer] of this.#files.get(ino) ?? []) {
      if (id === session || this.#isOld(writer)) continue;
      for (const chunk of writer.chunks) chunks.add(chunk);
    }
    return [...chunks].slice(0, chunksPerPageMax);
  }

  #isOld({ atMs }: Writer): boolean {
    return this.#clock.nowMs() - atMs > freshMs;
  }
}
