import { Semaphore } from "../../common/mutex.ts";
import { Handlers } from "../../protocol/connection.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { RequestOf } from "../../protocol/method.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import type { Remover } from "../background/remover.ts";
import { clonesMax, copiesMax } from "../limits.ts";
import { cloneChunk } from "../store/clone.ts";
import { copyChunk, type CopySource } from "../store/copy.ts";
import { raiseVersion } from "../store/raise.ts";
import type { Store } from "../store/store.ts";
import type { Admission } from "../write/admission.ts";
import { chunkChecksums } from "../store/checksums.ts";
import type { Requests } from "./requests.ts";

/**
 * What the master may order, over the connection on which this server registered. What has to wait
 * its turn is not begun when the master has stopped waiting: it went on without this server.
 */
export function orderHandlers(options: {
  store: Store;
  admission: Admission;
  remover: Remover;
  requests: Requests;
  pool: () => Pool;
}): Handlers {
  const { store, admission, remover, requests } = options;
  const copies = new Semaphore(copiesMax);
  const clones = new Semaphore(clonesMax);
  const orders = new Handlers();
  requests.serve(orders, chunk.fence, async ({ epoch }) => {
    await admission.fence(epoch);
    return {};
  });
  requests.serve(orders, chunk.raiseVersion, async (params, { signal }) => {
    await raiseVersion(store, params, signal);
    return {};
  });
  requests.serve(orders, chunk.cloneChunk, async (params, { signal }) => {
    await inTurn(clones, () => cloneChunk(store, params, signal));
    return {};
  });
  requests.serve(orders, chunk.copyChunk, async (params, { signal }) => {
    remover.cancel(params.handle);
    const source = remoteSource(options.pool, params);
    return { length: await inTurn(copies, () => copyChunk(store, params, source, signal)) };
  });
  requests.serve(orders, chunk.checksums, (params) => chunkChecksums(store, params));
  return orders;
}

async function inTurn<T>(turns: Semaphore, work: () => Promise<T>): Promise<T> {
  await turns.acquire(1);
  try {
    return await work();
  } finally {
    turns.release(1);
  }
}

function remoteSource(pool: () => Pool, params: RequestOf<typeof chunk.copyChunk>): CopySource {
  const { handle, version } = params;
  const { address } = params.source;
  return {
    async checksums() {
      return (await pool().call(address, chunk.checksums, { handle, version })).reply;
    },
    async read(offset, length) {
      const request = { handle, version, offset, length };
      const { reply, payload } = await pool().call(address, chunk.readChunk, request);
      return { payload, crcs: reply.crcs };
    },
  };
}
