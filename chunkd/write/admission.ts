import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { type Epoch, epoch } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import type { ChunkIndex } from "../store/chunk-index.ts";

/**
 * Which clients may write. Two things end a client's leave: the fence (a snapshot has raised the
 * epoch), and the server's own lease (the master has not answered for so long that it may count
 * this server out and no longer wait for it before a snapshot). Writes passed on by another server
 * were admitted there: they are refused only if that server did not answer a fence in time, and may
 * have been stopped for so long that what it passes on now is over for everybody else.
 */
export class Admission {
  readonly #index: ChunkIndex;
  readonly #clock: Clock;
  readonly #log: Log;
  #epoch: Epoch;
  /** What the index has on the disk. */
  #storedEpoch: Epoch;
  /** What other servers pass on under a lower epoch is refused. */
  #passedOnFrom: Epoch | undefined;
  #leaseUntilMs = Number.NEGATIVE_INFINITY;
  readonly #admitted = new Set<{ epoch: Epoch; ended: Promise<unknown> }>();

  constructor(options: { index: ChunkIndex; clock: Clock; log: Log }) {
    this.#index = options.index;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#epoch = epoch(options.index.getNumber("epoch"));
    this.#storedEpoch = this.#epoch;
  }

  get epoch(): Epoch {
    return this.#epoch;
  }

  /** The master has answered what was sent at `sentAtMs`. */
  renewLease(sentAtMs: number, leaseMs: number): void {
    this.#leaseUntilMs = Math.max(this.#leaseUntilMs, sentAtMs + leaseMs);
  }

  /** The server stops: no client's write begins any more. */
  endLease(): void {
    this.#leaseUntilMs = Number.NEGATIVE_INFINITY;
  }

  /** Throws `lease-expired`. */
  checkLease(): void {
    if (this.#clock.nowMs() < this.#leaseUntilMs) return;
    throw new StatusError("lease-expired", "this server has lost touch with the master");
  }

  /**
   * Runs a client's write, which starts synchronously, or throws `stale-epoch` or `lease-expired`.
   */
  async admit<T>(under: Epoch, work: () => Promise<T>): Promise<T> {
    if (under < this.#epoch) {
      const message = `epoch ${under} is over, it is ${this.#epoch} now`;
      throw new StatusError("stale-epoch", message);
    }
    this.checkLease();
    const ended = work();
    const admitted = { epoch: under, ended };
    this.#admitted.add(admitted);
    try {
      return await ended;
    } finally {
      this.#admitted.delete(admitted);
    }
  }

  /**
   * Takes over a higher epoch and keeps it across restarts; resolves when that is on the disk. On a
   * disk that does not take it (a full one) it is kept in memory, and put there later: a server
   * that starts again takes no write before the master has told it the epoch.
   */
  async adopt(raised: Epoch): Promise<void> {
    if (raised > this.#epoch) this.#epoch = raised;
    // Whatever was being passed on when this server was started again has failed there.
    this.#passedOnFrom ??= this.#epoch;
    const wanted = this.#epoch;
    if (this.#storedEpoch >= wanted) return;
    try {
      await this.#index.putNumber("epoch", wanted).flushed();
      if (this.#storedEpoch < wanted) this.#storedEpoch = wanted;
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      this.#log.warn("epoch.not-stored", { epoch: wanted, error });
    }
  }

  /** Throws `stale-epoch` for a write that another server passes on too late. */
  checkPassedOn(under: Epoch): void {
    if (this.#passedOnFrom === undefined || under >= this.#passedOnFrom) return;
    const message = `epoch ${under} is over, it is ${this.#passedOnFrom} now`;
    throw new StatusError("stale-epoch", message);
  }

  /** Nobody who answers the master has writes under a lower epoch any more. */
  refusePassedOn(raised: Epoch): void {
    if (raised > (this.#passedOnFrom ?? 0)) this.#passedOnFrom = raised;
  }

  /** As `adopt`; also waits for every write that was admitted under a lower epoch. */
  async fence(raised: Epoch): Promise<void> {
    await this.adopt(raised);
    const older = [...this.#admitted].filter((admitted) => admitted.epoch < raised);
    await Promise.allSettled(older.map((admitted) => admitted.ended));
  }
}
