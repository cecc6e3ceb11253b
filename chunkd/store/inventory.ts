import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import { decodeRecord } from "./record.ts";
import type { Store } from "./store.ts";

export interface HeldChunk {
  handle: ChunkHandle;
  version: ChunkVersion;
  dirty: boolean;
}

/**
 * What the server holds, in pages for the master. Bad records are left out: they hold nothing.
 * Dirty are those in doubt, and those whose last write failed: a client that has died told the
 * master nothing.
 */
export function* inventoryPages(store: Store): Generator<{ chunks: HeldChunk[]; last: boolean }> {
  for (let after = 0; ;) {
    const found = store.index.scan(after, chunksPerPageMax);
    const chunks: HeldChunk[] = [];
    for (const { handle, record } of found) {
      after = handle;
      const held = store.table.peek(handle) ?? decodeRecord(handle, record);
      if (typeof held === "string") continue;
      const { version } = held;
      const differs = store.faults.failedWrite(handle, version) !== undefined;
      chunks.push({ handle, version, dirty: differs || store.faults.isDoubtful(handle) });
    }
    const last = found.length < chunksPerPageMax;
    yield { chunks, last };
    if (last) return;
  }
}

/** The chunks after `after` (0: from the start), up to a page; `last`: there are no more. */
export function holdingsAfter(
  store: Store,
  after: number,
): { handles: ChunkHandle[]; last: boolean } {
  const handles = store.index.scan(after, chunksPerPageMax).map(({ handle }) => handle);
  return { handles, last: handles.length < chunksPerPageMax };
}
