import type { Master } from "../../master/master.ts";
import { type Chunk, decodeChunk } from "../../master/store/tables.ts";
import { type ChunkHandle, chunkHandle } from "../../protocol/id.ts";

/** All rows of a table. */
export const everything = { from: Buffer.alloc(0), to: undefined };

/** Chunk records by handle. */
export function chunksOf(master: Master): Map<ChunkHandle, Chunk> {
  const chunks = new Map<ChunkHandle, Chunk>();
  for (const { key, value } of master.committer.store.range("chunk", everything)) {
    chunks.set(chunkHandle(Number(key.readBigUInt64BE())), decodeChunk(value));
  }
  return chunks;
}
