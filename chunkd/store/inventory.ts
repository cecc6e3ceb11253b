import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import { chunksPerPageMax } from "../../protocol/limits.ts";
import { decodeRecord } from "./record.ts";
import type { Store } from "./store.ts";

export interface HeldChunk {
  handle: ChunkHandle;
  version: ChunkVersion;
  dirty: boolean;
}

/** What the server holds, in pages for the master. Bad records are left out: they hold nothing. */
export function* inventoryPages(
  store: Store,
  wasDirty: ReadonlySet<ChunkHandle>,
): Generator<{ chunks: HeldChunk[]; last: boolean }> {
  for (let after = 0; ;) {
    const found = store.index.scan(after, chunksPerPageMax);
    const chunks: HeldChunk[] = [];
    for (const { handle, record } of found) {
      after = handle;
      const held = store.table.peek(handle) ?? decodeRecord(handle, record);
      if (typeof held === "string") continue;
      chunks.push({ handle, version: held.version, dirty: wasDirty.has(handle) });
    }
    const last = found.length < chunksPerPageMax;
    yield { chunks, last };
    if (last) return;
  }
}
