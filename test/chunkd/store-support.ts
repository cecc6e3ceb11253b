import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { crcsByBlock } from "../../common/crc32c.ts";
import { applyWrite } from "../../chunkd/store/apply.ts";
import type { CopySource } from "../../chunkd/store/copy-source.ts";
import { readChunk } from "../../chunkd/store/read.ts";
import type { Store } from "../../chunkd/store/store.ts";
import { type ChunkHandle, chunkVersion } from "../../protocol/id.ts";
import { v } from "./support.ts";

export const kib = 1024;

/** A write without gate and chain: what one server does on its own disk. */
export async function put(
  store: Store,
  handle: ChunkHandle,
  bytes: Buffer,
  offset = 0,
): Promise<void> {
  await store.table.with(handle, (chunk) =>
    chunk.applying.run("exclusive", async () => {
      if (!chunk.record) {
        const record = { version: v(1), length: 0, crcs: [], dirty: false, small: true };
        const fresh = { bytes: Buffer.alloc(0), fresh: true, origin: undefined };
        store.table.replace(chunk, { ...record, ...fresh });
      }
      await applyWrite(store, chunk, { offset, bytes, crcs: crcsByBlock(bytes, offset) });
    }),
  );
}

export async function get(
  store: Store,
  handle: ChunkHandle,
  { version = 1, offset = 0, length = 1024 * kib } = {},
): Promise<Buffer> {
  const request = { handle, version: chunkVersion(version), offset, length };
  return (await readChunk(store, request)).payload;
}

export function flipByte(path: string, at: number): void {
  const fd = openSync(path, "r+");
  const byte = Buffer.alloc(1);
  readSync(fd, byte, 0, 1, at);
  writeSync(fd, Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, at);
  closeSync(fd);
}

export function sourceOf(bytes: Buffer): CopySource {
  return {
    checksums: async () => ({ length: bytes.length, crcs: crcsByBlock(bytes, 0) }),
    read: async (offset, length) => {
      const payload = bytes.subarray(offset, offset + length);
      return { payload, crcs: crcsByBlock(payload, offset) };
    },
  };
}
