import { AssertionError } from "../../common/assert.ts";
import { errnoName } from "../../common/disk.ts";
import type { Log } from "../../common/log.ts";
import { lastUsed } from "../../common/lru.ts";
import { type ChunkHandle, type ChunkVersion, type ServerId, serverId } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { badBlocksMax, failedWritesMax, faultsMax } from "../limits.ts";
import type { ChunkIndex } from "./chunk-index.ts";

export interface BadChunk {
  handle: ChunkHandle;
  version: ChunkVersion;
  reason: string;
  /** The blocks that are known to be bad; none if it is the chunk as a whole. */
  blocks: readonly number[];
}

export interface FailedWrite {
  handle: ChunkHandle;
  version: ChunkVersion;
  /** Those that did not take part. */
  servers: ServerId[];
}

/** A failure of the disk as a status. A bug stays a bug, and a status what it is. */
export function diskFailure(error: unknown, what: string): Error {
  if (error instanceof StatusError || error instanceof AssertionError) return error;
  const errno = errnoName(error);
  switch (errno) {
    case "ENOSPC":
    case "EDQUOT":
      return new StatusError("no-space", `${what}: the disk is full (${errno})`, { cause: error });
    case "EROFS":
      return new StatusError("io-error", `${what}: the disk is read-only`, { cause: error });
    case undefined:
      return error instanceof Error ? error : new Error(String(error));
    default:
      return new StatusError("io-error", `${what}: the disk failed (${errno})`, { cause: error });
  }
}

/**
 * What is wrong with chunks here: bad ones (a CRC or the disk failed; the master gets to know, once
 * each version), and those whose last write did not reach every replica (no write under that
 * version is taken any more, because replicas could come to differ in the order of writes), and
 * those in doubt: dirty when this server stopped, and not raised since. They may lack bytes that
 * were acknowledged, which their CRCs, made of what was found, do not show. The master raises them
 * when it has them compared.
 */
export class Faults {
  readonly #index: ChunkIndex;
  readonly #log: Log;
  #corruptBlocks: number;
  readonly #bad = new Map<ChunkHandle, BadChunk>();
  readonly #doubtful = new Set<ChunkHandle>();
  readonly #failedWrites = lastUsed<ChunkHandle, { version: ChunkVersion; error: StatusError }>(
    failedWritesMax,
    () => (this.#forgotten = true),
  );
  /** There were more failed writes than are remembered: any chunk may have had one. */
  #forgotten = false;
  /** Where `failedWrites` goes on. */
  #told = 0;
  #onBad: (bad: BadChunk) => void = () => undefined;

  constructor(options: { index: ChunkIndex; log: Log }) {
    this.#index = options.index;
    this.#log = options.log;
    this.#corruptBlocks = options.index.getNumber("corrupt-blocks");
  }

  /** Since the data directory was made. */
  get corruptBlocks(): number {
    return this.#corruptBlocks;
  }

  /** What has to be reported to a master that does not know it yet. */
  bad(): BadChunk[] {
    return [...this.#bad.values()];
  }

  onBad(listener: (bad: BadChunk) => void): void {
    this.#onBad = listener;
  }

  /** Blocks that do not match their CRCs: counted and reported, once each. */
  noteCorrupt(bad: BadChunk): void {
    const known = this.#bad.get(bad.handle);
    const fresh = bad.blocks.filter(
      (block) => known?.version !== bad.version || !known.blocks.includes(block),
    );
    const count = bad.blocks.length === 0 && known?.version !== bad.version ? 1 : fresh.length;
    if (count > 0) {
      this.#corruptBlocks += count;
      this.#index.putNumber("corrupt-blocks", this.#corruptBlocks);
    }
    this.noteBad(bad);
  }

  /** Too many to be remembered are told too: whoever reads one tells it again. */
  noteBad(bad: BadChunk): void {
    const known = this.#bad.get(bad.handle);
    const before = known?.version === bad.version ? known.blocks : undefined;
    const blocks = [...new Set([...(before ?? []), ...bad.blocks])].slice(0, badBlocksMax);
    if (before && blocks.length === before.length) return;
    const noted = { ...bad, blocks };
    if (known || this.#bad.size < faultsMax) this.#bad.set(bad.handle, noted);
    this.#log.error("chunk.bad", { ...noted });
    this.#onBad(noted);
  }

  noteDoubtful(handle: ChunkHandle): void {
    this.#doubtful.add(handle);
  }

  isDoubtful(handle: ChunkHandle): boolean {
    return this.#doubtful.has(handle);
  }

  /** Throws `stale-version`, which sends whoever wants to read to the master, if it is in doubt. */
  expectSure(handle: ChunkHandle): void {
    if (!this.#doubtful.has(handle)) return;
    const message = `chunk ${handle}: was being written when this server stopped, not compared yet`;
    throw new StatusError("stale-version", message);
  }

  noteFailedWrite(handle: ChunkHandle, version: ChunkVersion, error: StatusError): void {
    this.#failedWrites.set(handle, { version, error });
  }

  /** Why no write under `version` is taken, if so. */
  failedWrite(handle: ChunkHandle, version: ChunkVersion): StatusError | undefined {
    const failed = this.#failedWrites.get(handle);
    return failed?.version === version ? failed.error : undefined;
  }

  /** True if a write under `version` may not have reached every replica. */
  mayBeUneven(handle: ChunkHandle, version: ChunkVersion): boolean {
    return this.#forgotten || this.failedWrite(handle, version) !== undefined;
  }

  /** Failed writes after which no version was raised yet, up to `most`, by and by all of them. */
  failedWrites(most: number): FailedWrite[] {
    const all = [...this.#failedWrites.entries()];
    const first = this.#told < all.length ? this.#told : 0;
    const some = all.slice(first, first + most);
    this.#told = first + some.length;
    return some.map(([handle, { version, error }]) => ({
      handle,
      version,
      servers: error.servers.map(serverId),
    }));
  }

  /**
   * The chunk has a new version: what failed under the old one is over. What is bad still is, and
   * the master is told so, as it takes what it knows of the old version for mended.
   */
  raised(handle: ChunkHandle, version: ChunkVersion): void {
    this.#failedWrites.delete(handle);
    this.#doubtful.delete(handle);
    const known = this.#bad.get(handle);
    if (!known || known.version === version) return;
    const bad = { ...known, version };
    this.#bad.set(handle, bad);
    this.#onBad(bad);
  }

  /** The chunk was replaced or removed. */
  forget(handle: ChunkHandle): void {
    this.#bad.delete(handle);
    this.#doubtful.delete(handle);
    this.#failedWrites.delete(handle);
  }
}
