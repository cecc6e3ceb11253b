import { must } from "../../common/assert.ts";
import type { ChunkHandle, ServerId } from "../../protocol/id.ts";

/**
 * Which servers hold which chunk, in memory: servers tell when they register (GFS §2.6.2). Sets of
 * servers repeat, so each distinct set exists once and a chunk costs one number.
 */
export class Locations {
  readonly #setOf = new Map<ChunkHandle, number>();
  readonly #sets: (readonly ServerId[])[] = [[]];
  readonly #numberOf = new Map<string, number>([["", 0]]);
  readonly #countOf = new Map<ServerId, number>();
  /** Called when it has become known that other servers hold the chunk than before. */
  onChange: (handle: ChunkHandle) => void = () => undefined;

  /** The servers that hold an up-to-date replica, whether they are up or not. */
  of(handle: ChunkHandle): readonly ServerId[] {
    return must(this.#sets[this.#setOf.get(handle) ?? 0], "set of servers");
  }

  /** Chunks that `server` holds. */
  countOf(server: ServerId): number {
    return this.#countOf.get(server) ?? 0;
  }

  add(handle: ChunkHandle, server: ServerId): void {
    const servers = this.of(handle);
    if (!servers.includes(server)) this.set(handle, [...servers, server]);
  }

  remove(handle: ChunkHandle, server: ServerId): void {
    const servers = this.of(handle);
    if (servers.includes(server))
      this.set(
        handle,
        servers.filter((s) => s !== server),
      );
  }

  set(handle: ChunkHandle, servers: readonly ServerId[]): void {
    for (const server of this.of(handle)) this.#count(server, -1);
    for (const server of servers) this.#count(server, 1);
    if (servers.length === 0) this.#setOf.delete(handle);
    else this.#setOf.set(handle, this.#intern(servers));
    this.onChange(handle);
  }

  /** Every chunk that `server` holds. Takes tens of milliseconds for a million chunks. */
  heldBy(server: ServerId): Set<ChunkHandle> {
    const held = new Set<ChunkHandle>();
    if (this.countOf(server) === 0) return held;
    const numbers = new Set([...this.#sets.keys()].filter((n) => this.#sets[n]?.includes(server)));
    for (const [handle, number] of this.#setOf) if (numbers.has(number)) held.add(handle);
    return held;
  }

  #count(server: ServerId, change: number): void {
    this.#countOf.set(server, this.countOf(server) + change);
  }

  #intern(servers: readonly ServerId[]): number {
    const sorted = servers.toSorted((a, b) => a - b);
    const key = sorted.join(",");
    let number = this.#numberOf.get(key);
    if (number === undefined) {
      number = this.#sets.push(sorted) - 1;
      this.#numberOf.set(key, number);
    }
    return number;
  }
}
