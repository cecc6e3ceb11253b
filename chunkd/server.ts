import { type Address, formatAddress } from "../common/address.ts";
import { must } from "../common/assert.ts";
import { type Clock, sleep } from "../common/clock.ts";
import type { Disk } from "../common/disk.ts";
import type { Log } from "../common/log.ts";
import { UserError } from "../common/program.ts";
import { Tasks } from "../common/tasks.ts";
import { type Connection, Handlers, type Transport } from "../protocol/connection.ts";
import { accept, type Connect, Pool } from "../protocol/dial.ts";
import type { BootId } from "../protocol/id.ts";
import { StatusError } from "../protocol/status.ts";
import { listen as listenWebSocket, type Listener } from "../protocol/websocket.ts";
import { Cleaner } from "./background/cleaner.ts";
import { Membership, type MembershipHooks } from "./background/membership.ts";
import { Remover } from "./background/remover.ts";
import { Scrub } from "./background/scrub.ts";
import {
  cleanEveryMs,
  draftMsMax,
  failedWritesToldMax,
  scrubEveryMs,
  stopWaitMs,
} from "./limits.ts";
import { clientHandlers } from "./service/clients.ts";
import { orderHandlers } from "./service/orders.ts";
import { Requests } from "./service/requests.ts";
import type { OpenIndex } from "./store/chunk-index.ts";
import { DataDirectory } from "./store/directory.ts";
import { holdingsAfter, inventoryPages } from "./store/inventory.ts";
import { recover } from "./store/recover.ts";
import { openStore, type Store } from "./store/store.ts";
import { Admission } from "./write/admission.ts";
import { Writer } from "./write/write.ts";

export type Listen = (options: {
  address: Address;
  clock: Clock;
  onTransport: (transport: Transport, peer: string) => void;
}) => Promise<Listener>;

export interface ServerOptions {
  /** The data directory. */
  root: string;
  master: Address;
  /** Port 0: the one of the last run if it is free, else any. */
  listen: Address;
  /** HOST:PORT that others are told; absent: where the server listens. */
  advertise?: string | undefined;
  rack: string;
  /** For the logs of others. */
  name: string;
  reserveBytes?: number | undefined;
  /** Bytes per second that are read to verify them; 0 or absent: none. */
  scrubBytesPerSecond?: number | undefined;
  /** Another one whenever what was not synced may have been lost. */
  boot: BootId;
  disk: Disk;
  clock: Clock;
  log: Log;
  random: () => number;
  connect: Connect;
  listenWith?: Listen;
  openIndex?: OpenIndex;
}

/** A chunk server, assembled from parts that a test or a simulator may make itself. */
export class ChunkServer {
  readonly store: Store;
  readonly directory: DataDirectory;
  /** Rejects with what ended the server from within. */
  readonly failed: Promise<never>;
  readonly #options: ServerOptions;
  readonly #tasks: Tasks;
  readonly #requests = new Requests();
  readonly #cleaner: Cleaner;
  readonly #remover: Remover;
  readonly #admission: Admission;
  /** Undefined: it is off. */
  readonly #scrub: Scrub | undefined;
  readonly #clients = new Set<Connection>();
  #listener: Listener | undefined;
  #pool: Pool | undefined;
  #fail: (error: unknown) => void = () => undefined;
  #joined: () => void = () => undefined;
  readonly #joining: Promise<void>;

  private constructor(
    options: ServerOptions,
    parts: { directory: DataDirectory; store: Store; cleaner: Cleaner },
  ) {
    const { clock, log } = options;
    this.#options = options;
    this.directory = parts.directory;
    this.store = parts.store;
    this.#cleaner = parts.cleaner;
    this.#tasks = new Tasks({ clock, log });
    this.#admission = new Admission({ index: this.store.index, clock, log });
    const run = (work: () => Promise<void>): void => this.#tasks.run("remove", work);
    this.#remover = new Remover({ store: this.store, run });
    const bytesPerSecond = options.scrubBytesPerSecond ?? 0;
    const isBusy = (): boolean => this.#requests.underWay > 0;
    this.#scrub =
      bytesPerSecond > 0
        ? new Scrub({ store: this.store, clock, bytesPerSecond, isBusy })
        : undefined;
    this.failed = new Promise((_, reject) => {
      this.#fail = reject;
    });
    this.failed.catch(() => undefined); // Whoever cares waits for it.
    this.#joining = new Promise((resolve) => {
      this.#joined = resolve;
    });
  }

  /** Recovers the directory, listens, and begins to look for the master; does not wait for it. */
  static async start(options: ServerOptions): Promise<ChunkServer> {
    const { disk, clock, log, root } = options;
    const directory = await DataDirectory.open(disk, root);
    try {
      const { reserveBytes, openIndex } = options;
      const store = openStore({ root, disk, clock, log, reserveBytes, openIndex });
      await recover(store, { registered: directory.identity !== undefined });
      await store.space.refresh();
      const cleaner = new Cleaner(store);
      const server = new ChunkServer(options, { directory, store, cleaner });
      await server.#listen();
      server.#begin();
      return server;
    } catch (error) {
      await directory.release();
      throw error;
    }
  }

  get address(): string {
    return formatAddress(must(this.#listener, "a server that listens").address);
  }

  /** Resolves when the master has been told everything for the first time. */
  joined(): Promise<void> {
    return Promise.race([this.#joining, this.failed]);
  }

  /** Answers what is under way (for a bounded time), cleans, closes. */
  async stop(): Promise<void> {
    await this.#answered();
    await this.#disconnect();
    await this.#cleaner.finish();
    await this.#close();
    this.#options.log.event("server.stopped");
  }

  /** Ends as a crash would, as far as the disk is concerned: nothing is cleaned. */
  async halt(): Promise<void> {
    await this.#disconnect();
    await this.#answered();
    await this.#close();
  }

  async #answered(): Promise<void> {
    const done = new AbortController();
    const answered = this.#requests.stop().finally(() => done.abort());
    await Promise.race([answered, sleep(this.#options.clock, stopWaitMs, done.signal)]);
  }

  async #disconnect(): Promise<void> {
    await this.#tasks.stop();
    this.#admission.endLease(); // A write that still waits its turn will not begin.
    for (const client of this.#clients) client.close("the chunk server stops");
    this.#pool?.close();
    await this.#listener?.close();
  }

  async #close(): Promise<void> {
    this.store.files.closeAll();
    await this.store.drafts.close();
    await this.store.index.close();
    await this.directory.release();
  }

  async #listen(): Promise<void> {
    const { listen } = this.#options;
    const lastPort = listen.port === 0 ? await this.directory.lastPort() : undefined;
    this.#listener = await this.#listenOn(lastPort ?? listen.port).catch((error: unknown) => {
      if (lastPort === undefined || !(error instanceof StatusError)) throw asUserError(error);
      return this.#listenOn(0);
    });
    const { port } = this.#listener.address;
    if (port !== lastPort) await this.directory.rememberPort(port);
  }

  #listenOn(port: number): Promise<Listener> {
    const { boot, clock, listen, listenWith, log } = this.#options;
    const writer = new Writer({
      store: this.store,
      admission: this.#admission,
      pool: () => this.#peers(),
      self: () => this.directory.identity?.server,
      boot,
    });
    const requests = this.#requests;
    const handlersFor = clientHandlers({ store: this.store, writer, requests, boot });
    return (listenWith ?? listenWebSocket)({
      address: { host: listen.host, port },
      clock,
      onTransport: (transport, peer) => {
        const connection = accept(transport, {
          peer,
          cluster: () => this.directory.identity?.cluster ?? "",
          handlersFor,
          onReady: (ready, { role }) => log.debug("client.joined", { peer: ready.peerName, role }),
          clock,
          log,
        });
        this.#clients.add(connection);
        connection.onClose(() => this.#clients.delete(connection));
      },
    });
  }

  #begin(): void {
    const { clock, connect, log, master, name, rack, random } = this.#options;
    const { store } = this;
    const membership = new Membership({
      master,
      advertised: this.#options.advertise ?? this.address,
      rack,
      name,
      directory: this.directory,
      orders: orderHandlers({
        store,
        admission: this.#admission,
        remover: this.#remover,
        requests: this.#requests,
        pool: () => this.#peers(),
      }),
      hooks: this.#hooks(),
      onJoined: () => this.#joined(),
      connect,
      clock,
      log,
      random,
    });
    store.faults.onBad((bad) => {
      this.#scrub?.suspect(bad.handle);
      this.#tasks.run("report", () => membership.reportBad(bad));
    });
    this.#tasks.run("membership", () =>
      membership.run(this.#tasks.signal).catch((error: unknown) => this.#fail(error)),
    );
    this.#tasks.every("clean", cleanEveryMs, () => this.#cleaner.tick());
    this.#tasks.every("drafts", draftMsMax / 10, () => store.drafts.expire());
    const scrub = this.#scrub;
    if (scrub) {
      this.#tasks.every("scrub", scrubEveryMs, () => scrub.runIfDue(this.#tasks.signal));
    }
    this.#tasks.every("space", cleanEveryMs, () => store.space.refresh());
    log.event("server.listening", { address: this.address, chunks: store.table.count });
  }

  #hooks(): MembershipHooks {
    const { store } = this;
    return {
      usage: async () => {
        await store.space.refresh();
        const { health, trouble } = store.space;
        return {
          usedBytes: store.table.usedBytes,
          freeBytes: store.space.freeBytes,
          chunks: store.table.count,
          corruptBlocks: store.faults.corruptBlocks,
          disk: health,
          ...(trouble === undefined ? {} : { diskTrouble: trouble }),
          ...(this.#scrub ? { scrub: this.#scrub.report } : {}),
        };
      },
      pages: () => inventoryPages(store),
      holdings: (after) => holdingsAfter(store, after),
      removed: () => this.#remover.removed(),
      removedReported: (handles) => this.#remover.reported(handles),
      askRemovals: (send) => this.#remover.ask(send),
      bad: () => store.faults.bad(),
      failedWrites: () => store.faults.failedWrites(failedWritesToldMax),
      heard: async ({ sentAtMs, leaseMs, epoch }) => {
        await this.#admission.adopt(epoch);
        this.#admission.renewLease(sentAtMs, leaseMs);
      },
    };
  }

  /** Connections to other servers. There are none before the first registration. */
  #peers(): Pool {
    const { clock, connect, log, name, random } = this.#options;
    const cluster = this.directory.identity?.cluster;
    if (cluster === undefined) throw new StatusError("unavailable", "not registered yet");
    this.#pool ??= new Pool(
      { connect, role: "chunkd", name, cluster, handlers: new Handlers(), clock, log },
      random,
    );
    return this.#pool;
  }
}

function asUserError(error: unknown): unknown {
  return error instanceof StatusError ? new UserError(error.message) : error;
}
