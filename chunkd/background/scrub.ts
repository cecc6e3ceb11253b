import { type Clock, sleep } from "../../common/clock.ts";
import { blockBytes, crc32c } from "../../common/crc32c.ts";
import { type ChunkHandle, chunkVersion } from "../../protocol/id.ts";
import type { RequestOf } from "../../protocol/method.ts";
import type { heartbeat } from "../../protocol/methods/fleet.ts";
import {
  faultsMax,
  scrubLookMs,
  scrubPieceBytes,
  scrubRestMs,
  scrubStoreMs,
  scrubYieldMs,
} from "../limits.ts";
import { badBlocks } from "../store/read.ts";
import { type ChunkRecord, decodeRecord } from "../store/record.ts";
import type { Store } from "../store/store.ts";

type ScrubReport = NonNullable<RequestOf<typeof heartbeat>["scrub"]>;

/** Records of the index looked at in one turn. */
const recordsPerStep = 64;

/** Numbers in the index: where a round is, so that a restart goes on from there. */
const keys = {
  round: "scrub-round",
  handle: "scrub-handle",
  doneBytes: "scrub-done",
  badBlocks: "scrub-bad",
  finishedAt: "scrub-finished",
} as const;

/**
 * Reads everything in turn, also what nobody asks for, and verifies each block (GFS §5.2): a bit
 * that has flipped is found while there are other replicas to mend it from. Records of the index
 * and small chunks, which are in it, are verified as they are stored. What is bad is reported as by
 * a read.
 *
 * It reads `bytesPerSecond` at most, in pieces, and each piece waits a while for clients' requests
 * to end. What is in the kernel's page cache is verified there: a round is longer than pages stay.
 */
export class Scrub {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #bytesPerSecond: number;
  readonly #isBusy: () => boolean;
  #round: number;
  /** The last chunk that is done, 0 at the start of a round. */
  #handle: number;
  #doneBytes: number;
  #badBlocks: number;
  #finishedAt: number;
  #storedMs: number;
  /** When the next piece may be read. */
  #nextMs: number;
  /** Not yet known to which extent they are bad. */
  readonly #suspects = new Set<ChunkHandle>();
  #restUntilMs = Number.NEGATIVE_INFINITY;

  /** `bytesPerSecond` is above 0. `isBusy`: clients' requests are under way. */
  constructor(options: {
    store: Store;
    clock: Clock;
    bytesPerSecond: number;
    isBusy: () => boolean;
  }) {
    const { store, clock } = options;
    this.#store = store;
    this.#clock = clock;
    this.#bytesPerSecond = options.bytesPerSecond;
    this.#isBusy = options.isBusy;
    this.#round = Math.max(1, store.index.getNumber(keys.round));
    this.#handle = store.index.getNumber(keys.handle);
    this.#doneBytes = store.index.getNumber(keys.doneBytes);
    this.#badBlocks = store.index.getNumber(keys.badBlocks);
    this.#finishedAt = store.index.getNumber(keys.finishedAt);
    this.#storedMs = clock.nowMs();
    this.#nextMs = clock.nowMs();
  }

  get report(): ScrubReport {
    const totalBytes = this.#store.table.usedBytes;
    return {
      round: this.#round,
      // Chunks that have gone since were done too.
      doneBytes: Math.min(this.#doneBytes, totalBytes),
      totalBytes,
      badBlocks: this.#badBlocks,
      ...(this.#finishedAt > 0 ? { finishedAt: this.#finishedAt } : {}),
    };
  }

  /** A reader has found it bad: all of it is verified soon, so that the extent is known. */
  suspect(handle: ChunkHandle): void {
    if (this.#suspects.size < faultsMax) this.#suspects.add(handle);
  }

  async #verifySuspects(signal: AbortSignal): Promise<void> {
    const doneBytes = this.#doneBytes;
    for (const handle of this.#suspects) {
      const stored = this.#store.index.get(handle);
      if (stored) await this.#verify(handle, Buffer.from(stored), signal);
      if (signal.aborted) break;
      this.#suspects.delete(handle);
    }
    this.#doneBytes = doneBytes; // They have their turn in the round too.
  }

  /** A round, or what is left of one, unless the last one ended a short while ago. */
  async runIfDue(signal: AbortSignal): Promise<void> {
    await this.#verifySuspects(signal);
    if (this.#clock.nowMs() < this.#restUntilMs) return;
    await this.runRound(signal);
    this.#restUntilMs = this.#clock.nowMs() + scrubRestMs;
  }

  /** What is left of the current round. */
  async runRound(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const found = this.#store.index.scan(this.#handle, recordsPerStep);
      for (const { handle, record } of found) {
        await this.#verify(handle, record, signal);
        if (signal.aborted) return this.#storeCursor(); // This chunk is begun again.
        this.#handle = handle;
        await this.#verifySuspects(signal);
        if (this.#clock.nowMs() - this.#storedMs >= scrubStoreMs) this.#storeCursor();
      }
      if (found.length < recordsPerStep) return this.#finishRound();
    }
  }

  #finishRound(): void {
    this.#finishedAt = Number(this.#clock.wallNs() / 1_000_000_000n);
    const { log } = this.#store;
    const facts = { round: this.#round, bytes: this.#doneBytes, badBlocks: this.#badBlocks };
    log.event("scrub.finished", facts);
    this.#round += 1;
    this.#handle = 0;
    this.#doneBytes = 0;
    this.#storeCursor();
  }

  /** Nobody waits for it: a disk that does not take it has the pieces since read twice. */
  #storeCursor(): void {
    const { index } = this.#store;
    this.#storedMs = this.#clock.nowMs();
    index.putNumber(keys.round, this.#round);
    index.putNumber(keys.handle, this.#handle);
    index.putNumber(keys.doneBytes, this.#doneBytes);
    index.putNumber(keys.badBlocks, this.#badBlocks);
    index.putNumber(keys.finishedAt, this.#finishedAt);
  }

  async #verify(handle: ChunkHandle, stored: Buffer, signal: AbortSignal): Promise<void> {
    const record = decodeRecord(handle, stored);
    if (typeof record === "string") {
      const reason = `its index record ${record}`;
      return this.#found(handle, { version: chunkVersion(0), reason, blocks: [] });
    }
    if (record.small) {
      await this.#turn(record.length, signal);
      this.#verifySmall(handle);
      this.#doneBytes += record.length;
      return;
    }
    // A dirty chunk's length and CRCs are in memory.
    const live = this.#store.table.peek(handle) ?? record;
    for (let offset = 0; offset < live.length; offset += scrubPieceBytes) {
      const length = Math.min(scrubPieceBytes, live.length - offset);
      await this.#turn(length, signal);
      if (signal.aborted) return;
      const before = this.#store.faults.corruptBlocks;
      await badBlocks(this.#store, handle, { offset, length });
      this.#badBlocks += this.#store.faults.corruptBlocks - before; // Each is counted once.
      this.#doneBytes += length;
    }
  }

  /** Record and bytes as the index has them now, both of one commit. */
  #verifySmall(handle: ChunkHandle): void {
    const { index } = this.#store;
    const stored = index.get(handle);
    const record = stored && decodeRecord(handle, stored);
    if (record === undefined || typeof record === "string" || !record.small) return;
    const reason = smallFault(record, index.getSmall(handle));
    if (reason === undefined) return;
    this.#found(handle, { version: record.version, reason, blocks: [0] });
  }

  #found(
    handle: ChunkHandle,
    bad: { version: ChunkRecord["version"]; reason: string; blocks: number[] },
  ): void {
    const { faults } = this.#store;
    const before = faults.corruptBlocks;
    faults.noteCorrupt({ handle, ...bad });
    this.#badBlocks += faults.corruptBlocks - before;
  }

  /** Waits until `bytes` may be read: for the rate, and a while for clients. */
  async #turn(bytes: number, signal: AbortSignal): Promise<void> {
    const now = this.#clock.nowMs();
    if (this.#nextMs > now) await sleep(this.#clock, this.#nextMs - now, signal);
    const untilMs = this.#clock.nowMs() + scrubYieldMs;
    while (this.#isBusy() && this.#clock.nowMs() < untilMs && !signal.aborted) {
      await sleep(this.#clock, scrubLookMs, signal);
    }
    // What was not read in time is not made up for.
    const startMs = Math.max(this.#nextMs, this.#clock.nowMs());
    this.#nextMs = startMs + (bytes * 1_000) / this.#bytesPerSecond;
  }
}

function smallFault(record: ChunkRecord, bytes: Buffer | undefined): string | undefined {
  if (bytes?.length !== record.length) return "its bytes are missing from the index";
  if (bytes.length === 0 || crc32c(bytes.subarray(0, blockBytes)) === record.crcs[0]) {
    return undefined;
  }
  return "block 0, in the index, does not match its CRC";
}
