import type { ChunkHandle, ServerId } from "../../../protocol/id.ts";
import type { ChunkFacts } from "../../chunks/census.ts";
import type { Chunks } from "../../chunks/chunks.ts";
import { place } from "../../chunks/placement.ts";
import type { Fleet } from "../../fleet/fleet.ts";
import type { FleetView, Need } from "./need.ts";
import type { Slots, Transfer } from "./slots.ts";

/** What is done for a chunk, once it has been decided. */
export type Work = { kind: "copy" | "move"; transfer: Transfer } | { kind: "settle" } | StepNeed;
type StepNeed = Extract<Need, { kind: "drop" | "shrink" | "replace" }>;

/** The steps of repair, on chunk servers and on record. Each rejects with a `StatusError`. */
export class RepairSteps {
  readonly #chunks: Chunks;
  readonly #fleet: Fleet;
  readonly #chunkBytes: number;
  readonly #random: () => number;

  constructor(options: { chunks: Chunks; fleet: Fleet; chunkBytes: number; random: () => number }) {
    this.#chunks = options.chunks;
    this.#fleet = options.fleet;
    this.#chunkBytes = options.chunkBytes;
    this.#random = options.random;
  }

  /** From where to where a replica can be copied now; undefined while those servers are busy. */
  transferFor(
    handle: ChunkHandle,
    facts: ChunkFacts,
    options: { view: FleetView; slots: Slots; target: ServerId | undefined },
  ): Transfer | undefined {
    const { view, slots } = options;
    const sources = facts.present
      .filter((id) => view.get(id)?.up && slots.hasRoom(id))
      .toSorted((a, b) => slots.inUse(a) - slots.inUse(b));
    const target = options.target ?? this.#target(handle, facts, options);
    const [source] = sources;
    if (source === undefined || target === undefined || !slots.hasRoom(target)) return undefined;
    return { source, target };
  }

  /**
   * Where a further replica goes. One that has an old replica is taken before others that are no
   * better placed: only what differs is copied.
   */
  #target(
    handle: ChunkHandle,
    facts: ChunkFacts,
    { view, slots }: { view: FleetView; slots: Slots },
  ): ServerId | undefined {
    const staying = facts.servers.filter((id) => view.get(id)?.leaving === false);
    const present = staying.flatMap((id) => this.#fleet.get(id) ?? []);
    const stale = this.#chunks.sets.stale.of(handle);
    const candidates = this.#fleet.candidates(this.#chunkBytes).filter(({ id }) => {
      const deleting = this.#fleet.isDeleting(id, handle);
      return slots.hasRoom(id) && !facts.servers.includes(id) && !deleting;
    });
    return place(
      candidates.map((one) => ({ ...one, used: stale.includes(one.id) ? -1 : one.used })),
      1,
      { present: present.map((server) => this.#fleet.candidate(server)), random: this.#random },
    )[0];
  }

  async perform(handle: ChunkHandle, work: Work): Promise<void> {
    const { sets } = this.#chunks;
    switch (work.kind) {
      case "copy":
      case "move": {
        const { source, target } = work.transfer;
        const server = this.#fleet.get(target);
        if (server) server.recent += 1;
        return sets.addReplica(handle, target, source);
      }
      case "drop":
        return sets.dropReplica(handle, work.server);
      case "shrink":
        return sets.locked(handle, () => sets.settle(handle));
      case "settle":
        return sets.locked(handle, () => sets.settleReplicas(handle));
      case "replace":
        return sets.locked(handle, () => this.#replace(handle));
    }
  }

  /** A chunk without data gets a set without the servers that are to be emptied. */
  async #replace(handle: ChunkHandle): Promise<void> {
    const { sets } = this.#chunks;
    const chunk = sets.find(handle);
    if (!chunk || chunk.written) return;
    const staying = chunk.servers.filter((id) => {
      const server = this.#fleet.get(id);
      return server && this.#fleet.isUp(id) && !this.#fleet.isLeaving(server);
    });
    const present = staying.flatMap((id) => this.#fleet.get(id) ?? []);
    const candidates = this.#fleet
      .candidates(this.#chunkBytes)
      .filter(({ id }) => !chunk.servers.includes(id));
    const further = place(candidates, Math.max(0, chunk.goal - staying.length), {
      present: present.map((server) => this.#fleet.candidate(server)),
      random: this.#random,
    });
    await sets.raise(handle, [...staying, ...further]);
  }
}
