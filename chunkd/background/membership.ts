import { type Address, formatAddress } from "../../common/address.ts";
import { Backoff } from "../../common/backoff.ts";
import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { UserError } from "../../common/program.ts";
import type { Connection, Handlers } from "../../protocol/connection.ts";
import { type Connect, dial } from "../../protocol/dial.ts";
import type { ChunkHandle, Epoch } from "../../protocol/id.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import {
  heartbeat,
  holdings,
  inventory,
  register,
  replicaBad,
  writeFailed,
} from "../../protocol/methods/fleet.ts";
import { StatusError } from "../../protocol/status.ts";
import type { DataDirectory, Identity } from "../store/directory.ts";
import type { BadChunk, FailedWrite } from "../store/faults.ts";
import type { HeldChunk } from "../store/inventory.ts";

type Usage = Omit<RequestOf<typeof heartbeat>, "removed">;

/** A page of chunks is told this often: a million take 40 minutes, and the master 2 ms a second. */
const holdingsEveryMs = 10_000;
/** All chunks are told no more often than this. */
const holdingsRoundMs = 60_000;

/** What the rest of the server gives and takes. */
export interface MembershipHooks {
  usage(): Promise<Usage>;
  pages(): Iterable<{ chunks: HeldChunk[]; last: boolean }>;
  /** Up to a page of the chunks after `after`; `last`: there are no more. */
  holdings(after: number): { handles: ChunkHandle[]; last: boolean };
  removed(): ChunkHandle[];
  removedReported(handles: readonly ChunkHandle[]): void;
  /** Asks the master with `send`; what its answer says is deleted. */
  askRemovals<Reply extends { remove: ChunkHandle[] }>(send: () => Promise<Reply>): Promise<Reply>;
  bad(): readonly BadChunk[];
  failedWrites(): readonly FailedWrite[];
  /** The master has answered what was sent at `sentAtMs`. */
  heard(answer: { sentAtMs: number; leaseMs: number; epoch: Epoch }): Promise<void>;
}

/**
 * Belonging to a cluster: dial the master, register, tell it everything that is here, then a
 * heartbeat every so often; after any failure again from the start. The master's orders come over
 * the same connection and are answered by `orders`.
 */
export class Membership {
  readonly #options: MembershipOptions;
  readonly #backoff: Backoff;
  #connection: Connection | undefined;
  #connected = false;
  /** Logged once per outage, not once per attempt. */
  #saidWhy = false;
  #holdings = { after: 0, atMs: 0, roundAtMs: 0 };

  constructor(options: MembershipOptions) {
    this.#options = options;
    const { random } = options;
    this.#backoff = new Backoff({ firstMs: 100, mostMs: 3_000, random });
  }

  /** True while the master answers. */
  get connected(): boolean {
    return this.#connected;
  }

  /** Until `signal` aborts. Rejects with a `UserError` for what no further attempt can mend. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        await this.#belong(signal);
      } catch (error) {
        this.#failed(error);
      } finally {
        this.#connected = false;
        this.#connection?.close("chunk server leaves");
        this.#connection = undefined;
      }
      await sleep(this.#options.clock, this.#backoff.next(), signal);
    }
  }

  /** Tells the master now, if it is there; else it is told after the next registration. */
  async reportBad(bad: BadChunk): Promise<void> {
    if (!this.#connected || !this.#connection) return;
    await this.#connection
      .call(replicaBad, { ...bad, blocks: [...bad.blocks] })
      .catch((error: unknown) => {
        this.#options.log.warn("master.report-failed", { handle: bad.handle, error });
      });
  }

  async #belong(signal: AbortSignal): Promise<void> {
    const { master, directory, hooks } = this.#options;
    const { connection, cluster } = await dial({
      ...this.#options,
      address: master,
      role: "chunkd",
      cluster: directory.identity?.cluster ?? "",
      handlers: this.#options.orders,
    });
    this.#connection = connection;
    const closed = new AbortController();
    connection.onClose(() => closed.abort());
    const registered = await this.#register(connection, cluster);
    await this.#tellInventory(connection);
    this.#backoff.reset();
    this.#connected = true;
    this.#saidWhy = false;
    const { server } = registered;
    this.#options.log.event("master.joined", { master: formatAddress(master), server, cluster });
    for (const bad of hooks.bad()) await this.reportBad(bad);
    this.#options.onJoined();
    const ended = AbortSignal.any([signal, closed.signal]);
    while (!ended.aborted) {
      await sleep(this.#options.clock, registered.heartbeatMs, ended);
      if (!ended.aborted) await this.#beat(connection, registered.leaseMs);
      if (!ended.aborted) await this.#tellHoldings(connection);
    }
    if (!signal.aborted) throw new StatusError("disconnected", "the connection was lost");
  }

  async #register(connection: Connection, cluster: string): Promise<ReplyOf<typeof register>> {
    const { clock, directory, hooks, rack, advertised } = this.#options;
    const known = directory.identity;
    const usage = await hooks.usage();
    const sentAtMs = clock.nowMs();
    const reply = await connection.call(register, {
      ...(known ? { server: known.server } : {}),
      address: advertised,
      rack,
      ...usage,
    });
    await this.#adopt(known, { cluster, server: reply.server });
    await hooks.heard({ sentAtMs, leaseMs: reply.leaseMs, epoch: reply.epoch });
    return reply;
  }

  async #adopt(known: Identity | undefined, identity: Identity): Promise<void> {
    const { directory } = this.#options;
    if (!known) return directory.adopt(identity);
    if (known.server === identity.server && known.cluster === identity.cluster) return;
    const own = `server ${known.server} of cluster ${known.cluster}`;
    const other = `server ${identity.server} of cluster ${identity.cluster}`;
    throw new UserError(`${directory.path} is ${own}, the master takes it for ${other}`);
  }

  async #tellInventory(connection: Connection): Promise<void> {
    const { hooks } = this.#options;
    for (const page of hooks.pages()) {
      await hooks.askRemovals(() => connection.call(inventory, page));
    }
  }

  async #beat(connection: Connection, leaseMs: number): Promise<void> {
    const { clock, hooks } = this.#options;
    const usage = await hooks.usage();
    const removed = hooks.removed();
    const sentAtMs = clock.nowMs();
    const reply = await hooks.askRemovals(() =>
      connection.call(heartbeat, { ...usage, removed }, { deadlineMs: leaseMs }),
    );
    hooks.removedReported(removed);
    await hooks.heard({ sentAtMs, leaseMs, epoch: reply.epoch });
    // Their clients have not told by now. They are told again until the master has seen to it.
    await Promise.all(hooks.failedWrites().map((failed) => connection.call(writeFailed, failed)));
  }

  /** A page every so often. A round begins again when it is over, and no sooner than that. */
  async #tellHoldings(connection: Connection): Promise<void> {
    const { clock, hooks } = this.#options;
    const nowMs = clock.nowMs();
    if (nowMs < this.#holdings.atMs) return;
    const { after, roundAtMs } = this.#holdings;
    const { handles, last } = hooks.holdings(after);
    if (handles.length > 0) await connection.call(holdings, { handles });
    const nextMs = nowMs + holdingsEveryMs;
    this.#holdings = last
      ? { after: 0, atMs: Math.max(nextMs, roundAtMs + holdingsRoundMs), roundAtMs: nextMs }
      : { after: handles.at(-1) ?? 0, atMs: nextMs, roundAtMs };
  }

  #failed(error: unknown): void {
    const { directory, log, master } = this.#options;
    if (error instanceof UserError) throw error;
    if (!(error instanceof StatusError)) throw error;
    if (error.status === "wrong-cluster") {
      const where = formatAddress(master);
      throw new UserError(`${directory.path} does not belong to ${where}: ${error.message}`);
    }
    const facts = { master: formatAddress(master), why: error.message };
    if (this.#saidWhy) log.debug("master.unreachable", facts);
    else log.warn(this.#connected ? "master.lost" : "master.unreachable", facts);
    this.#saidWhy = true;
  }
}

interface MembershipOptions {
  master: Address;
  /** Where mounts and other servers reach this one. */
  advertised: string;
  rack: string;
  name: string;
  directory: DataDirectory;
  orders: Handlers;
  hooks: MembershipHooks;
  onJoined: () => void;
  connect: Connect;
  clock: Clock;
  log: Log;
  random: () => number;
}
