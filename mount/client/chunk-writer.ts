import { Backoff } from "../../common/backoff.ts";
import { sleep } from "../../common/clock.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import { lastUsed } from "../../common/lru.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import type { ChunkHandle, ChunkVersion, Ino, ServerId } from "../../protocol/id.ts";
import { grant as grantMethod, writeChunk } from "../../protocol/methods/chunk.ts";
import type { Grant } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import { Boots, type Taking } from "./boots.ts";
import { type ChunkOptions, ChunkSyncer } from "./chunk-syncer.ts";

/** A chain of replicas gets this long for one piece. */
const writeMs = 15_000;
/** Chunks of one file synced at a time: one alone leaves all other disks idle. */
const syncsAtOnce = 8;
/** Grants of one file that are remembered; a file is mostly written at one place. */
const grantsPerFileMax = 64;

/**
 * Chunks known to exist. It matters only until their first commit: then the master knows it too.
 */
const existingMax = 100_000;
/** Grants in a row that were called back before they could be used. */
const recalledMax = 8;
/** A chunk that was there, and is on none of its servers this many times in a row, is lost. */
const lostAfter = 5;

interface Held {
  grant: Grant;
  /**
   * A write under it has failed: replicas may differ, and take no more writes under this version.
   * The next grant has to have another, without these servers.
   */
  failed: readonly ServerId[] | undefined;
  /** The chunk exists on its replicas for certain: a write must not create it any more. */
  exists: boolean;
}

/** A write that is on all replicas of a chunk. */
export interface Taken {
  /** The chunk that took it. */
  handle: ChunkHandle;
  /** The master knew of no data in it. */
  fresh: boolean;
  taking: Taking;
}

interface Piece {
  offset: number;
  data: Buffer;
  crcs: number[];
}

/**
 * Writes pieces of chunks, and makes them safe. Asks the master for leave (a grant) per chunk, and
 * again whenever a chunk server finds it out of date; tells the master which replicas failed.
 */
export class ChunkWriter {
  readonly #options: ChunkOptions;
  readonly #syncer: ChunkSyncer;
  readonly #boots: Boots;
  readonly #grants = new Map<Ino, Map<number, Held>>();
  /**
   * Outlives the grants: one that says "fresh" of a chunk that has taken a write must not have it
   * created once more where it is missing, or a lost chunk would come back as zeros.
   */
  readonly #existing = lastUsed<ChunkHandle, true>(existingMax);
  /** The first write of a new chunk goes alone: it creates the chunk. */
  readonly #creating = new KeyedMutex<string>();

  constructor(options: ChunkOptions) {
    this.#options = options;
    this.#boots = new Boots(options);
    this.#syncer = new ChunkSyncer({ ...options, boots: this.#boots });
  }

  /** A grant that came with another answer. */
  learn(ino: Ino, grant: Grant): void {
    this.#keep(this.#ofFile(ino), grant);
  }

  #ofFile(ino: Ino): Map<number, Held> {
    let ofFile = this.#grants.get(ino);
    if (!ofFile) this.#grants.set(ino, (ofFile = new Map<number, Held>()));
    return ofFile;
  }

  #keep(ofFile: Map<number, Held>, grant: Grant): Held {
    if (ofFile.size >= grantsPerFileMax) ofFile.clear();
    const exists = !grant.fresh || this.#existing.has(grant.handle);
    const held = { grant, failed: undefined, exists };
    ofFile.set(grant.index, held);
    return held;
  }

  /**
   * The grants of a file may be out of date: its chunks may be another file's by now, or nobody's.
   * Asking for a grant that is under way is not answered with what comes for it.
   */
  forget(ino: Ino): void {
    this.#grants.delete(ino);
  }

  forgetAll(): void {
    this.#grants.clear();
  }

  /**
   * Writes `data` at `offset` of a file, all within one chunk. Resolves when all replicas have it.
   * Nothing is sent before `admit` has resolved, which is asked for each attempt.
   */
  async write(ino: Ino, offset: number, data: Buffer, admit?: () => Promise<void>): Promise<Taken> {
    const { chunkBytes } = this.#options.master;
    const index = Math.floor(offset / chunkBytes);
    const start = offset % chunkBytes;
    const piece = { offset: start, data, crcs: crcsByBlock(data, start) };
    return this.#persistently({ ino, index, admit }, async (held) => {
      const taking = held.exists
        ? await this.#send(held, piece)
        : await this.#creating.run(`${ino}/${index}`, () => this.#create(held, piece));
      const { handle, fresh } = held.grant;
      return { handle, fresh, taking };
    });
  }

  async #create(held: Held, piece: Piece): Promise<Taking> {
    const taking = await this.#send(held, piece);
    held.exists = true;
    this.#existing.set(held.grant.handle, true);
    return taking;
  }

  async #send(held: Held, piece: Piece): Promise<Taking> {
    const { handle, version, epoch, replicas } = held.grant;
    const [primary, ...chain] = replicas;
    if (!primary) throw new StatusError("unavailable", "the chunk has no replicas");
    const { offset, crcs, data: payload } = piece;
    const create = !held.exists && !this.#existing.has(handle);
    const { reply } = await this.#options.pool.call(
      primary.address,
      writeChunk,
      { handle, version, epoch, offset, crcs, create, forwarded: false, chain },
      { payload, deadlineMs: writeMs },
    );
    return this.#boots.took(replicas, reply.boots);
  }

  /**
   * fsync of chunks of a file on every replica. A hole has nothing to sync. `chunks`: what servers
   * took of each since it was synced last. Resolves with the indices of those of which that may be
   * lost: all servers that had it have been without power.
   */
  async sync(ino: Ino, chunks: ReadonlyMap<number, readonly Taking[]>): Promise<number[]> {
    const lost: number[] = [];
    const each = chunks.entries();
    let failed = false;
    const worker = async (): Promise<void> => {
      for (const [index, takings] of each) {
        if (failed) return;
        if (!(await this.#sync(ino, index, takings))) lost.push(index);
      }
    };
    const workers = Array.from({ length: Math.min(syncsAtOnce, chunks.size) }, () =>
      worker().catch((error: unknown) => {
        failed = true;
        throw error;
      }),
    );
    // Who is told of a failure may go on: nothing is still under way then.
    for (const one of await Promise.allSettled(workers)) {
      if (one.status === "rejected") throw one.reason;
    }
    return lost;
  }

  async #sync(ino: Ino, index: number, takings: readonly Taking[]): Promise<boolean> {
    const ofFile = this.#grants.get(ino);
    const held = ofFile?.get(index);
    const known = held?.exists && !held.failed ? held.grant : undefined;
    const { answers, renewed } = await this.#syncer.sync(ino, index, known);
    if (renewed && ofFile && this.#grants.get(ino) === ofFile) this.#keep(ofFile, renewed);
    return !answers || this.#boots.haveKept(takings, answers);
  }

  /** Background: see `Boots.tick`. */
  tick(): Promise<void> {
    return this.#boots.tick();
  }

  /**
   * Runs `work` under a grant for the chunk, and again under a new one while the failure is one
   * that a new one can mend.
   */
  async #persistently<T>(
    chunk: { ino: Ino; index: number; admit: (() => Promise<void>) | undefined },
    work: (held: Held) => Promise<T>,
  ): Promise<T> {
    const { ino, index, admit } = chunk;
    const { clock, random, log, timeoutMs, stop } = this.#options;
    const startedMs = clock.nowMs();
    const backoff = new Backoff({ firstMs: 5, mostMs: 1_000, random });
    const faults = new Faults();
    for (;;) {
      const held = await this.#held(ino, index);
      if (admit) await admit();
      try {
        return await work(held);
      } catch (error) {
        const { handle } = held.grant;
        const fault = faults.judge(error, held);
        if (fault.kind !== "stale") held.failed = [...(held.failed ?? []), ...fault.servers];
        else if (this.#grants.get(ino)?.get(index) === held) this.#grants.get(ino)?.delete(index);
        const soft = timeoutMs !== undefined && clock.nowMs() - startedMs > timeoutMs;
        if (fault.kind === "final" || soft || stop.aborted) throw error;
        log.warn("write.again", { ino, index, handle, status: statusOf(error) });
        await sleep(clock, backoff.next(), stop);
      }
    }
  }

  async #held(ino: Ino, index: number): Promise<Held> {
    const known = this.#grants.get(ino)?.get(index);
    if (known && !known.failed) return known;
    return this.#creating.run(`${ino}/${index}/grant`, () => this.#ask(ino, index));
  }

  async #ask(ino: Ino, index: number): Promise<Held> {
    for (let recalled = 0; ; recalled += 1) {
      const ofFile = this.#ofFile(ino);
      const learned = ofFile.get(index);
      if (learned && !learned.failed) return learned;
      const failed = learned?.failed && { failed: failureOf(learned.grant, learned.failed) };
      const { grant } = await this.#options.master.mutate(grantMethod, { ino, index, ...failed });
      // Forgotten meanwhile: the answer may be from before what made it out of date.
      const current = this.#grants.get(ino) === ofFile;
      if (current) return this.#keep(ofFile, grant);
      if (recalled === recalledMax) return this.#keep(new Map(), grant);
    }
  }
}

/**
 *   final     the application gets the error; the next write asks for another version
 *   stale     the grant is out of date
 *   failed    these servers failed; none named: the version has to be raised, as the fate of the
 *             write is unknown or its failure is remembered
 */
type Fault = { kind: "stale" } | { kind: "final" | "failed"; servers: readonly ServerId[] };

/** What the failures of one write, one after the other, mean. */
class Faults {
  #disconnects = 0;
  #full = 0;
  #missing = 0;
  /** The version that the primary did not have. */
  #refused: ChunkVersion | undefined;

  judge(error: unknown, { grant, exists }: Pick<Held, "grant" | "exists">): Fault {
    const primary = grant.replicas.slice(0, 1).map(({ server }) => server);
    const status = statusOf(error);
    if (status !== "no-chunk") this.#missing = 0;
    switch (status) {
      case "no-chunk":
        this.#missing += 1;
        if (exists && grant.fresh && this.#missing >= lostAfter) return final;
        return { kind: "stale" };
      case "stale-version": {
        // Granted again, it is not the grant that is out of date but the primary's replica.
        const again = this.#refused === grant.version;
        this.#refused = grant.version;
        return again ? raise : { kind: "stale" };
      }
      case "stale-epoch":
      case "lease-expired":
      case "overloaded":
        return { kind: "stale" };
      case "replica-failed":
        return { kind: "failed", servers: named(error, grant) };
      case "corrupt":
      case "io-error":
        // A primary with a bad disk is as good as one that is not there, if there are others.
        return grant.replicas.length > 1 ? { kind: "failed", servers: primary } : final;
      case "no-space":
        // The answer may be an old one, remembered for this version; and under another version,
        // another server is the primary.
        this.#full += 1;
        return this.#full > 1 ? final : raise;
      case "disconnected":
        // A connection that broke may be made again at once: the server itself need not be down.
        this.#disconnects += 1;
        return this.#disconnects > 1 ? { kind: "failed", servers: primary } : raise;
      case "unavailable":
      case "deadline":
      case "wrong-cluster":
        return { kind: "failed", servers: primary };
      default:
        return final;
    }
  }
}

const final: Fault = { kind: "final", servers: [] };
const raise: Fault = { kind: "failed", servers: [] };

/**
 * What the master is told of a failed write. A set without servers cannot be: if all have failed,
 * they are to go on under another version once one of them is back.
 */
function failureOf(grant: Grant, failed: readonly ServerId[]) {
  const { handle, version, replicas } = grant;
  const servers = [...new Set(failed)];
  return { handle, version, servers: servers.length < replicas.length ? servers : [] };
}

/** The servers that the primary names, if they are of this chunk. */
function named(error: unknown, grant: Grant): ServerId[] {
  const servers = error instanceof StatusError ? error.servers : [];
  return grant.replicas.map(({ server }) => server).filter((id) => servers.includes(id));
}
