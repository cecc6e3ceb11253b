import type { Log } from "../../common/log.ts";
import type { ChunkHandle, ChunkVersion, ServerId } from "../../protocol/id.ts";
import type { Method } from "../../protocol/method.ts";
import { checksums, copyChunk } from "../../protocol/methods/chunk.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { Sum } from "./source.ts";

/** A chunk server answers such an order after a copy on its own disk at the latest. */
const orderMs = 20_000;
/** A whole chunk from another server, on a slow disk. What a draft got so far is not lost by it. */
const copyMs = 120_000;

/** Who did what of an order that went to several servers. */
interface Ordered<Reply> {
  done: ServerId[];
  replies: Map<ServerId, Reply>;
  lacking: ServerId[];
  bad: ServerId[];
}

/** What the master has chunk servers do with chunks. */
export class ChunkOrders {
  readonly #fleet: Fleet;
  readonly #log: Log;
  /** Copies under way: to which servers, and how many each. */
  readonly #copying = new Map<string, number>();

  constructor(options: { fleet: Fleet; log: Log }) {
    this.#fleet = options.fleet;
    this.#log = options.log;
  }

  /**
   * Sends the same order to several servers at once. `done` carried it out; `lacking` answered that
   * they do not have the chunk, `bad` that theirs is of no use as a whole; others did not answer
   * or refused. `replies`: of those that did.
   */
  async toAll<Request, Reply>(
    servers: readonly ServerId[],
    method: Method<Request, Reply>,
    params: Request,
  ): Promise<Ordered<Reply>> {
    const replies = new Map<ServerId, Reply>();
    const lacking: ServerId[] = [];
    const bad: ServerId[] = [];
    await Promise.all(
      servers.map(async (id) => {
        const connection = this.#fleet.get(id)?.connection;
        if (!connection) return;
        try {
          replies.set(id, await connection.call(method, params, { deadlineMs: orderMs }));
        } catch (error) {
          const status = statusOf(error);
          if (status === "no-chunk") lacking.push(id);
          if (status === "corrupt") bad.push(id);
          const why = error instanceof Error ? error.message : String(error);
          this.#log.warn("chunk.order-failed", { order: method.name, server: id, status, why });
        }
      }),
    );
    return { done: [...replies.keys()], replies, lacking, bad };
  }

  /** Lengths and CRCs of replicas, of those that answer. */
  async sums(
    handle: ChunkHandle,
    version: ChunkVersion,
    servers: readonly ServerId[],
  ): Promise<Map<ServerId, Sum>> {
    const sums = new Map<ServerId, Sum>();
    await Promise.all(
      servers.map(async (id) => {
        const connection = this.#fleet.get(id)?.connection;
        try {
          const sum = await connection?.call(checksums, { handle, version });
          if (sum) sums.set(id, { length: sum.length, text: `${sum.length}:${sum.crcs.join()}` });
        } catch (error) {
          this.#log.warn("chunk.no-checksums", { handle, server: id, error });
        }
      }),
    );
    return sums;
  }

  /** True while a copy of the chunk is on its way to that server, where nobody may delete it. */
  isCopying(handle: ChunkHandle, target: ServerId): boolean {
    return this.#copying.has(`${handle}>${target}`);
  }

  /**
   * Has `target` fetch the chunk from the first of `holders` that can give each block. `draft`:
   * aside, as long as writers go on. Rejects with what went wrong; then nobody knows what is there.
   */
  async copy(
    { handle, version, draft }: { handle: ChunkHandle; version: ChunkVersion; draft: boolean },
    target: ServerId,
    holders: readonly ServerId[],
  ): Promise<void> {
    const server = this.#fleet.get(target);
    if (!server?.connection) throw new StatusError("unavailable", `server ${target} has gone`);
    const key = `${handle}>${target}`;
    this.#copying.set(key, (this.#copying.get(key) ?? 0) + 1);
    // What it was to delete it will need now. It was told so before this order, or never will be.
    server.removals.end(handle);
    try {
      const sources = holders.flatMap((id) => this.#fleet.replica(id) ?? []);
      const order = { handle, version, sources, draft };
      const reply = await server.connection.call(copyChunk, order, { deadlineMs: copyMs });
      const { fetchedBytes } = reply;
      this.#log.event("chunk.copied", { handle, version, target, draft, fetchedBytes });
    } finally {
      const left = (this.#copying.get(key) ?? 0) - 1;
      if (left > 0) this.#copying.set(key, left);
      else this.#copying.delete(key);
    }
  }
}
