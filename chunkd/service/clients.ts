import { Handlers, WithPayload } from "../../protocol/connection.ts";
import type { Role } from "../../protocol/dial.ts";
import type { BootId } from "../../protocol/id.ts";
import { checksums, readChunk, syncChunks, writeChunk } from "../../protocol/methods/chunk.ts";
import { chunkChecksums } from "../store/checksums.ts";
import * as store from "../store/read.ts";
import type { Store } from "../store/store.ts";
import { syncChunk } from "../store/sync.ts";
import type { Writer } from "../write/write.ts";
import { ReadMemory } from "./read-memory.ts";
import type { Requests } from "./requests.ts";

/** What mounts and other chunk servers may ask for, each on a connection that it dialled. */
export function clientHandlers(options: {
  store: Store;
  writer: Writer;
  requests: Requests;
  boot: BootId;
}): (role: Role) => Handlers {
  const { writer, requests, boot } = options;
  const handlers = new Handlers();
  const memory = new ReadMemory();
  const { faults } = options.store;
  requests.serve(handlers, readChunk, async (params, { connection }) => {
    faults.expectSure(params.handle);
    const release = await memory.acquire(connection, params.length);
    try {
      const { payload, crcs } = await store.readChunk(options.store, params);
      release(params.length - payload.length);
      return new WithPayload({ crcs }, payload, () => release(payload.length));
    } catch (error) {
      release(params.length);
      throw error;
    }
  });
  requests.serve(handlers, writeChunk, async (params, { payload }) => {
    return { boots: await writer.write(params, payload) };
  });
  requests.serve(handlers, syncChunks, async ({ chunks }) => {
    await Promise.all(chunks.map((chunk) => syncChunk(options.store, chunk)));
    return { boot };
  });
  requests.serve(handlers, checksums, async (params) => {
    faults.expectSure(params.handle);
    return chunkChecksums(options.store, params);
  });
  const nothing = new Handlers();
  return (role) => (role === "mount" || role === "chunkd" ? handlers : nothing);
}
