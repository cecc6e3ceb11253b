import { Backoff } from "../../common/backoff.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { BootId, Ino, ServerId } from "../../protocol/id.ts";
import { grant as grantMethod, locate, syncChunks } from "../../protocol/methods/chunk.ts";
import type { Grant, Location } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { Answers, Boots } from "./boots.ts";
import type { MasterClient } from "./master-client.ts";

/** An fsync on a busy disk. */
const syncMs = 60_000;
/** Rounds in which every replica said that it has no such chunk, before that is believed. */
const missingRoundsMax = 5;

type Target = Pick<Location, "handle" | "version" | "replicas">;

/** What reading, writing and syncing chunks take. */
export interface ChunkOptions {
  master: Pick<MasterClient, "read" | "mutate" | "chunkBytes">;
  pool: Pick<Pool, "call">;
  clock: Clock;
  random: () => number;
  log: Log;
  /** Soft mounts give up after this long. */
  timeoutMs: number | undefined;
  /** Aborts when the mount ends: nothing is tried again after that. */
  stop: AbortSignal;
}

/** A chunk that has been synced. */
interface Synced {
  /** What its servers answered; undefined if there is no such chunk. */
  answers: Answers | undefined;
  /** The grant that came with telling the master of replicas that failed, if there were any. */
  renewed: Grant | undefined;
}

/** How the replicas of a chunk answered. */
class Outcome {
  readonly answers = new Map<ServerId, BootId>();
  readonly failed: ServerId[] = [];
  /** Those of `failed` that could not be asked: they may be back in a moment. */
  away = 0;
  readonly missing: ServerId[] = [];
  /** What was known of the chunk is out of date. */
  stale = false;
  error: unknown;

  add(server: ServerId, error: unknown): void {
    this.error = error;
    switch (statusOf(error)) {
      case "stale-version":
      case "stale-epoch":
        this.stale = true;
        break;
      case "no-chunk":
        this.missing.push(server);
        break;
      case "unavailable":
      case "disconnected":
      case "deadline":
      case "overloaded":
        this.away += 1;
        this.failed.push(server);
        break;
      default:
        this.failed.push(server);
    }
  }
}

/**
 * fsync of a chunk: every replica has what was written on its disk. Asks where the chunk is, and
 * never for leave to write it: where the file has been cut meanwhile, that would make a new one.
 */
export class ChunkSyncer {
  readonly #options: ChunkOptions & { boots: Boots };

  constructor(options: ChunkOptions & { boots: Boots }) {
    this.#options = options;
  }

  /** `known`: where the chunk is, as far as that is known. */
  async sync(ino: Ino, index: number, known: Target | undefined): Promise<Synced> {
    const { clock, random, log, timeoutMs, stop } = this.#options;
    const startedMs = clock.nowMs();
    const backoff = new Backoff({ firstMs: 5, mostMs: 1_000, random });
    let renewed: Grant | undefined;
    for (let round = 1, target = known; ; round += 1, target = renewed) {
      target ??= await this.#locate(ino, index);
      if (!target) return { answers: undefined, renewed };
      const { handle, version, replicas } = target;
      const outcome = await this.#syncReplicas(target);
      if (outcome.error === undefined) return { answers: outcome.answers, renewed };
      log.warn("sync.again", { ino, index, handle, failed: outcome.failed, round });
      const soft = timeoutMs !== undefined && clock.nowMs() - startedMs > timeoutMs;
      if (soft || stop.aborted || hopeless(outcome, replicas.length, round)) throw outcome.error;
      await sleep(clock, backoff.next(), stop);
      const servers = toReport(outcome, round);
      const report = servers.length > 0 && servers.length < replicas.length;
      renewed = report ? await this.#without(ino, index, { handle, version, servers }) : undefined;
    }
  }

  async #locate(ino: Ino, index: number): Promise<Target | undefined> {
    const params = { ino, first: index, count: 1 };
    const asked = this.#options.master.read(locate, params).catch(unlessGone);
    return (await asked)?.locations.find((location) => location.index === index);
  }

  async #syncReplicas({ handle, version, replicas }: Target): Promise<Outcome> {
    const outcome = new Outcome();
    if (replicas.length === 0) {
      outcome.error = new StatusError("unavailable", "no server with this chunk is known");
    }
    const request = { chunks: [{ handle, version }] };
    const { pool, boots } = this.#options;
    await Promise.all(
      replicas.map(async (replica) => {
        const { server, address } = replica;
        try {
          const { reply } = await pool.call(address, syncChunks, request, { deadlineMs: syncMs });
          boots.heard(replica, reply.boot);
          outcome.answers.set(server, reply.boot);
        } catch (error) {
          outcome.add(server, error);
        }
      }),
    );
    return outcome;
  }

  async #without(
    ino: Ino,
    index: number,
    failed: Pick<Grant, "handle" | "version"> & { servers: ServerId[] },
  ): Promise<Grant | undefined> {
    const asked = this.#options.master.mutate(grantMethod, { ino, index, failed });
    const grant = (await asked.catch(unlessGone))?.grant;
    return grant?.handle === failed.handle ? grant : undefined;
  }
}

/** A deleted file needs no sync. One that the master has lost had a commit that failed. */
function unlessGone(error: unknown): undefined {
  if (statusOf(error) !== "stale") throw error;
}

/** No replica has it on disk, and none will: not out of date, not away, for long enough. */
function hopeless(outcome: Outcome, replicas: number, round: number): boolean {
  const { failed, away, missing } = outcome;
  if (away > 0 || replicas === 0 || failed.length + missing.length < replicas) return false;
  return missing.length === 0 || round >= missingRoundsMax;
}

/** Replicas to be done without. One that is away, or lacks the chunk, is asked again first. */
function toReport(outcome: Outcome, round: number): ServerId[] {
  const { failed, away, missing, stale } = outcome;
  if (stale || (round === 1 && away > 0)) return [];
  return round >= missingRoundsMax ? [...failed, ...missing] : failed;
}
