import type { Clock } from "../../common/clock.ts";
import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import { type Epoch, epoch as toEpoch, type Ino, type SessionId } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { numberKey, RecordReader, RecordWriter } from "../store/bytes.ts";
import type { Store } from "../store/store.ts";
import { Ids } from "./ids.ts";
import { SnapshotIndex } from "./snapshots.ts";
import { Txn } from "./txn.ts";

/** Operations in one commit: more would only make the first of them wait longer. */
const groupMax = 256;

const epochKey = Buffer.from("epoch");

/** Which request of which session an operation answers, for the reply cache (P7). */
export interface RequestKey {
  session: SessionId;
  seq: number;
}

/** What an operation changed that others may have cached. */
export interface Touched {
  inos: ReadonlySet<Ino>;
  /** Those of `inos` whose contents, or list of entries, changed. */
  contents: ReadonlySet<Ino>;
  /** Inodes that were unlinked before, and are no more: nobody need be told. */
  gone: ReadonlySet<Ino>;
  entries: readonly { parent: Ino; name: Buffer }[];
}

interface Queued {
  work: (txn: Txn) => unknown;
  /** Under which its result is remembered; none for what can simply be done again. */
  request: RequestKey | undefined;
  /** Whose doing it is: that mount's caches need not be told. */
  origin: SessionId | undefined;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

/**
 * The one place where state changes. Operations queue up and are run in order; all that wait go
 * into one commit (group commit), and each is answered after it. An operation that fails leaves
 * nothing behind and does not disturb the others in its group.
 */
export class Committer {
  readonly store: Store;
  /**
   * The highest epoch that chunk servers have been told: ahead of `epoch` while a snapshot is
   * taken.
   */
  fencedEpoch: Epoch;
  readonly ids = new Ids();
  readonly snapshots = new SnapshotIndex();
  readonly #clock: Clock;
  #epoch: Epoch;
  readonly #queue: Queued[] = [];
  #scheduled = false;
  #groupEndsHere = false;
  /** Called after a commit with what it changed, and for which session. */
  onCommit: (touched: Touched, session: SessionId | undefined) => Promise<void> | undefined = () =>
    undefined;
  /** Called after a commit for each chunk that nobody refers to any more. */
  onGarbage: (garbage: Txn["garbage"]) => void = () => undefined;

  constructor(store: Store, clock: Clock) {
    this.store = store;
    this.#clock = clock;
    const stored = store.get("meta", epochKey);
    this.#epoch = toEpoch(stored ? Number(decodeCbor(stored).value) : 1);
    this.fencedEpoch = this.#epoch;
    this.ids.load(store);
    this.snapshots.load(store);
    const reserved = store.write((writer) => this.ids.reserve(writer));
    reserved();
  }

  /** The epoch in which records are written now; every snapshot raises it. */
  get epoch(): Epoch {
    return this.#epoch;
  }

  /**
   * Runs `work` as one atomic operation and resolves with its result once that is on disk. With
   * `request`, a result that was committed before for the same request is returned instead of
   * running `work` again; it must then be something that CBOR can carry.
   */
  run<T>(work: (txn: Txn) => T, request?: RequestKey): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({
        work,
        request: request && request.seq > 0 ? request : undefined,
        origin: request?.session,
        resolve: resolve as (value: unknown) => void,
        reject,
      });
      if (this.#scheduled) return;
      this.#scheduled = true;
      setImmediate(() => this.#commitGroup());
    });
  }

  /** Raises the epoch inside `txn`; what runs after it writes in the new one. */
  raiseEpoch(txn: Txn): void {
    const next = toEpoch(txn.epoch + 1);
    txn.put("meta", epochKey, encodeCbor(next));
    txn.afterCommit(() => {
      this.#epoch = next;
      if (this.fencedEpoch < next) this.fencedEpoch = next;
    });
    this.endGroup();
  }

  /** What the current operation changes in memory after its commit, the next one needs to see. */
  endGroup(): void {
    this.#groupEndsHere = true;
  }

  #commitGroup(): void {
    const group: { queued: Queued; outcome: Outcome }[] = [];
    try {
      const reserved = this.store.write((writer) => {
        const confirm = this.ids.reserve(writer);
        this.#groupEndsHere = false;
        while (this.#queue.length > 0 && group.length < groupMax && !this.#groupEndsHere) {
          const queued = this.#queue.shift();
          if (!queued) break;
          const txn = new Txn({
            reader: writer,
            snapshots: this.snapshots,
            ids: this.ids,
            epoch: this.#epoch,
            nowNs: this.#clock.wallNs(),
          });
          const outcome = runOne(queued, txn);
          group.push({ queued, outcome });
          if (outcome.kind === "done") outcome.after = txn.apply(writer);
        }
        return confirm;
      });
      reserved();
    } catch (error) {
      // Nothing was committed. If not even the first could be tried, trying again is no use now.
      const failed = group.length > 0 ? group.map(({ queued }) => queued) : this.#queue.splice(0);
      for (const queued of failed) queued.reject(error);
      group.length = 0;
    }
    this.#scheduled = this.#queue.length > 0;
    if (this.#scheduled) setImmediate(() => this.#commitGroup());
    for (const { queued, outcome } of group) this.#finish(queued, outcome);
  }

  #finish(queued: Queued, outcome: Outcome): void {
    if (outcome.kind === "failed") return queued.reject(outcome.error);
    if (outcome.kind === "known") return queued.resolve(outcome.value);
    for (const action of outcome.after) action();
    const { txn } = outcome;
    if (txn.garbage.length > 0) this.onGarbage(txn.garbage);
    const touched = txn.touched;
    const any = touched.inos.size + touched.gone.size + touched.entries.length > 0;
    const told = any ? this.onCommit(touched, queued.origin) : undefined;
    if (!told) return queued.resolve(outcome.value);
    told.then(() => queued.resolve(outcome.value), queued.reject);
  }
}

type Outcome =
  | { kind: "failed"; error: unknown }
  | { kind: "known"; value: unknown }
  | { kind: "done"; value: unknown; txn: Txn; after: readonly (() => void)[] };

function runOne(queued: Queued, txn: Txn): Outcome {
  const { request } = queued;
  try {
    const key = request && numberKey(request.session, request.seq);
    const known = key && txn.get("session", key);
    if (known) return { kind: "known", value: decodeReply(known) };
    const value = queued.work(txn);
    if (key) txn.put("session", key, encodeReply(value));
    return { kind: "done", value, txn, after: [] };
  } catch (error) {
    return { kind: "failed", error };
  }
}

export function encodeReply(value: unknown): Buffer {
  const bytes = encodeCbor(value);
  return new RecordWriter(bytes.length).rest(bytes).end();
}

export function decodeReply(record: Buffer): unknown {
  const { value, rest } = decodeCbor(Buffer.from(new RecordReader(record, "session").rest()));
  if (rest.length > 0)
    throw new StatusError("io-error", "a session record of the master is damaged");
  return value;
}
