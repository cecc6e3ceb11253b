import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import { type ChunkHandle, chunkHandle, type ServerId, serverId } from "../../protocol/id.ts";
import type { Txn } from "../namespace/txn.ts";
import { prefixEnd, type StoreReader } from "../store/store.ts";

const prefix = Buffer.from("unsettled:");
const keyOf = (handle: ChunkHandle): Buffer => Buffer.from(`unsettled:${handle}`);

/**
 * Replicas that were being written when their server stopped. After a loss of power such a one may
 * lack bytes that were acknowledged, so it does not count until it has been compared with a replica
 * that went on. Kept on disk: a server tells it once.
 */
export class Unsettled {
  readonly #servers = new Map<ChunkHandle, Set<ServerId>>();

  load(store: StoreReader): void {
    for (const { key, value } of store.range("meta", { from: prefix, to: prefixEnd(prefix) })) {
      const handle = chunkHandle(Number(key.toString().slice(prefix.length)));
      const ids = decodeCbor(value).value as number[];
      this.#servers.set(handle, new Set(ids.map(serverId)));
    }
  }

  of(handle: ChunkHandle): ReadonlySet<ServerId> {
    return this.#servers.get(handle) ?? new Set();
  }

  handles(): IterableIterator<ChunkHandle> {
    return this.#servers.keys();
  }

  add(txn: Txn, handle: ChunkHandle, server: ServerId): void {
    const servers = new Set(this.of(handle)).add(server);
    txn.put("meta", keyOf(handle), encodeCbor([...servers]));
    txn.afterCommit(() => this.#servers.set(handle, new Set(this.of(handle)).add(server)));
  }

  /** These replicas of the chunk are in doubt and no others; none: all are equal, or it is gone. */
  set(txn: Txn, handle: ChunkHandle, servers: readonly ServerId[]): void {
    if (servers.length === 0) return this.clear(txn, handle);
    txn.put("meta", keyOf(handle), encodeCbor([...servers]));
    txn.afterCommit(() => this.#servers.set(handle, new Set(servers)));
  }

  clear(txn: Txn, handle: ChunkHandle): void {
    txn.put("meta", keyOf(handle), undefined);
    txn.afterCommit(() => this.#servers.delete(handle));
  }
}
