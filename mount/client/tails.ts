import { type Clock, sleep } from "../../common/clock.ts";
import { lastUsed } from "../../common/lru.ts";
import type { Ino } from "../../protocol/id.ts";
import { takeTail } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import type { MasterClient } from "./master-client.ts";

/**
 * A tail is kept for this long before it is given up to another mount that wants it: appenders on
 * two mounts that take turns for each record would do nothing else.
 */
const holdMs = 5;
/** Grants that have been called back, and may still be on their way to here. */
const revokedMax = 1_000;

/** Leave to make a file longer, and how long it is as far as it has been committed. */
export interface Tail {
  readonly number: number;
  readonly sinceMs: number;
  size: number;
  /** Writes that have chosen their place and are not taken over as a whole yet. */
  placing: number;
}

/**
 * The tails that this mount has. They end with the connection: the master may have been restarted,
 * or have taken this mount for dead.
 */
export class Tails {
  readonly #master: Pick<MasterClient, "read">;
  readonly #clock: Clock;
  readonly #ticket: () => number;
  readonly #onAttr: (attr: Attr, ticket: number) => void;
  readonly #held = new Map<Ino, Tail>();
  readonly #revoked = lastUsed<Ino, number>(revokedMax);
  /** Questions for tails that are under way. */
  readonly #taking = new Map<Ino, number>();
  readonly #waiting = new Set<() => void>();

  /** `onAttr` gets the attributes that come with a tail; `ticket` is called before asking. */
  constructor(options: {
    master: Pick<MasterClient, "read">;
    clock: Clock;
    ticket: () => number;
    onAttr: (attr: Attr, ticket: number) => void;
  }) {
    this.#master = options.master;
    this.#clock = options.clock;
    this.#ticket = options.ticket;
    this.#onAttr = options.onAttr;
  }

  get(ino: Ino): Tail | undefined {
    return this.#held.get(ino);
  }

  /** A tail that came with another answer. */
  learn(ino: Ino, { number, size }: { number: number; size: number }): void {
    if (number <= (this.#revoked.get(ino) ?? 0)) return;
    const held = this.#held.get(ino);
    if (held && held.number >= number) return;
    this.#held.set(ino, { number, size, sinceMs: this.#clock.nowMs(), placing: 0 });
  }

  /** Asks for the tail, which may take as long as its holder takes to send what it has. */
  async take(ino: Ino, signal?: AbortSignal): Promise<Tail> {
    for (;;) {
      const held = this.#held.get(ino);
      if (held) return held;
      const ticket = this.#ticket();
      this.#taking.set(ino, (this.#taking.get(ino) ?? 0) + 1);
      try {
        const { number, attr } = await this.#master.read(takeTail, { ino }, signal);
        this.learn(ino, { number, size: attr.size });
        this.#onAttr(attr, ticket);
      } finally {
        const left = (this.#taking.get(ino) ?? 1) - 1;
        if (left > 0) this.#taking.set(ino, left);
        else this.#taking.delete(ino);
      }
    }
  }

  /** The file's size has been set, or committed, by this mount. */
  sized(ino: Ino, size: number): void {
    const held = this.#held.get(ino);
    if (held) held.size = size;
  }

  /**
   * Runs `work` with a place at the end of the file already chosen: the tail is not given up until
   * it has ended.
   */
  async placing<T>(tail: Tail, work: () => Promise<T>): Promise<T> {
    tail.placing += 1;
    try {
      return await work();
    } finally {
      tail.placing -= 1;
      for (const look of this.#waiting) look();
    }
  }

  /** Another mount wants the tail: resolves when no write of this one makes the file longer. */
  async giveUp(ino: Ino, number: number): Promise<void> {
    // The answer that brings it may have come together with this question, and is not looked at
    // yet: were the tail given up unused, none of three mounts that want it would ever have it.
    const sinceMs = this.#held.get(ino)?.sinceMs ?? this.#clock.nowMs();
    const wanted = this.#held.has(ino) || this.#taking.has(ino);
    const leftMs = sinceMs + holdMs - this.#clock.nowMs();
    if (wanted && leftMs > 0) await sleep(this.#clock, leftMs);
    const held = this.#held.get(ino);
    this.#revoked.set(ino, Math.max(number, this.#revoked.get(ino) ?? 0));
    if (!held || held.number > number) return;
    if (this.#held.get(ino) === held) this.#held.delete(ino);
    await this.#idle(held);
  }

  async #idle(tail: Tail): Promise<void> {
    if (tail.placing === 0) return;
    await new Promise<void>((resolve) => {
      const look = (): void => {
        if (tail.placing > 0) return;
        this.#waiting.delete(look);
        resolve();
      };
      this.#waiting.add(look);
    });
  }

  /** Nobody here has the file open any more, or what is at its end is not known. */
  drop(ino: Ino): void {
    this.#held.delete(ino);
  }

  dropAll(): void {
    this.#held.clear();
    this.#revoked.clear();
  }
}
