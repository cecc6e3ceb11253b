import type { ChunkHandle, ServerId } from "../../protocol/id.ts";

/** Chunks remembered: beyond them, replicas are found when their servers register again. */
const chunksMax = 1_000_000;

/**
 * Out-of-date replicas on servers that are up. Such a server is the best place for a copy, as most
 * blocks are there already; when the chunk has its replicas elsewhere, they are deleted.
 */
export class StaleReplicas {
  readonly #servers = new Map<ChunkHandle, Set<ServerId>>();

  /** Returns false if there is no room: then it is better deleted. */
  add(handle: ChunkHandle, server: ServerId): boolean {
    const known = this.#servers.get(handle);
    if (known) known.add(server);
    else if (this.#servers.size < chunksMax) this.#servers.set(handle, new Set([server]));
    else return false;
    return true;
  }

  of(handle: ChunkHandle): readonly ServerId[] {
    return [...(this.#servers.get(handle) ?? [])];
  }

  handles(): IterableIterator<ChunkHandle> {
    return this.#servers.keys();
  }

  remove(handle: ChunkHandle, server: ServerId): void {
    const servers = this.#servers.get(handle);
    servers?.delete(server);
    if (servers?.size === 0) this.#servers.delete(handle);
  }
}
