import { Semaphore } from "../../common/mutex.ts";
import { Handlers } from "../../protocol/connection.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { RequestOf } from "../../protocol/method.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import type { Remover } from "../background/remover.ts";
import { clonesMax, copiesMax, copyPieceMs } from "../limits.ts";
import { cloneChunk } from "../store/clone.ts";
import { copyChunk } from "../store/copy.ts";
import type { CopySource } from "../store/copy-source.ts";
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
  requests.serve(orders, chunk.fence, async ({ epoch, forwarded }) => {
    await admission.fence(epoch);
    if (forwarded) admission.refusePassedOn(epoch);
    return {};
  });
  requests.serve(orders, chunk.raiseVersion, async (params, { signal }) => {
    return { uneven: await raiseVersion(store, params, signal) };
  });
  requests.serve(orders, chunk.cloneChunk, async (params, { signal }) => {
    await inTurn(clones, () => cloneChunk(store, params, signal));
    return {};
  });
  requests.serve(orders, chunk.copyChunk, async (params, { signal }) => {
    remover.cancel(params.handle);
    const source = remoteSource(options.pool, params);
    return inTurn(copies, () => copyChunk(store, params, source, signal));
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

/** Any of the servers: one that fails is asked last from then on. */
function remoteSource(pool: () => Pool, params: RequestOf<typeof chunk.copyChunk>): CopySource {
  const { handle, version } = params;
  const addresses = params.sources.map(({ address }) => address);
  const fromAny = async <T>(ask: (address: string) => Promise<T>): Promise<T> => {
    let failure: unknown;
    for (const address of [...addresses]) {
      try {
        return await ask(address);
      } catch (error) {
        failure = error;
        addresses.push(...addresses.splice(addresses.indexOf(address), 1));
      }
    }
    throw failure;
  };
  const options = { deadlineMs: copyPieceMs };
  return {
    checksums: () =>
      fromAny(async (address) => {
        const request = { handle, version };
        return (await pool().call(address, chunk.checksums, request, options)).reply;
      }),
    read: (offset, length) =>
      fromAny(async (address) => {
        const request = { handle, version, offset, length };
        const { reply, payload } = await pool().call(address, chunk.readChunk, request, options);
        return { payload, crcs: reply.crcs };
      }),
  };
}
