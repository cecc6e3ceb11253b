import type { ChunkHandle, ChunkVersion } from "../../protocol/id.ts";
import type { Store } from "./store.ts";
import { expectVersion } from "./table.ts";

/** A chunk's length and block CRCs, between two writes. Throws `no-chunk`, `stale-version`. */
export function chunkChecksums(
  store: Store,
  { handle, version }: { handle: ChunkHandle; version: ChunkVersion },
): Promise<{ length: number; crcs: number[] }> {
  return store.table.with(handle, (chunk) =>
    chunk.applying.run("exclusive", async () => {
      const { length, crcs } = expectVersion(chunk, version);
      return { length, crcs: [...crcs] };
    }),
  );
}
