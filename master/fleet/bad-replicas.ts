import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { ChunkHandle, ServerId } from "../../protocol/id.ts";
import type { ChunkSets } from "../chunks/sets.ts";
import type { Fleet } from "./fleet.ts";

/** Chunks remembered: a disk that has more is emptied, or better replaced as a whole. */
const chunksMax = 100_000;
/** Chunks mended at a time: each reads a whole replica on one disk. */
const mendsAtOnce = 4;
/** What could not be mended is tried again after this long: a server may be back then. */
const mendEveryMs = 600_000;

interface Bad {
  readonly servers: Set<ServerId>;
  /** Before, it is no use to try. */
  mendAtMs: number;
}

/**
 * Replicas in which a block, or more, is not what it was. Such a one stays in its set while the
 * blocks are fetched from others: there may be another bad one that nobody has found yet, and then
 * each has what the other lacks. Only one that cannot be mended leaves, if there is a better one.
 */
export class BadReplicas {
  readonly #sets: ChunkSets;
  readonly #fleet: Fleet;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #bad = new Map<ChunkHandle, Bad>();

  constructor(options: { sets: ChunkSets; fleet: Fleet; clock: Clock; log: Log }) {
    this.#sets = options.sets;
    this.#fleet = options.fleet;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  note(handle: ChunkHandle, server: ServerId): void {
    const known = this.#bad.get(handle);
    const mendAtMs = this.#clock.nowMs();
    if (known) {
      known.servers.add(server);
      known.mendAtMs = mendAtMs;
    } else if (this.#bad.size < chunksMax) {
      this.#bad.set(handle, { servers: new Set([server]), mendAtMs });
    }
  }

  /** One round over all that are known. */
  async mend(): Promise<void> {
    const handles = [...this.#bad.keys()].values();
    const worker = async (): Promise<void> => {
      for (const handle of handles) await this.#mendChunk(handle);
    };
    await Promise.all(Array.from({ length: mendsAtOnce }, worker));
  }

  async #mendChunk(handle: ChunkHandle): Promise<void> {
    const bad = this.#bad.get(handle);
    if (!bad || this.#clock.nowMs() < bad.mendAtMs) return;
    bad.mendAtMs = this.#clock.nowMs() + mendEveryMs;
    for (const server of bad.servers) {
      const chunk = this.#sets.find(handle);
      const gone = !chunk?.servers.includes(server);
      if (gone || (await this.#mendOne(handle, server, bad.servers))) bad.servers.delete(server);
    }
    if (bad.servers.size === 0) this.#bad.delete(handle);
  }

  /** True if the replica is good now, or none of the chunk's any more. */
  async #mendOne(
    handle: ChunkHandle,
    server: ServerId,
    bad: ReadonlySet<ServerId>,
  ): Promise<boolean> {
    const others = this.#upToDate(handle).filter((id) => id !== server);
    if (others.length === 0) return false;
    try {
      await this.#sets.mendReplica(handle, server);
      this.#log.event("replica.mended", { handle, server });
      return true;
    } catch (error) {
      this.#log.error("replica.not-mended", { handle, server, error });
    }
    const better = this.#upToDate(handle).filter((id) => !bad.has(id));
    const version = this.#sets.find(handle)?.version;
    if (better.length === 0 || version === undefined) return false;
    try {
      await this.#sets.replicasFailed(handle, version, [server]);
      return true;
    } catch (error) {
      this.#log.error("replica.not-dropped", { handle, server, error });
      return false;
    }
  }

  #upToDate(handle: ChunkHandle): ServerId[] {
    return this.#sets.present(handle).filter((id) => this.#fleet.isUp(id));
  }
}
