import type { Clock } from "../../common/clock.ts";
import { lastUsed } from "../../common/lru.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { BootId, ServerId } from "../../protocol/id.ts";
import { syncChunks } from "../../protocol/methods/chunk.ts";
import type { Replica } from "../../protocol/shapes.ts";

/**
 * Chunk servers have put on their disks by themselves, long before that, what nobody writes to any
 * more.
 */
const settledMs = 60_000;
/** A server that has not answered for this long is not asked on its own account any more. */
const askForMs = 600_000;
const askMs = 5_000;
/** Servers, and sets of them, that are remembered. */
const serversMax = 10_000;

/** A server in one boot of its machine: until the next it loses nothing. */
interface Taker {
  readonly server: ServerId;
  readonly boot: BootId;
  address: string;
  /** When it last took a write. */
  tookMs: number;
  /** When it last answered. */
  heardMs: number;
}

/** Those that took a write. The same object for the same ones. */
type Takers = readonly Readonly<Taker>[];

/** Writes to a chunk, one or several, that the same servers took. */
export interface Taking {
  readonly takers: Takers;
  /** When the last of them was answered. */
  readonly atMs: number;
}

/** They have had it for so long that one of them has put it on its disk by itself. */
export function isSettled({ takers, atMs }: Taking): boolean {
  return takers.some(({ heardMs }) => heardMs >= atMs + settledMs);
}

/** What the servers of a chunk answered when they had synced it. */
export type Answers = ReadonlyMap<ServerId, BootId>;

/**
 * Which boots of chunk servers took what was written: an answered write lies in their page caches,
 * and the mount has forgotten its bytes. A sync after a loss of power succeeds without them. So, as
 * with the write verifier of NFS (RFC 1813, 3.3.21), whoever syncs compares boots.
 */
export class Boots {
  readonly #pool: Pick<Pool, "call">;
  readonly #clock: Clock;
  /** As heard last. */
  readonly #servers = lastUsed<ServerId, Taker>(serversMax);
  readonly #sets = lastUsed<string, Takers>(serversMax);

  constructor(options: { pool: Pick<Pool, "call">; clock: Clock }) {
    this.#pool = options.pool;
    this.#clock = options.clock;
  }

  /** A write was answered: `replicas` are those that took it, and `boots` theirs. */
  took(replicas: readonly Replica[], boots: readonly BootId[]): Taking {
    const atMs = this.#clock.nowMs();
    const takers = replicas.flatMap((replica, i) => {
      const boot = boots[i];
      return boot === undefined ? [] : [this.heard(replica, boot)];
    });
    for (const taker of takers) taker.tookMs = atMs;
    const key = takers.map(({ server, boot }) => `${server}/${boot}`).join();
    const known = this.#sets.get(key);
    // One that was forgotten meanwhile is another object, which would never be heard of again.
    if (known?.every((taker, i) => taker === takers[i])) return { takers: known, atMs };
    this.#sets.set(key, takers);
    return { takers, atMs };
  }

  /** A server has answered. */
  heard({ server, address }: Pick<Replica, "server" | "address">, boot: BootId): Taker {
    const heardMs = this.#clock.nowMs();
    let taker = this.#servers.get(server);
    if (taker?.boot !== boot) {
      taker = { server, boot, address, heardMs, tookMs: -Infinity };
      this.#servers.set(server, taker);
    }
    Object.assign(taker, { address, heardMs });
    return taker;
  }

  /**
   * True if all `takings` are known to be on the disks of a chunk whose servers have just answered
   * a sync: for each, one of them is in the boot in which it took it; or was in that boot for so
   * long that it had put it on its disk by itself. Where all of them came later, as copies, it is
   * enough that none of those that took it has lost anything.
   */
  async haveKept(takings: readonly Taking[], answers: Answers): Promise<boolean> {
    for (const { takers, atMs } of takings) {
      const isKept = takers.some(({ server, boot }) => answers.get(server) === boot);
      if (isKept || isSettled({ takers, atMs })) continue;
      const isMember = takers.some(({ server }) => answers.has(server));
      if (isMember || takers.length === 0) return false;
      const still = await Promise.all(takers.map((taker) => this.#isStillUp(taker)));
      if (still.includes(false)) return false;
    }
    return true;
  }

  async #isStillUp({ server, boot, address }: Taker): Promise<boolean> {
    await this.#ask({ server, address });
    const known = this.#servers.peek(server);
    return known?.boot === boot && known.heardMs >= this.#clock.nowMs() - askMs;
  }

  async #ask(replica: Pick<Replica, "server" | "address">): Promise<void> {
    try {
      const options = { deadlineMs: askMs };
      const { reply } = await this.#pool.call(replica.address, syncChunks, { chunks: [] }, options);
      this.heard(replica, reply.boot);
    } catch {
      // It is asked again.
    }
  }

  /**
   * Background: once what servers took has settled, each is asked once more. Else a file that was
   * written long ago, and is synced now, would seem lost after its servers' next restarts.
   */
  async tick(): Promise<void> {
    const nowMs = this.#clock.nowMs();
    const due = [...this.#servers.values()].filter(({ tookMs, heardMs }) => {
      const settled = tookMs + settledMs;
      return heardMs < settled && settled <= nowMs && nowMs < tookMs + askForMs;
    });
    await Promise.all(due.map((taker) => this.#ask(taker)));
  }
}
