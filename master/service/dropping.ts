import type { Ino } from "../../protocol/id.ts";
import type { Touched } from "../namespace/committer.ts";
import type { Told } from "./leases.ts";

/**
 * What one mount has been told to drop, and has not answered yet. It is told of an inode once,
 * until it asks again; a change that follows closely must not be answered before the first one's
 * drop is done either.
 */
export class Dropping {
  readonly #inos = new Map<Ino, Promise<void>>();
  #everything: Promise<void> | undefined;

  addEverything(dropped: Promise<void>): void {
    this.#everything = dropped;
    const forget = (): void => {
      if (this.#everything === dropped) this.#everything = undefined;
    };
    dropped.then(forget, forget);
  }

  add(told: Told, dropped: Promise<void>): void {
    for (const ino of told.inos) {
      this.#inos.set(ino, dropped);
      const forget = (): void => {
        if (this.#inos.get(ino) === dropped) this.#inos.delete(ino);
      };
      dropped.then(forget, forget);
    }
  }

  /** Resolve when nothing is believed any more of what `touched` changes and was told before. */
  of(touched: Touched): Set<Promise<void>> {
    const waiting = new Set<Promise<void>>(this.#everything ? [this.#everything] : []);
    if (this.#inos.size === 0) return waiting;
    for (const ino of touched.inos) {
      const dropped = this.#inos.get(ino);
      if (dropped) waiting.add(dropped);
    }
    return waiting;
  }
}
