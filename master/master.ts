import type { Clock } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { sleep } from "../common/clock.ts";
import { Tasks } from "../common/tasks.ts";
import type { Transport } from "../protocol/connection.ts";
import { accept } from "../protocol/dial.ts";
import { sessionLeaseMs } from "../protocol/limits.ts";
import { Fsck } from "./background/fsck.ts";
import { reclaimTrash } from "./background/reclaim.ts";
import { Repair, type RepairOptions } from "./background/repair/repair.ts";
import { sweepHistory } from "./background/sweep.ts";
import { Chunks } from "./chunks/chunks.ts";
import { Fleet } from "./fleet/fleet.ts";
import { FleetService } from "./fleet/inventory.ts";
import { ServerModes } from "./fleet/modes.ts";
import { openFormat } from "./format.ts";
import { Committer, type SyncMode } from "./namespace/committer.ts";
import { NamespaceReader } from "./namespace/ops/read.ts";
import { FileService } from "./service/files.ts";
import { FreshWrites } from "./service/fresh-writes.ts";
import { handlersFor } from "./service/handlers.ts";
import { LockService } from "./service/locks.ts";
import { Sessions } from "./service/sessions.ts";
import { SnapshotService } from "./service/snapshots.ts";
import { replicasDefault, StatusService } from "./service/status.ts";
import type { Store } from "./store/store.ts";

/** How often the background looks for work, when nothing tells it. */
const reclaimMs = 300;
const fleetMs = 1_000;
const expireMs = 2_000;

interface MasterOptions {
  store: Store;
  clock: Clock;
  log: Log;
  random: () => number;
  uuid: () => string;
  version: string;
  chunkBytes: number;
  owner: { uid: number; gid: number };
  sync?: SyncMode;
  /** Chunks of a server that is down are copied elsewhere after this. */
  graceMs?: number | undefined;
  repair?: RepairOptions;
  /** A chunk is not written to with fewer replicas. */
  minReplicas?: number;
}

/**
 * The master: its parts, put together. Everything from outside comes in through the constructor.
 */
export class Master {
  readonly cluster: string;
  readonly chunkBytes: number;
  readonly committer: Committer;
  readonly reader: NamespaceReader;
  readonly fleet: Fleet;
  readonly chunks: Chunks;
  readonly sessions: Sessions;
  readonly freshWrites: FreshWrites;
  readonly files: FileService;
  readonly locks: LockService;
  readonly snapshots: SnapshotService;
  readonly fleetService: FleetService;
  readonly repair: Repair;
  readonly modes: ServerModes;
  readonly fsck: Fsck;
  readonly status: StatusService;
  /** HOST:PORT where it listens, once it does. */
  address = "";
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #tasks: Tasks;
  #sweepWanted = true;

  constructor(options: MasterOptions) {
    const { store, clock, log } = options;
    this.freshWrites = new FreshWrites(clock);
    this.#store = store;
    this.#clock = clock;
    this.#log = log;
    this.#tasks = new Tasks({ clock, log });
    const format = openFormat(store, {
      cluster: options.uuid(),
      chunkBytes: options.chunkBytes,
      replicas: replicasDefault,
      nowNs: clock.wallNs(),
      ...options.owner,
    });
    const { cluster, chunkBytes } = format;
    this.cluster = cluster;
    this.chunkBytes = chunkBytes;
    const committer = (this.committer = new Committer(store, clock, {
      sync: options.sync ?? "batch",
    }));
    const reader = (this.reader = new NamespaceReader(store, chunkBytes));
    const fleet = (this.fleet = new Fleet(clock, options));
    const sessions = (this.sessions = new Sessions({ ...options, committer }));
    const chunks = (this.chunks = new Chunks({ ...options, committer, fleet, chunkBytes }));
    this.files = new FileService({
      ...{ committer, chunks, sessions, reader, chunkBytes, clock, log },
      fenced: (work) => this.snapshots.fenced(work),
      freeBytes: () => this.status.statfs().freeBytes,
    });
    this.locks = new LockService({ sessions, log });
    this.snapshots = new SnapshotService({
      committer,
      chunks,
      fleet,
      sessions,
      reader,
      clock,
      log,
    });
    this.fleetService = new FleetService({ committer, fleet, chunks, clock, log });
    const { random } = options;
    const repair = (this.repair = new Repair({
      ...{ store, chunks, fleet, clock, log, chunkBytes, random },
      ...options.repair,
    }));
    const { census } = repair;
    const modes = (this.modes = new ServerModes({ fleet, committer, census, clock, log }));
    const { snapshots } = committer;
    const fsck = new Fsck({ store, chunks, fleet, reader, snapshots, chunkBytes, log });
    this.fsck = fsck;
    const address = (): string => this.address;
    const { version } = options;
    this.status = new StatusService({
      ...{ cluster, version, address, committer, fleet, modes, repair, fsck, sessions, reader },
      clock,
    });
    this.#connectParts();
  }

  #connectParts(): void {
    this.committer.onGarbage = (garbage) => {
      for (const { handle, servers } of garbage) this.chunks.sets.discard(handle, servers);
    };
    this.committer.onCommit = (touched, origin) => this.sessions.invalidateOthers(touched, origin);
    this.sessions.onEnd = (session) => this.locks.end(session);
    const { repair, fsck } = this;
    this.committer.onChunks = (handles) => {
      for (const handle of handles) {
        repair.census.note(handle);
        fsck.review(handle);
      }
    };
    this.chunks.sets.locations.onChange = (handle) => repair.census.note(handle);
    this.chunks.onAwaited = (handle) => repair.hurry(handle);
    this.chunks.sets.onShrunk = (handle) => repair.shrunk(handle);
    this.fleetService.onChange = () => repair.wake();
    this.modes.onChange = () => repair.wake();
  }

  /** Loads what is remembered of servers and mounts, and starts the background work. */
  async start(): Promise<void> {
    this.fleet.load(this.#store);
    this.sessions.load();
    this.locks.start();
    this.chunks.sets.unsettled.load(this.#store);
    // A snapshot that was under way when the master stopped may have fenced servers at the next
    // epoch.
    await this.committer.run((txn) => this.committer.raiseEpoch(txn));
    const { signal } = this.#tasks;
    this.#tasks.every("reclaim", reclaimMs, async () => {
      const damaged = (error: unknown): void => this.#log.error("reclaim.damaged", { error });
      while (!signal.aborted && (await reclaimTrash(this.committer, damaged))) continue;
    });
    this.#tasks.every("sweep", reclaimMs, async () => {
      if (!this.#sweepWanted) return;
      this.#sweepWanted = false;
      const damaged = (error: unknown): void => this.#log.error("sweep.damaged", { error });
      await sweepHistory(this.committer, signal, damaged);
    });
    this.#tasks.every("fleet", fleetMs, async () => {
      await this.modes.advance();
    });
    this.#tasks.every("mend", fleetMs, () => this.fleetService.bad.mend());
    this.#tasks.every("failed-writes", fleetMs, () => this.fleetService.settleFailedWrites());
    this.repair.start(this.#tasks);
    this.#tasks.every("expire", expireMs, () => this.sessions.expire());
    this.#tasks.run("orphans", async () => {
      await sleep(this.#clock, sessionLeaseMs, signal);
      if (signal.aborted) return;
      await this.sessions.expire();
      await this.sessions.discardForgottenOrphans();
    });
  }

  /** Answers a peer that has connected. */
  accept(transport: Transport, peer: string): void {
    accept(transport, {
      peer,
      cluster: () => this.cluster,
      handlersFor: (role) => handlersFor(this, role),
      onReady: (connection) => this.#log.event("peer.connected", { peer: connection.peerName }),
      clock: this.#clock,
      log: this.#log,
    });
  }

  /** A snapshot has gone: what only it showed can be swept. */
  sweepSoon(): void {
    this.#sweepWanted = true;
  }

  async stop(): Promise<void> {
    await this.#tasks.stop();
    await this.#store.close();
  }
}
