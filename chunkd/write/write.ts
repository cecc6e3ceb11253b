import { crcsMatch } from "../../common/crc32c.ts";
import { Semaphore } from "../../common/mutex.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { BootId, ServerId } from "../../protocol/id.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import {
  chunkBytesMax,
  clientWriteBytesAtOnce,
  clientWriteBytesMax,
  clientWritesAtOnce,
  dirtyFilesMax,
  forwardedWriteBytesMax,
} from "../limits.ts";
import { applyWrite } from "../store/apply.ts";
import type { Store } from "../store/store.ts";
import { type Chunk, expectVersion, type LiveRecord } from "../store/table.ts";
import type { Admission } from "./admission.ts";
import { Budget } from "./budget.ts";
import { forward, type WriteRequest } from "./chain.ts";

/**
 * The write path (GFS §3.1, §3.2, with the data sent along the chain together with the order).
 *
 *   client ──1──> primary ──2──> replica ──2──> replica
 *                 applies 2      applies 2      applies      3. answers go back when all are done
 *
 * Order: writes to a chunk enter its gate in the order in which they arrive. On entering, and
 * without an `await` in between, a write is checked, sent on, and put in line for the local disk.
 * The next server gets them over one connection in that order and does the same. So every replica
 * applies them in the primary's order, and yet the next write is on its way before this one is
 * answered.
 *
 * Failure: when a write fails anywhere, or its fate is unknown (a lost connection: its bytes may
 * still arrive later), no further write under the chunk's version is taken here: replicas could
 * come to differ. All of them, the failed one too, are answered with the names of the servers that
 * failed, this one among them if its own disk did, whatever was wrong with that disk: it may be
 * gone by the next write. The client tells the master, which raises the version without the failed
 * servers: whatever is late then is stale. A chunk's only replica differs from nobody: there each
 * write fails or succeeds for itself.
 */
export class Writer {
  readonly #store: Store;
  readonly #admission: Admission;
  readonly #pool: () => Pool;
  readonly #self: () => ServerId | undefined;
  readonly #boot: BootId;
  readonly #clientBudget = new Budget(clientWriteBytesMax);
  readonly #turns = new Semaphore(clientWritesAtOnce);
  readonly #byteTurns = new Semaphore(clientWriteBytesAtOnce);
  readonly #forwardedBudget = new Budget(forwardedWriteBytesMax);

  constructor(options: {
    store: Store;
    admission: Admission;
    pool: () => Pool;
    self: () => ServerId | undefined;
    boot: BootId;
  }) {
    this.#store = options.store;
    this.#self = options.self;
    this.#boot = options.boot;
    this.#admission = options.admission;
    this.#pool = options.pool;
  }

  /**
   * Resolves when this server and the chain have the bytes, with their boots. Forwarded ones enter
   * synchronously.
   */
  async write(request: WriteRequest, payload: Buffer): Promise<BootId[]> {
    checkPayload(request, payload);
    const enter = (): Promise<BootId[]> => this.#enter(request, payload);
    if (request.forwarded) return this.#forwardedBudget.with(payload.length, enter);
    return this.#admission.admit(request.epoch, () =>
      this.#clientBudget.with(payload.length, () => this.#inTurn(payload.length, enter)),
    );
  }

  /**
   * May wait: until a client's write enters the gate, it has no place in the chunk's order. Only
   * clients' writes wait here. One that is passed on by another server never waits for a turn, or
   * servers that are each other's secondaries would wait for each other.
   */
  async #inTurn<T>(bytes: number, enter: () => Promise<T>): Promise<T> {
    await this.#turns.acquire(1);
    await this.#byteTurns.acquire(bytes);
    try {
      return await enter();
    } finally {
      this.#byteTurns.release(bytes);
      this.#turns.release(1);
    }
  }

  #enter(request: WriteRequest, payload: Buffer): Promise<BootId[]> {
    return this.#store.table.with(request.handle, (chunk) =>
      chunk.gate.run("shared", () => this.#start(chunk, request, payload)),
    );
  }

  async #start(chunk: Chunk, request: WriteRequest, payload: Buffer): Promise<BootId[]> {
    this.#check(chunk, request, payload);
    const write = { offset: request.offset, bytes: payload, crcs: request.crcs };
    const local = chunk.applying.run("exclusive", () => applyWrite(this.#store, chunk, write));
    const others =
      request.chain.length > 0 ? forward(this.#pool(), request, payload) : Promise.resolve([]);
    const [here, there] = await Promise.allSettled([local, others]);
    if (here.status === "fulfilled" && there.status === "fulfilled") {
      return [this.#boot, ...there.value];
    }
    throw this.#verdict(request, reasonOf(here), reasonOf(there));
  }

  /** Whether this server takes the write. What is refused here has not been sent on to anybody. */
  #check(chunk: Chunk, request: WriteRequest, payload: Buffer): void {
    const { handle, version } = request;
    const failed = this.#store.faults.failedWrite(handle, version);
    if (failed) throw failed;
    if (request.forwarded) this.#admission.checkPassedOn(request.epoch);
    else this.#admission.checkLease(); // It may have waited at the gate.
    const missing = !chunk.record && chunk.unusable === undefined;
    if (!(missing && request.create)) this.#checkExisting(chunk, request);
    const end = payload.length === 0 ? 0 : request.offset + payload.length;
    if (end > chunk.plannedLength) this.#store.space.take(end - chunk.plannedLength);
    else if (missing) this.#store.space.take(1);
    if (missing) this.#store.table.replace(chunk, newRecord(request));
    chunk.plannedLength = Math.max(chunk.plannedLength, end);
  }

  #checkExisting(chunk: Chunk, request: WriteRequest): void {
    const record = expectVersion(chunk, request.version);
    const crowd = this.#store.table.dirtyFiles.size;
    if (crowd > 4 * dirtyFilesMax && !record.dirty && !request.forwarded) {
      throw new StatusError("overloaded", `${crowd} chunks are being written to already`);
    }
  }

  /** What a write is answered that failed on this disk, along the chain, or both. */
  #verdict(request: WriteRequest, here: unknown, there: unknown): unknown {
    for (const reason of [here, there]) {
      if (reason !== undefined && !(reason instanceof StatusError)) return reason; // A bug.
    }
    const alone = !request.forwarded && request.chain.length === 0;
    if (alone) return here;
    const { handle, version } = request;
    const error = this.#whoFailed(request, here, there);
    const { message, servers } = error;
    this.#store.log.warn("write.not-everywhere", { handle, version, message, servers });
    const nobody = !request.forwarded && servers.length > request.chain.length;
    // Were all named, there would be nobody left for the master to raise: the next primary tells
    // how things stand with the others.
    const noted = nobody ? replicasFailed(here, undefined, this.#self()) : error;
    this.#store.faults.noteFailedWrite(handle, version, noted);
    return nobody && statusOf(here) === "no-space" ? here : noted;
  }

  /**
   * Those who refuse a write as too late have not failed. The primary has: it was cut off, and its
   * replica may have the write.
   */
  #whoFailed(request: WriteRequest, here: unknown, there: unknown): StatusError {
    const late = there instanceof StatusError && there.status === "stale-epoch";
    if (late && request.forwarded) return there;
    return replicasFailed(late ? there : here, there, this.#self());
  }
}

/** `replica-failed`, with every server that is known to have failed. */
function replicasFailed(here: unknown, there: unknown, self: ServerId | undefined): StatusError {
  const named = there instanceof StatusError ? there.servers : [];
  const own = here === undefined || self === undefined ? [] : [self];
  const told = [here, there].filter((reason) => reason instanceof StatusError);
  const message = told.map((reason) => reason.message).join("; ");
  return new StatusError("replica-failed", message, {
    cause: here ?? there,
    servers: [...own, ...named.filter((server) => server !== self)],
  });
}

function reasonOf(settled: PromiseSettledResult<unknown>): unknown {
  return settled.status === "rejected" ? settled.reason : undefined;
}

function checkPayload(request: WriteRequest, payload: Buffer): void {
  if (request.offset + payload.length > chunkBytesMax) {
    throw new StatusError("too-large", `a chunk has at most ${chunkBytesMax} bytes`);
  }
  if (!crcsMatch(payload, request.offset, request.crcs)) {
    throw new StatusError("corrupt", "the bytes do not match their CRCs: damaged on the way");
  }
}

function newRecord({ version }: WriteRequest): LiveRecord {
  return {
    version,
    length: 0,
    dirty: false,
    small: true,
    origin: undefined,
    crcs: [],
    bytes: Buffer.alloc(0),
    fresh: true,
  };
}
