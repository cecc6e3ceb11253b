import { hostname, networkInterfaces } from "node:os";
import type { Address } from "../common/address.ts";
import { type Clock, sleep } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { Tasks } from "../common/tasks.ts";
import { Handlers } from "../protocol/connection.ts";
import { type Connect, Pool, websocketConnect } from "../protocol/dial.ts";
import { release } from "../protocol/methods/namespace.ts";
import { AccessTimes } from "./client/access-times.ts";
import { ChunkReader } from "./client/chunk-reader.ts";
import { ChunkWriter } from "./client/chunk-writer.ts";
import type { Place } from "./client/distance.ts";
import { LockClient } from "./client/lock-client.ts";
import { MasterClient, type MasterHooks } from "./client/master-client.ts";
import { MetaCache } from "./client/meta-cache.ts";
import { ReadAheadBudget } from "./client/read-ahead.ts";
import { Tails } from "./client/tails.ts";
import { WriteBack } from "./client/write-back.ts";
import type { FileSystem } from "./fuse/filesystem.ts";
import { attributeOps } from "./ops/attributes.ts";
import type { Context } from "./ops/context.ts";
import { directoryOps } from "./ops/directories.ts";
import { fileOps } from "./ops/files.ts";
import { Kernel, kernelOps } from "./ops/kernel.ts";
import { lockOps } from "./ops/locks.ts";
import { nameOps } from "./ops/names.ts";
import { Nodes } from "./ops/nodes.ts";
import { OpenFiles } from "./ops/open-files.ts";
import { rangeOps } from "./ops/ranges.ts";

/** Written data does not lie here longer than this, so that others see files grow. */
const writeBackEveryMs = 500;
const writeBackIdleMs = 400;

/** How often is looked for servers to be asked whether they still run. */
const bootsEveryMs = 10_000;

/** Nobody waits for the times of reading: they are told to the master together. */
const accessesEveryMs = 1_000;

/** A hard mount that ends while its servers are gone gives them this long. */
const closeMsMax = 30_000;
/** What is under way then ends by itself as soon as it looks. */
const stopMsMax = 5_000;

interface ConnectOptions {
  master: Address;
  /** Soft mounts give up on an operation after `timeoutMs`; hard ones wait. */
  soft: boolean;
  timeoutMs: number;
  /** List `.snapshots` in every directory. */
  showSnapshots: boolean;
  /** Reading moves atime; not on a mount with noatime, or a read-only one. */
  accessTimes: boolean;
  mountpoint: string;
  /** This machine's, for choosing the nearest replica; "" if unknown. */
  rack: string;
  clock: Clock;
  log: Log;
  random: () => number;
  uuid: () => string;
  /** Absent: WebSockets. */
  connect?: Connect;
}

/**
 * The filesystem of a cluster. Rejects with `unavailable` and the reason if its master does not
 * answer. `close` sends and commits what is unwritten.
 */
export async function connectFileSystem(
  options: ConnectOptions,
): Promise<{ fileSystem: FileSystem; close(): Promise<void> }> {
  const { clock, log } = options;
  const tasks = new Tasks({ clock, log });
  const context = createContext(options, tasks);
  const { master, writeBack, accesses } = context;
  try {
    await master.start();
  } catch (error) {
    await tasks.stop();
    throw error;
  }
  tasks.every("write-back", writeBackEveryMs, async () => {
    for (const work of writeBack.tick(writeBackIdleMs)) tasks.run("write-back.file", () => work);
  });
  tasks.every("boots", bootsEveryMs, () => context.writer.tick());
  tasks.every("accesses", accessesEveryMs, () => accesses.tell());
  return {
    fileSystem: assemble(context),
    close: () => closeClient(context, tasks, options.soft ? options.timeoutMs : closeMsMax),
  };
}

/**
 * Nobody waits for an unmounted filesystem to come back: what cannot be written in time is lost,
 * and the log says what.
 */
async function closeClient(
  { writeBack, accesses, master, pool, clock, log }: Context & { pool: Pool },
  tasks: Tasks,
  flushMs: number,
): Promise<void> {
  const flushed = writeBack
    .flushAll()
    .then(() => accesses.tell())
    .catch((error: unknown) => log.error("close.failed", { error }));
  await atMost(clock, flushMs, flushed);
  for (const { ino, end } of writeBack.unwritten()) log.error("close.lost", { ino, end });
  const stopped = tasks.stop();
  await atMost(clock, stopMsMax, master.close());
  pool.close();
  await atMost(clock, stopMsMax, stopped);
}

async function atMost(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  const done = new AbortController();
  await Promise.race([work.finally(() => done.abort()), sleep(clock, ms, done.signal)]);
}

/** All parts of the client, which know each other. */
function createContext(options: ConnectOptions, tasks: Tasks): Context & { pool: Pool } {
  const { clock, log, random, showSnapshots, mountpoint } = options;
  const timeoutMs = options.soft ? options.timeoutMs : undefined;
  const connect = options.connect ?? websocketConnect(clock);
  const name = `${hostname()} pid ${process.pid}`;
  const cache = new MetaCache(() => master.believesForMs > 0);
  const kernel = new Kernel({ clock, log });
  const hooks = masterHooks(() => ({
    cache,
    kernel,
    reader,
    writer,
    writeBack,
    files,
    tails,
    locks,
  }));
  const master: MasterClient = new MasterClient({
    ...{ connect, mountpoint, name, timeoutMs, clock, log, tasks, random, ...hooks },
    address: options.master,
    secret: options.uuid(),
  });
  const dialled = { connect, role: "mount", name, handlers: new Handlers(), clock, log } as const;
  const pool = new Pool({ ...dialled, cluster: () => master.cluster }, random);
  const stop = tasks.signal;
  const shared = { master, pool, clock, random, timeoutMs, log, stop };
  const reader = new ChunkReader({ ...shared, place: ownPlace(options.rack) });
  const writer = new ChunkWriter(shared);
  const tails = new Tails({
    ...{ master, clock, ticket: () => cache.ticket() },
    onAttr: (attr, ticket) => void cache.putAttr(attr, ticket),
  });
  const writeBack: WriteBack = new WriteBack({
    ...shared,
    ...{ writer, tails },
    sizeOf: (ino) => cache.attr(ino)?.size,
    // Who was cut off for longer than his lease has lost his locks, and may not know it yet.
    admit: (ino) => (master.isAlive || !locks.guards(ino) ? undefined : master.renewed()),
    onSent: (ino) => {
      files.changed(ino);
      reader.forget(ino);
    },
    onLost: (ino) => {
      files.changed(ino);
      reader.forget(ino);
      cache.dropAttr(ino);
    },
    ticket: () => cache.ticket(),
    onCommitted: (attr, ticket) => void cache.changedAttr(attr, ticket),
  });
  const locks: LockClient = new LockClient({
    ...{ master, clock, log, tasks },
    onLost: (ino) => {
      writeBack.abandon(ino);
      kernel.dropContents(ino);
    },
  });
  const files: OpenFiles = new OpenFiles({
    clock,
    tasks,
    tell: async (inos) => {
      await master.read(release, () => ({ inos: inos() }));
    },
  });
  const accesses = new AccessTimes({ clock, cache, master, enabled: options.accessTimes });
  const parts = { master, cache, reader, writer, writeBack, tails, accesses, locks, files, kernel };
  return { ...parts, clock, log, showSnapshots, nodes: new Nodes(), pool };
}

type Parts = Pick<
  Context,
  "cache" | "kernel" | "reader" | "writer" | "writeBack" | "files" | "tails" | "locks"
>;

/** What the master's messages, and the end of its connection, do to the other parts. */
function masterHooks(parts: () => Parts): MasterHooks {
  const dropEverything = (): Promise<void> => {
    const { cache, reader, writer, files, kernel } = parts();
    cache.clear();
    reader.forgetAll();
    writer.forgetAll();
    files.allChanged();
    return kernel.allChanged();
  };
  return {
    onInvalidate: (changes) => {
      if (changes.everything) return dropEverything();
      const { cache, reader, writer, files, kernel } = parts();
      cache.invalidate(changes.inos, changes.entries);
      for (const ino of changes.inos) files.unpark(ino);
      for (const ino of changes.contents) {
        reader.forget(ino);
        // The chunks may have been cut off: the master waits for this before it frees them.
        writer.forget(ino);
        files.changed(ino);
      }
      return kernel.changed(changes);
    },
    onDisconnect: () => {
      parts().files.disconnected();
      parts().tails.dropAll();
      return dropEverything();
    },
    onSession: (connection, resumed) => parts().locks.connected(connection, resumed),
    onLockReady: (tickets) => parts().locks.ready(tickets),
    onRecall: async (ino, number) => {
      await parts().tails.giveUp(ino, number);
      await parts().writeBack.settle(ino);
    },
    onFlush: () => parts().writeBack.flushAll(),
    opens: () => parts().files.inos(),
  };
}

function assemble(context: Context): FileSystem {
  return {
    ...attributeOps(context),
    ...nameOps(context),
    ...fileOps(context, new ReadAheadBudget()),
    ...directoryOps(context),
    ...rangeOps(context),
    ...lockOps(context),
    ...kernelOps(context),
  };
}

function ownPlace(rack: string): Place {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return { hosts: new Set(addresses.map(({ address }) => address)), rack };
}
