import type { ServerId } from "../../../protocol/id.ts";

/**
 * Copies under way at one server, as source or as target, unless told otherwise. With two, one
 * reads or writes while the other waits for the network; more would take the disk from clients.
 */
export const copiesPerServerDefault = 2;
/** In all: what the master keeps track of, and what a network's core carries besides clients. */
const copiesMax = 64;

/** A copy from one server to another. */
export interface Transfer {
  source: ServerId;
  target: ServerId;
}

/** Which servers are busy with copies, so that nobody is busier than the caps allow. */
export class Slots {
  readonly #perServer: number;
  readonly #inUse = new Map<ServerId, number>();
  #transfers = 0;

  constructor(perServer: number) {
    this.#perServer = perServer;
  }

  get transfers(): number {
    return this.#transfers;
  }

  inUse(server: ServerId): number {
    return this.#inUse.get(server) ?? 0;
  }

  /** With `up` servers: each copy takes two of them, so no more than this can run. */
  mostWith(up: number): number {
    return Math.min(copiesMax, Math.max(1, Math.floor((up * this.#perServer) / 2)));
  }

  hasRoom(server: ServerId): boolean {
    return this.inUse(server) < this.#perServer;
  }

  take({ source, target }: Transfer): void {
    this.#transfers += 1;
    for (const id of [source, target]) this.#inUse.set(id, this.inUse(id) + 1);
  }

  free({ source, target }: Transfer): void {
    this.#transfers -= 1;
    for (const id of [source, target]) {
      const left = this.inUse(id) - 1;
      if (left > 0) this.#inUse.set(id, left);
      else this.#inUse.delete(id);
    }
  }
}
