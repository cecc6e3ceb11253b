import type { Log } from "../../common/log.ts";
import { type ChunkHandle, chunkHandle, type ServerId } from "../../protocol/id.ts";
import type { Chunks } from "../chunks/chunks.ts";
import type { Fleet } from "../fleet/fleet.ts";
import { numberFromKey, numberKey } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import { decodeChunk } from "../store/tables.ts";

/** Chunks looked at before other work gets its turn. */
const sliceRows = 2_000;
/** Chunks known to need a copy: the next scan finds the rest. */
const needyMax = 1_000;
/** Copies under way at a time: more would take the disks and the network from those who wait. */
const copiesMax = 2;

export interface ChunkCounts {
  total: number;
  belowGoal: number;
  lost: number;
}

/** Replication as it is, and as it should be: counts what is missing and copies it (GFS §4.3). */
export class Repair {
  readonly #store: Store;
  readonly #chunks: Chunks;
  readonly #fleet: Fleet;
  readonly #log: Log;
  /** Set when something has changed that may need repair. */
  needed = true;

  constructor(options: { store: Store; chunks: Chunks; fleet: Fleet; log: Log }) {
    this.#store = options.store;
    this.#chunks = options.chunks;
    this.#fleet = options.fleet;
    this.#log = options.log;
  }

  /** Replicas of a chunk on servers that are not down for good. */
  #live(handle: ChunkHandle): ServerId[] {
    return this.#chunks.sets.present(handle).filter((id) => {
      const server = this.#fleet.get(id);
      return server !== undefined && this.#fleet.stateOf(server) !== "dead";
    });
  }

  /** Calls `visit` for every chunk, with its live replicas, giving way to other work in between. */
  async #scan(
    visit: (handle: ChunkHandle, goal: number, live: readonly ServerId[]) => void,
    signal?: AbortSignal,
  ): Promise<void> {
    let from = numberKey(0);
    for (let more = true; more && !signal?.aborted;) {
      more = false;
      let rows = 0;
      for (const { key, value } of this.#store.range("chunk", { from, limit: sliceRows })) {
        const handle = chunkHandle(numberFromKey(key, 0));
        const chunk = decodeChunk(value);
        rows += 1;
        from = numberKey(handle + 1);
        if (chunk.written) visit(handle, chunk.goal, this.#live(handle));
      }
      more = rows === sliceRows;
      await new Promise<void>((resolve) => {
        setImmediate(resolve);
      });
    }
  }

  /** Replicas on servers that are up count; those of a silent server are missing now. */
  async counts(): Promise<ChunkCounts> {
    const counts = { total: 0, belowGoal: 0, lost: 0 };
    await this.#scan((_handle, goal, live) => {
      const up = live.filter((id) => this.#fleet.isUp(id)).length;
      counts.total += 1;
      if (up < goal) counts.belowGoal += 1;
      if (up === 0) counts.lost += 1;
    });
    return counts;
  }

  /** One round: finds the chunks that need a copy, those with the fewest replicas first. */
  async run(signal: AbortSignal): Promise<void> {
    if (this.#fleet.expectsMore()) return;
    await this.#settle(signal);
    if (!this.needed) return;
    this.needed = false;
    const upCount = this.#fleet.up().length;
    const needy: { handle: ChunkHandle; live: number }[] = [];
    await this.#scan((handle, goal, live) => {
      if (live.length === 0 || live.length >= Math.min(goal, upCount)) return;
      if (needy.length < needyMax) needy.push({ handle, live: live.length });
      else this.needed = true;
    }, signal);
    needy.sort((a, b) => a.live - b.live);
    const workers = Array.from({ length: copiesMax }, () => this.#work(needy, signal));
    await Promise.all(workers);
  }

  async #work(needy: { handle: ChunkHandle }[], signal: AbortSignal): Promise<void> {
    for (let next = needy.shift(); next && !signal.aborted; next = needy.shift()) {
      const { handle } = next;
      try {
        await this.#copy(handle);
      } catch (error) {
        this.needed = true;
        this.#log.warn("repair.failed", { handle, error });
      }
    }
  }

  async #copy(handle: ChunkHandle): Promise<void> {
    const { sets } = this.#chunks;
    const chunk = sets.find(handle);
    const target = chunk && this.#chunks.placeFor(handle, chunk);
    if (target === undefined) return;
    await sets.addReplica(handle, target);
    this.#log.event("repair.copied", { handle, target });
    this.needed = true; // It may want a further one.
  }

  /** Chunks that were being written when a server stopped: their replicas are made equal. */
  async #settle(signal: AbortSignal): Promise<void> {
    const { sets } = this.#chunks;
    for (const handle of sets.unsettled.handles()) {
      if (signal.aborted) return;
      try {
        await sets.locked(handle, () => sets.settleReplicas(handle));
        this.needed = true;
      } catch (error) {
        this.#log.warn("settle.failed", { handle, error });
      }
    }
  }
}
