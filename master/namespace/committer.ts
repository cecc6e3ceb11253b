import type { Clock } from "../../common/clock.ts";
import { decodeCbor, encodeCbor } from "../../protocol/codec.ts";
import {
  type ChunkHandle,
  type Epoch,
  epoch as toEpoch,
  type Ino,
  type SessionId,
} from "../../protocol/id.ts";
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
interface RequestKey {
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
 * When an operation is answered: `batch`, when it survives the end of this process, and is on the
 * disk within a second or when somebody syncs; `always`, when it is on the disk (P2, GFS §2.6.3).
 */
export type SyncMode = "batch" | "always";

/**
 * The one place where state changes. Operations queue up and are run in order; all that wait go
 * into one commit (group commit), and each is answered after it. An operation that fails leaves
 * nothing behind and does not disturb the others in its group.
 *
 * The master alone may lose its last second with the power, so what cannot be taken back outside of
 * it waits for the disk: ids are given out from blocks that are on it, chunks are deleted on their
 * servers and written in place only when that they are not shared any more is on it (`onGarbage`,
 * `unshared`), and what else goes to chunk servers waits for `synced` where it is sent.
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
  readonly #syncMode: SyncMode;
  #epoch: Epoch;
  readonly #queue: Queued[] = [];
  #scheduled = false;
  #groupEndsHere = false;
  #groups = 0;
  /** Set while a commit that ended the sharing of chunks is not on the disk: the last such one. */
  #unshared: Promise<void> | undefined;
  /** Committed, and not answered yet, by request. */
  readonly #unanswered = new Map<string, Promise<void>>();
  /** Called after a commit with what it changed, and for which session. */
  onCommit: (touched: Touched, session: SessionId | undefined) => Promise<void> | undefined = () =>
    undefined;
  /** Called after a commit with the chunks whose records it changed. */
  onChunks: (handles: ReadonlySet<ChunkHandle>) => void = () => undefined;
  /** Called when chunks that nobody refers to any more can be deleted: that is on the disk. */
  onGarbage: (garbage: Txn["garbage"]) => void = () => undefined;

  constructor(store: Store, clock: Clock, options: { sync: SyncMode } = { sync: "batch" }) {
    this.store = store;
    this.#clock = clock;
    this.#syncMode = options.sync;
    const stored = store.get("meta", epochKey);
    this.#epoch = toEpoch(stored ? Number(decodeCbor(stored).value) : 1);
    this.fencedEpoch = this.#epoch;
    this.ids.load(store);
    this.snapshots.load(store);
    // This also puts on the disk what a new store was made with.
    this.ids.reserve(store);
  }

  /** The epoch in which records are written now; every snapshot raises it. */
  get epoch(): Epoch {
    return this.#epoch;
  }

  /**
   * Runs `work` as one atomic operation and resolves with its result once that is committed. With
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
      setImmediate(() => this.#begin());
    });
  }

  /** Resolves when everything that was committed before the call is on the disk. */
  synced(): Promise<void> {
    return this.store.synced();
  }

  /** As `synced`, without hurrying the disk. */
  syncedSoon(): Promise<void> {
    return this.store.syncedSoon();
  }

  /**
   * Resolves when no chunk counts as the only one's of a file while the disk still has it shared.
   * Undefined if that is so now.
   */
  unshared(): Promise<void> | undefined {
    return this.#unshared && this.store.synced();
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

  #begin(): void {
    const ready = this.store.ready();
    if (!ready) return this.#commitGroup();
    // Whether there is room then is seen by the commit.
    const commit = (): void => this.#commitGroup();
    ready.then(commit, commit);
  }

  #commitGroup(): void {
    const group: { queued: Queued; outcome: Outcome }[] = [];
    this.#groups += 1;
    try {
      this.ids.reserve(this.store);
      this.store.write((writer) => {
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
            group: this.#groups,
          });
          const outcome = runOne(queued, txn);
          group.push({ queued, outcome });
          if (outcome.kind === "done") outcome.after = txn.apply(writer);
        }
      });
    } catch (error) {
      // Nothing was committed. If not even the first could be tried, trying again is no use now.
      const failed = group.length > 0 ? group.map(({ queued }) => queued) : this.#queue.splice(0);
      for (const queued of failed) queued.reject(error);
      group.length = 0;
    }
    this.#scheduled = this.#queue.length > 0;
    if (this.#scheduled) setImmediate(() => this.#begin());
    const synced = this.#syncMode === "always" && group.length > 0 ? this.synced() : undefined;
    for (const { queued, outcome } of group) this.#finish(queued, outcome, synced);
    // Also when nobody in the group waits for it.
    synced?.catch(() => undefined);
  }

  #finish(queued: Queued, outcome: Outcome, synced: Promise<void> | undefined): void {
    const { request } = queued;
    const key = request && `${request.session}/${request.seq}`;
    const told =
      outcome.kind === "done" ? this.#committed(queued, outcome) : this.#unanswered.get(key ?? "");
    if (!synced && !told) return answer(queued, outcome);
    const ready = Promise.all([synced, told]).then(() => undefined);
    if (key !== undefined && outcome.kind === "done") this.#noteUnanswered(key, ready);
    ready.then(() => answer(queued, outcome), queued.reject);
  }

  /** The same request again, from a mount that has lost its connection, waits for that too. */
  #noteUnanswered(key: string, ready: Promise<void>): void {
    this.#unanswered.set(key, ready);
    const forget = (): void => void this.#unanswered.delete(key);
    ready.then(forget, forget);
  }

  /** What follows a commit at once; the answer waits for what is returned. */
  #committed(
    { origin }: Queued,
    { txn, after }: Outcome & { kind: "done" },
  ): Promise<void> | undefined {
    for (const action of after) action();
    if (txn.chunks.size > 0) this.onChunks(txn.chunks);
    this.#whenSynced(txn);
    const { touched } = txn;
    const any = touched.inos.size + touched.gone.size + touched.entries.length > 0;
    return any ? this.onCommit(touched, origin) : undefined;
  }

  /** What must not get ahead of the disk. (If that fails, it never happens: a restart finds it.) */
  #whenSynced({ garbage, unshares }: Txn): void {
    if (garbage.length === 0 && !unshares) return;
    const synced = this.syncedSoon();
    if (unshares) this.#unshared = synced;
    const act = (): void => {
      if (this.#unshared === synced) this.#unshared = undefined;
      if (garbage.length > 0) this.onGarbage(garbage);
    };
    synced.then(act, () => undefined);
  }
}

type Outcome =
  | { kind: "failed"; error: unknown }
  | { kind: "known"; value: unknown }
  | { kind: "done"; value: unknown; txn: Txn; after: readonly (() => void)[] };

function answer(queued: Queued, outcome: Outcome): void {
  if (outcome.kind === "failed") queued.reject(outcome.error);
  else queued.resolve(outcome.value);
}

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
