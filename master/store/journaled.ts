import { assert, must } from "../../common/assert.ts";
import type { Clock, Timer } from "../../common/clock.ts";
import type { JournalDirectory } from "../../common/journal-file.ts";
import type { Log } from "../../common/log.ts";
import { StatusError } from "../../protocol/status.ts";
import type { BaseStore } from "./base.ts";
import type { Change } from "./batch.ts";
import { storeFailure } from "./faults.ts";
import { encodeJournalHead, Journal, journalName, type StoreId } from "./journal.ts";
import { Layers } from "./layers.ts";
import { encodeMark, type Mark } from "./mark.ts";
import { recover } from "./recover.ts";
import type { Store, StoreWriter } from "./store.ts";
import { SharedSync } from "./shared-sync.ts";

/**
 * The store that the master lives on: LMDB below, what LMDB does not have yet in memory above it,
 * and a journal of the latter on disk.
 *
 *   write ──► active overlay ──freeze──► frozen overlay ──checkpoint──► base (LMDB)
 *      └────► journal N+1                journal N, removed after it
 *
 * A commit appends one record to the journal and waits for nothing: the page cache survives kill
 * -9. Within a second, or when somebody asks, the journal is synced: that survives power loss. Rows
 * go into the base only once their journal is on the disk, so the base never has anything that
 * recovery would not find (write-ahead logging).
 */

interface JournaledOptions {
  base: BaseStore;
  directory: JournalDirectory;
  clock: Clock;
  log: Log;
  /** A random text that no other store has. */
  uuid: () => string;
  limits?: Partial<JournalLimits>;
}

export interface JournalLimits {
  /** How long a commit is at most without being on the disk. */
  syncAfterMs: number;
  /** How old a row gets that is not in the base: what recovery has to read stays short. */
  checkpointAfterMs: number;
  /** A checkpoint begins at this size: a second or two of commits at full speed. */
  journalBytes: number;
  /** Commits wait for the checkpoint under way when this much has gathered behind it. */
  waitBytes: number;
  /** When checkpoints fail and memory or journal have come to this, commits are refused. */
  refuseBytes: number;
  /** After a checkpoint that failed. */
  retryMs: number;
  /** Rows given to the base in one turn of the event loop: 1 or 2 ms of it. */
  sliceRows: number;
}

const limitsDefault: JournalLimits = {
  syncAfterMs: 1_000,
  checkpointAfterMs: 10_000,
  journalBytes: 32 << 20,
  waitBytes: 64 << 20,
  refuseBytes: 256 << 20,
  retryMs: 1_000,
  sliceRows: 1_000,
};

/** Opens the store, after bringing the base up to date with the journals that are there. */
export async function openJournaledStore(options: JournaledOptions): Promise<Store> {
  const newId = (): StoreId => Buffer.from(options.uuid().replaceAll("-", ""), "hex");
  const mark = await recover({ ...options, newId });
  const store = new JournaledStore(options, mark);
  await store.begin();
  return store.asStore();
}

class JournaledStore {
  readonly #options: JournaledOptions;
  readonly #limits: JournalLimits;
  readonly #layers: Layers;
  readonly #syncs: SharedSync;
  /** Of the last checkpoint that is complete. */
  #mark: Mark;
  /** Of the last commit. */
  #sequence: number;
  #current: Journal | undefined;
  /** The journal of the frozen overlay, and the last commit in it. */
  #old: { journal: Journal; sequence: number } | undefined;
  #checkpointing: Promise<void> | undefined;
  /** The last checkpoint failed: the next one is made in its own time, and nobody waits for it. */
  #failing = false;
  #syncTimer: Timer | undefined;
  #checkpointTimer: Timer | undefined;
  #closed = false;
  #writing = false;

  constructor(options: JournaledOptions, mark: Mark) {
    this.#options = options;
    this.#limits = { ...limitsDefault, ...options.limits };
    this.#layers = new Layers(options.base);
    this.#mark = mark;
    this.#sequence = mark.sequence;
    this.#syncs = new SharedSync(mark.sequence, {
      begin: () => this.#sequence,
      sync: () => this.#syncJournals(),
    });
  }

  async begin(): Promise<void> {
    this.#current = await this.#newJournal(this.#mark.journal + 1);
  }

  asStore(): Store {
    const layers = this.#layers;
    return {
      get: (table, key) => layers.get(table, key),
      range: (table, bounds) => layers.range(table, bounds),
      count: (table) => layers.count(table),
      write: (work) => this.#write(work),
      synced: () => this.#syncs.synced(),
      syncedSoon: () => this.#syncs.syncedSoon(),
      syncNow: () => this.#syncNow(),
      ready: () => this.#ready(),
      close: () => this.#close(),
    };
  }

  // Commits

  #write<T>(work: (writer: StoreWriter) => T): T {
    assert(!this.#writing, "commits are made one at a time");
    const journal = this.#writable();
    this.#writing = true;
    try {
      const result = work(this.#layers.writer);
      const changes = this.#layers.changes();
      if (changes.length > 0) this.#append(journal, changes);
      this.#layers.keep();
      return result;
    } catch (cause) {
      this.#layers.undo();
      throw storeFailure(cause);
    } finally {
      this.#writing = false;
    }
  }

  #append(journal: Journal, changes: readonly Change[]): void {
    journal.append(this.#sequence + 1, changes);
    this.#sequence += 1;
    const { clock } = this.#options;
    const { syncAfterMs, checkpointAfterMs, journalBytes } = this.#limits;
    this.#syncTimer ??= clock.timer(syncAfterMs, () => this.#syncSoon());
    this.#checkpointTimer ??= clock.timer(checkpointAfterMs, () => this.#checkpointSoon());
    if (journal.bytes >= journalBytes && !this.#failing) this.#checkpointSoon();
  }

  #writable(): Journal {
    if (this.#closed) throw new StatusError("unavailable", "the master is stopping");
    if (this.#syncs.failure) throw this.#syncs.failure;
    const journal = must(this.#current, "an open store has a journal");
    const { refuseBytes } = this.#limits;
    if (this.#layers.activeBytes > refuseBytes || journal.bytes > refuseBytes) {
      throw new StatusError("no-space", "the master's disk does not take what is to be written");
    }
    return journal;
  }

  #ready(): Promise<void> | undefined {
    const journal = this.#current;
    const bytes = Math.max(this.#layers.activeBytes, journal?.bytes ?? 0);
    if (bytes < this.#limits.waitBytes || this.#failing) return undefined;
    this.#checkpointSoon();
    return this.#checkpointing;
  }

  // Being on the disk

  #syncSoon(): void {
    this.#syncTimer = undefined;
    // A failure has been logged, and everybody who asks is told.
    this.#syncs.synced().catch(() => undefined);
  }

  /** The older journal first: recovery stops where one is torn. */
  async #syncJournals(): Promise<void> {
    const journals = [this.#old?.journal, this.#current];
    try {
      for (const journal of journals) await journal?.sync();
    } catch (cause) {
      throw this.#syncFailed(cause);
    }
  }

  #syncNow(): void {
    if (this.#syncs.failure) throw this.#syncs.failure;
    try {
      this.#old?.journal.syncNow();
      this.#current?.syncNow();
    } catch (cause) {
      throw this.#syncs.fail(this.#syncFailed(cause));
    }
    this.#syncs.done(this.#sequence);
  }

  /**
   * After a failed fdatasync the kernel may have dropped what it could not write, and says so once
   * only: nothing can be promised any more before the journal has been read again from the disk.
   */
  #syncFailed(cause: unknown): StatusError {
    this.#options.log.error("journal.sync-failed", { error: cause });
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `the master's disk failed: ${why}: restart the master when it is mended`;
    return new StatusError("io-error", message, { cause });
  }

  // Checkpoints

  #checkpointSoon(): void {
    this.#checkpointTimer?.cancel();
    this.#checkpointTimer = undefined;
    if (this.#checkpointing || this.#closed || this.#syncs.failure) return;
    this.#checkpointing = this.#checkpoint()
      .then(
        () => this.#checkpointEnded(),
        (error: unknown) => this.#checkpointEnded(error),
      )
      .finally(() => {
        this.#checkpointing = undefined;
      });
  }

  #checkpointEnded(error?: unknown): void {
    const { clock, log } = this.#options;
    const { checkpointAfterMs, retryMs } = this.#limits;
    this.#failing = error !== undefined;
    if (error !== undefined) log.error("checkpoint.failed", { error: storeFailure(error) });
    if (this.#layers.activeBytes === 0 && !this.#failing) return;
    this.#checkpointTimer?.cancel();
    const afterMs = this.#failing ? retryMs : checkpointAfterMs;
    this.#checkpointTimer = clock.timer(afterMs, () => this.#checkpointSoon());
  }

  /** What a checkpoint that failed has left is finished first. */
  async #checkpoint(): Promise<void> {
    if (!this.#old) this.#freeze(await this.#newJournal(this.#journalNumber() + 1));
    await this.#finishCheckpoint();
  }

  #journalNumber(): number {
    return must(this.#current, "an open store has a journal").number;
  }

  /** Commits go to a new overlay and, unless the store is being closed, to `next`. */
  #freeze(next: Journal | undefined): void {
    const journal = must(this.#current, "an open store has a journal");
    this.#old = { journal, sequence: this.#sequence };
    this.#current = next;
    this.#layers.freeze();
  }

  async #finishCheckpoint(): Promise<void> {
    const { base, directory, log } = this.#options;
    const { journal, sequence } = must(this.#old, "a frozen overlay has a journal");
    await this.#syncs.syncedTo(sequence);
    let rows = 0;
    for (const slice of this.#layers.frozenSlices(this.#limits.sliceRows)) {
      await base.apply("checkpoint.write", slice);
      rows += slice.length;
    }
    const mark = { ...this.#mark, journal: journal.number, sequence };
    await base.mark("checkpoint.flush", encodeMark(mark));
    this.#mark = mark;
    this.#layers.thaw();
    this.#old = undefined;
    log.debug("checkpoint.done", { journal: journal.number, sequence, rows });
    await journal.close();
    await directory
      .remove("journal.remove", journalName(journal.number))
      .catch((error: unknown) => log.warn("journal.not-removed", { error }));
  }

  async #newJournal(number: number): Promise<Journal> {
    const salt = Buffer.from(this.#options.uuid().slice(0, 8), "hex").readUInt32BE();
    const head = encodeJournalHead(this.#mark.store, number, salt);
    const name = journalName(number);
    const file = await this.#options.directory.create("journal.rotate", name, head);
    return new Journal(file, { number, salt });
  }

  // The end

  /** Leaves a base that is complete on its own, if the disk takes it. */
  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#syncTimer?.cancel();
    this.#checkpointTimer?.cancel();
    await this.#checkpointing;
    try {
      if (this.#old) await this.#finishCheckpoint();
      this.#freeze(undefined);
      await this.#finishCheckpoint();
    } catch (error) {
      // The journals stay, and are read at the next start.
      this.#options.log.error("checkpoint.failed", { error: storeFailure(error) });
    }
    this.#checkpointTimer?.cancel();
    await Promise.all([this.#old?.journal.close(), this.#current?.close()]);
    await this.#options.base.close();
  }
}
