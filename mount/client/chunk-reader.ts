import { Backoff } from "../../common/backoff.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import { blockBytes, crcsMatch } from "../../common/crc32c.ts";
import { lastUsed } from "../../common/lru.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import { checksums, locate, readChunk, reportReplica } from "../../protocol/methods/chunk.ts";
import type { Location, Replica } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import { byDistance, type Place } from "./distance.ts";
import { firstAnswer } from "./hedge.ts";
import type { MasterClient } from "./master-client.ts";

/** Chunks located in one question: a quarter GiB of reading ahead at 64 MiB a chunk. */
const locateAhead = 4;
/** Files whose chunk locations are remembered. */
const filesMax = 10_000;
/** One replica gets this long before the next is tried. */
const replicaMs = 10_000;
/** It is waited for alone this long: more than a disk needs that is busy, but not failing. */
const hedgeMs = 1_000;
/** A replica that kept a reader waiting for longer is asked last for this long. */
const slowMs = 10_000;
/** Servers remembered as slow. */
const slowMax = 1_000;
/** One that is reported is not mended at once, and read again until then. */
const reportEveryMs = 10_000;
/** Reports remembered. */
const reportedMax = 10_000;
/** Rounds over all replicas when each of them is bad, before that is taken for final. */
const badRoundsMax = 3;

export interface Source {
  ino: Ino;
  /** A snapshot's epoch, or undefined for the live file. */
  at: Epoch | undefined;
}

export interface Outline {
  length: number;
  crcs: readonly number[];
}

interface Located {
  /** By chunk index; null is a hole. */
  chunks: Map<number, Location | null>;
}

const keyOf = ({ ino, at }: Source): string => (at === undefined ? `${ino}` : `${ino}@${at}`);

/**
 * Reads pieces of chunks: finds them, tries their replicas nearest first, checks every byte (P3).
 */
export class ChunkReader {
  readonly #master: Pick<MasterClient, "read" | "chunkBytes">;
  readonly #pool: Pick<Pool, "call">;
  readonly #clock: Clock;
  readonly #random: () => number;
  readonly #place: Place;
  readonly #timeoutMs: number | undefined;
  readonly #stop: AbortSignal;
  /** By address, until when it counts as slow. */
  readonly #slowUntilMs = lastUsed<string, number>(slowMax);
  /** By chunk and server, when a replica was reported last. */
  readonly #reportedMs = lastUsed<string, number>(reportedMax);
  readonly #located = lastUsed<string, Located>(filesMax);

  constructor(options: {
    master: Pick<MasterClient, "read" | "chunkBytes">;
    pool: Pick<Pool, "call">;
    clock: Clock;
    random: () => number;
    place: Place;
    timeoutMs: number | undefined;
    /** Aborts when the mount ends: nothing is tried again after that. */
    stop: AbortSignal;
  }) {
    this.#master = options.master;
    this.#pool = options.pool;
    this.#clock = options.clock;
    this.#random = options.random;
    this.#place = options.place;
    this.#timeoutMs = options.timeoutMs;
    this.#stop = options.stop;
  }

  /**
   * Before asking for a location that comes with another answer: takes that. After a `forget` it
   * goes nowhere, like every location that was asked for before.
   */
  learner(source: Source): (location: Location) => void {
    const chunks = this.#chunksOf(source);
    return (location) => chunks.set(location.index, location);
  }

  /** What is known of a file's chunks may be out of date, and what is on its way too. */
  forget(ino: Ino): void {
    this.#located.delete(keyOf({ ino, at: undefined }));
  }

  forgetAll(): void {
    this.#located.clear();
  }

  /**
   * `length` bytes at `offset` of a file, all within one chunk. Bytes that the chunk does not have
   * are zeros: the caller knows where the file ends.
   */
  async read(
    source: Source,
    range: { offset: number; length: number },
    signal?: AbortSignal,
  ): Promise<Buffer> {
    try {
      return await this.#readWhole(source, range, signal);
    } catch (error) {
      const bad = statusOf(error) === "corrupt" || statusOf(error) === "io-error";
      if (!bad || this.#stop.aborted) throw error;
      const blocks = byBlock(range);
      if (blocks.length === 1) throw error;
      // No replica has all of it. One block may be good on one server, the next on another.
      const parts: Buffer[] = [];
      for (const block of blocks) parts.push(await this.#readWhole(source, block, signal));
      return Buffer.concat(parts);
    }
  }

  async #readWhole(
    source: Source,
    range: { offset: number; length: number },
    signal?: AbortSignal,
  ): Promise<Buffer> {
    const { chunkBytes } = this.#master;
    const index = Math.floor(range.offset / chunkBytes);
    const offset = range.offset % chunkBytes;
    const attempts = new Attempts(this.#clock, this.#random, this.#timeoutMs);
    for (;;) {
      const location = await this.#locate(source, index, signal);
      if (!location) return Buffer.alloc(range.length);
      const payload = await this.#tryReplicas(location, offset, range.length, attempts, signal);
      if (payload) return padded(payload, range.length);
      this.#chunksOf(source).delete(index);
      if (this.#stop.aborted) throw new StatusError("io-error", "the mount is closing");
      if (location.more) attempts.mayMend();
      await attempts.next(signal);
    }
  }

  /** True if the file has a chunk with data at `offset`, as the master knows it. */
  async hasChunk(source: Source, offset: number, signal?: AbortSignal): Promise<boolean> {
    const index = Math.floor(offset / this.#master.chunkBytes);
    return (await this.#locate(source, index, signal)) !== null;
  }

  /**
   * What the servers of a chunk know of it: its length, beyond which there are zeros, and the CRCs
   * of its blocks. A whole chunk's length and no CRCs if none of them can tell now, which is never
   * wrong.
   */
  async outline(source: Source, index: number, signal?: AbortSignal): Promise<Outline> {
    const location = await this.#locate(source, index, signal);
    if (!location) return { length: 0, crcs: [] };
    const { handle, version, replicas } = location;
    for (const { address } of byDistance(this.#place, replicas, this.#random)) {
      const options = { deadlineMs: replicaMs, ...(signal ? { signal } : {}) };
      try {
        const { reply } = await this.#pool.call(address, checksums, { handle, version }, options);
        return reply;
      } catch (error) {
        if (statusOf(error) === "interrupted") throw error;
      }
    }
    return { length: this.#master.chunkBytes, crcs: [] };
  }

  #chunksOf(source: Source): Map<number, Location | null> {
    const key = keyOf(source);
    let located = this.#located.get(key);
    if (!located) {
      located = { chunks: new Map() };
      this.#located.set(key, located);
    }
    // A file of many chunks: start over rather than grow without end.
    if (located.chunks.size > 4_096) located.chunks.clear();
    return located.chunks;
  }

  async #locate(
    source: Source,
    index: number,
    signal: AbortSignal | undefined,
  ): Promise<Location | null> {
    // A `forget` while the master is asked leaves this map to itself: nothing old is kept.
    const chunks = this.#chunksOf(source);
    const known = chunks.get(index);
    if (known !== undefined) return known;
    const { ino, at } = source;
    const params = { ino, first: index, count: locateAhead, ...(at === undefined ? {} : { at }) };
    const { locations } = await this.#master.read(locate, params, signal);
    // A hole of a live file may be filled by another mount: only a snapshot's is remembered.
    if (at !== undefined) for (let i = 0; i < locateAhead; i += 1) chunks.set(index + i, null);
    for (const location of locations) chunks.set(location.index, location);
    return locations.find((location) => location.index === index) ?? null;
  }

  /** The bytes from the first replica that has them, or undefined to ask the master again. */
  async #tryReplicas(
    location: Location,
    offset: number,
    length: number,
    attempts: Attempts,
    signal: AbortSignal | undefined,
  ): Promise<Buffer | undefined> {
    const replicas = this.#inOrder(location.replicas);
    if (replicas.length === 0) {
      attempts.failed(new StatusError("unavailable", "no server with this chunk is known"));
    }
    const tries = replicas.map(
      (replica) => (ended: AbortSignal) =>
        this.#readReplica(location, replica, { offset, length }, ended),
    );
    return firstAnswer(tries, {
      afterMs: hedgeMs,
      clock: this.#clock,
      signal,
      isFinal: (error) => ["interrupted", "internal"].includes(statusOf(error)),
      onFailed: (error) => attempts.failed(error),
      onSlow: (index) => this.#noteSlow(replicas[index]),
    });
  }

  /** Nearest first, but those that kept a reader waiting a moment ago last. */
  #inOrder(replicas: readonly Replica[]): Replica[] {
    const nowMs = this.#clock.nowMs();
    const isSlow = ({ address }: Replica): number =>
      (this.#slowUntilMs.get(address) ?? 0) > nowMs ? 1 : 0;
    const ordered = byDistance(this.#place, replicas, this.#random);
    return ordered.toSorted((a, b) => isSlow(a) - isSlow(b));
  }

  #noteSlow(replica: Replica | undefined): void {
    if (replica) this.#slowUntilMs.set(replica.address, this.#clock.nowMs() + slowMs);
  }

  async #readReplica(
    location: Location,
    replica: Replica,
    range: { offset: number; length: number },
    signal: AbortSignal,
  ): Promise<Buffer> {
    const { handle, version } = location;
    const { reply, payload } = await this.#pool
      .call(
        replica.address,
        readChunk,
        { handle, version, ...range },
        { deadlineMs: replicaMs, signal },
      )
      .catch((error: unknown) => {
        if (statusOf(error) === "no-chunk") void this.#report(location, replica, "it is not there");
        throw error;
      });
    if (payload.length <= range.length && crcsMatch(payload, range.offset, reply.crcs)) {
      return payload;
    }
    const reason = "bytes do not match their CRC at the reader";
    void this.#report(location, replica, reason);
    throw new StatusError("corrupt", `${replica.address}: ${reason}`);
  }

  /** Has the master mend a replica. Nobody waits for it: the next one is read meanwhile. */
  async #report(location: Location, { server }: Replica, reason: string): Promise<void> {
    const { handle, version } = location;
    const key = `${handle}/${server}`;
    const nowMs = this.#clock.nowMs();
    if ((this.#reportedMs.get(key) ?? -Infinity) + reportEveryMs > nowMs) return;
    this.#reportedMs.set(key, nowMs);
    await this.#master
      .read(reportReplica, { handle, version, server, reason }, this.#stop)
      .catch(() => undefined);
  }
}

/** How often and how long one read goes on trying. */
class Attempts {
  readonly #clock: Clock;
  readonly #backoff: Backoff;
  readonly #timeoutMs: number | undefined;
  readonly #startedMs: number;
  #badRounds = 0;
  #roundIsBad = true;
  #last: unknown;

  constructor(clock: Clock, random: () => number, timeoutMs: number | undefined) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#startedMs = clock.nowMs();
    this.#backoff = new Backoff({ firstMs: 10, mostMs: 2_000, random });
  }

  failed(error: unknown): void {
    this.#last = error;
    const status = statusOf(error);
    if (status !== "corrupt" && status !== "io-error") this.#roundIsBad = false;
  }

  /** A good replica may come back: that those at hand are bad is not final. */
  mayMend(): void {
    this.#roundIsBad = false;
  }

  /** Before the next round over the replicas. Rejects when there is no point in one. */
  async next(signal: AbortSignal | undefined): Promise<void> {
    this.#badRounds = this.#roundIsBad ? this.#badRounds + 1 : 0;
    this.#roundIsBad = true;
    if (this.#badRounds >= badRoundsMax) throw this.#last;
    const waitedMs = this.#clock.nowMs() - this.#startedMs;
    if (this.#timeoutMs !== undefined && waitedMs > this.#timeoutMs) throw this.#last;
    await sleep(this.#clock, this.#backoff.next(), signal);
    if (signal?.aborted) throw new StatusError("interrupted", "the read was interrupted");
  }
}

/** A range cut at the borders of blocks. */
function byBlock({ offset, length }: { offset: number; length: number }) {
  const blocks: { offset: number; length: number }[] = [];
  for (let at = offset; at < offset + length;) {
    const end = Math.min(at - (at % blockBytes) + blockBytes, offset + length);
    blocks.push({ offset: at, length: end - at });
    at = end;
  }
  return blocks;
}

function padded(payload: Buffer, length: number): Buffer {
  if (payload.length === length) return payload;
  const whole = Buffer.alloc(length);
  payload.copy(whole);
  return whole;
}
