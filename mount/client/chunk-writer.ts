import { Backoff } from "../../common/backoff.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import type { Log } from "../../common/log.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { Ino, ServerId } from "../../protocol/id.ts";
import { grant as grantMethod, syncChunks, writeChunk } from "../../protocol/methods/chunk.ts";
import type { Grant } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { MasterClient } from "./master-client.ts";

/** A chain of replicas gets this long for one piece. */
const writeMs = 15_000;
/** An fsync on a busy disk. */
const syncMs = 60_000;
/** Grants of one file that are remembered; a file is mostly written at one place. */
const grantsPerFileMax = 64;

interface Held {
  grant: Grant;
  /**
   * A write under it has failed for good: replicas may differ, and take no more writes under this
   * version. The next grant has to have another.
   */
  broken: boolean;
  /** The chunk exists on its replicas for certain: a write must not create it any more. */
  exists: boolean;
}

/**
 * Writes pieces of chunks, and makes them safe. Asks the master for leave (a grant) per chunk, and
 * again whenever a chunk server finds it out of date; tells the master which replicas failed.
 */
export class ChunkWriter {
  readonly #master: MasterClient;
  readonly #pool: Pool;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #log: Log;
  readonly #timeoutMs: number | undefined;
  readonly #grants = new Map<Ino, Map<number, Held>>();
  /** The first write of a new chunk goes alone: it creates the chunk. */
  readonly #creating = new KeyedMutex<string>();

  constructor(options: {
    master: MasterClient;
    pool: Pool;
    clock: Clock;
    random: () => number;
    log: Log;
    timeoutMs: number | undefined;
  }) {
    this.#master = options.master;
    this.#pool = options.pool;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#log = options.log;
    this.#timeoutMs = options.timeoutMs;
  }

  /** A grant that came with another answer. */
  learn(ino: Ino, grant: Grant): void {
    let ofFile = this.#grants.get(ino);
    if (!ofFile) this.#grants.set(ino, (ofFile = new Map<number, Held>()));
    if (ofFile.size >= grantsPerFileMax) ofFile.clear();
    ofFile.set(grant.index, { grant, broken: false, exists: !grant.fresh });
  }

  forget(ino: Ino): void {
    this.#grants.delete(ino);
  }

  /**
   * Writes `data` at `offset` of a file, all within one chunk. Resolves when all replicas have it.
   */
  async write(ino: Ino, offset: number, data: Buffer, signal?: AbortSignal): Promise<void> {
    const { chunkBytes } = this.#master;
    const index = Math.floor(offset / chunkBytes);
    const piece = {
      offset: offset % chunkBytes,
      data,
      crcs: crcsByBlock(data, offset % chunkBytes),
    };
    await this.#persistently(ino, index, signal, async (held) => {
      if (held.exists) return this.#send(held, piece, signal);
      await this.#creating.run(`${ino}/${index}`, async () => {
        await this.#send(held, piece, signal);
        held.exists = true;
      });
    });
  }

  async #send(
    held: Held,
    piece: { offset: number; data: Buffer; crcs: number[] },
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { handle, version, epoch, replicas } = held.grant;
    const [primary, ...chain] = replicas;
    if (!primary) throw new StatusError("unavailable", "the chunk has no replicas");
    await this.#pool.call(
      primary.address,
      writeChunk,
      {
        handle,
        version,
        epoch,
        offset: piece.offset,
        crcs: piece.crcs,
        create: !held.exists,
        forwarded: false,
        chain,
      },
      { payload: piece.data, deadlineMs: writeMs, ...(signal ? { signal } : {}) },
    );
  }

  /** fsync of chunks of a file on every replica. */
  async sync(ino: Ino, indices: readonly number[], signal?: AbortSignal): Promise<void> {
    for (const index of indices) {
      await this.#persistently(ino, index, signal, async ({ grant }) => {
        const { handle, version, replicas } = grant;
        const options = { deadlineMs: syncMs, ...(signal ? { signal } : {}) };
        const failed: ServerId[] = [];
        await Promise.all(
          replicas.map(async (replica) => {
            const request = { chunks: [{ handle, version }] };
            try {
              await this.#pool.call(replica.address, syncChunks, request, options);
            } catch (error) {
              if (!isReplicaFault(error)) throw error;
              failed.push(replica.server);
            }
          }),
        );
        if (failed.length > 0)
          throw new StatusError("replica-failed", "fsync", { servers: failed });
      });
    }
  }

  /**
   * Runs `work` under a grant for the chunk, and again under a new one while the failure is one
   * that a new one can mend.
   */
  async #persistently(
    ino: Ino,
    index: number,
    signal: AbortSignal | undefined,
    work: (held: Held) => Promise<void>,
  ): Promise<void> {
    const startedMs = this.#clock.nowMs();
    const backoff = new Backoff({ firstMs: 5, mostMs: 1_000, random: this.#random });
    let primaryFailures = 0;
    for (;;) {
      const held = await this.#held(ino, index, signal);
      try {
        return await work(held);
      } catch (error) {
        const status = statusOf(error);
        const fault = faultOf(error, held.grant);
        if (fault === "final") {
          held.broken = true;
          throw error;
        }
        if (this.#timedOut(startedMs)) throw error;
        this.#log.warn("write.again", { ino, index, handle: held.grant.handle, status });
        if (fault === "primary") primaryFailures += 1;
        // A connection that broke may be made again at once: the server itself need not be down.
        const again = status === "disconnected" && primaryFailures < 2;
        const report = again ? "none" : fault;
        await this.#renew(ino, index, held, report, error);
        await sleep(this.#clock, backoff.next(), signal);
        if (signal?.aborted) throw new StatusError("interrupted", "the write was interrupted");
      }
    }
  }

  #timedOut(startedMs: number): boolean {
    return this.#timeoutMs !== undefined && this.#clock.nowMs() - startedMs > this.#timeoutMs;
  }

  async #held(ino: Ino, index: number, signal: AbortSignal | undefined): Promise<Held> {
    const known = this.#grants.get(ino)?.get(index);
    if (known && !known.broken) return known;
    return this.#creating.run(`${ino}/${index}/grant`, async () => {
      const learned = this.#grants.get(ino)?.get(index);
      if (learned && !learned.broken) return learned;
      const failed = learned && { failed: { ...nameOf(learned.grant), servers: [] } };
      const { grant } = await this.#master.mutate(grantMethod, { ino, index, ...failed }, signal);
      this.learn(ino, grant);
      return this.#grants.get(ino)?.get(index) ?? { grant, broken: false, exists: !grant.fresh };
    });
  }

  /** Puts another grant in the place of `held`, unless somebody else has done so. */
  async #renew(ino: Ino, index: number, held: Held, fault: Fault, error: unknown): Promise<void> {
    const ofFile = this.#grants.get(ino);
    if (ofFile?.get(index) !== held) return;
    const servers = failedServers(fault, held.grant, error);
    if (servers.length === 0) {
      if (fault !== "none") ofFile.delete(index);
      return;
    }
    ofFile.delete(index);
    const failed = { ...nameOf(held.grant), servers };
    const { grant } = await this.#master.mutate(grantMethod, { ino, index, failed });
    if (!this.#grants.get(ino)?.has(index)) this.learn(ino, grant);
  }
}

/**
 *   final     the application gets the error
 *   stale     the grant is out of date
 *   replicas  the primary names servers that failed
 *   primary   the primary does not answer
 *   none      try again under the same grant
 */
type Fault = "final" | "stale" | "replicas" | "primary" | "none";

function faultOf(error: unknown, grant: Grant): Fault {
  switch (statusOf(error)) {
    case "stale-version":
    case "stale-epoch":
    case "no-chunk":
    case "lease-expired":
    case "overloaded":
      return "stale";
    case "replica-failed":
    case "corrupt":
    case "io-error":
      // A primary with a bad disk is as good as one that is not there, if there are others.
      return statusOf(error) === "replica-failed" ? "replicas" : diskFault(grant);
    case "unavailable":
    case "disconnected":
    case "deadline":
    case "wrong-cluster":
      return "primary";
    default:
      return "final";
  }
}

function nameOf({ handle, version }: Grant): Pick<Grant, "handle" | "version"> {
  return { handle, version };
}

function diskFault(grant: Grant): Fault {
  return grant.replicas.length > 1 ? "primary" : "final";
}

function failedServers(fault: Fault, grant: Grant, error: unknown): ServerId[] {
  const primary = grant.replicas[0];
  if (fault === "primary") return primary ? [primary.server] : [];
  if (fault !== "replicas" || !(error instanceof StatusError)) return [];
  const { servers } = error;
  return grant.replicas.map(({ server }) => server).filter((id) => servers.includes(id));
}

function isReplicaFault(error: unknown): boolean {
  switch (statusOf(error)) {
    case "unavailable":
    case "disconnected":
    case "deadline":
    case "io-error":
    case "no-chunk":
      return true;
    default:
      return false;
  }
}
