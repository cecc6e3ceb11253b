import { hostname, networkInterfaces } from "node:os";
import type { Address } from "../common/address.ts";
import type { Clock } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { Tasks } from "../common/tasks.ts";
import { Handlers } from "../protocol/connection.ts";
import { Pool, websocketConnect } from "../protocol/dial.ts";
import { release } from "../protocol/methods/namespace.ts";
import type { Attr } from "../protocol/shapes.ts";
import { ChunkReader } from "./client/chunk-reader.ts";
import { ChunkWriter } from "./client/chunk-writer.ts";
import type { Place } from "./client/distance.ts";
import { MasterClient } from "./client/master-client.ts";
import { MetaCache } from "./client/meta-cache.ts";
import { ReadAheadBudget } from "./client/read-ahead.ts";
import { WriteBack } from "./client/write-back.ts";
import type { FileSystem } from "./fuse/filesystem.ts";
import { attributeOps } from "./ops/attributes.ts";
import type { Context } from "./ops/context.ts";
import { directoryOps } from "./ops/directories.ts";
import { fileOps } from "./ops/files.ts";
import { nameOps } from "./ops/names.ts";
import { Nodes } from "./ops/nodes.ts";
import { OpenFiles } from "./ops/open-files.ts";

/** Written data does not lie here longer than this, so that others see files grow. */
const writeBackEveryMs = 500;
const writeBackIdleMs = 400;

export interface ConnectOptions {
  master: Address;
  /** Soft mounts give up on an operation after `timeoutMs`; hard ones wait. */
  soft: boolean;
  timeoutMs: number;
  /** List `.snapshots` in every directory. */
  showSnapshots: boolean;
  mountpoint: string;
  clock: Clock;
  log: Log;
}

/** The filesystem of a cluster. Rejects with `unavailable` and the reason if its master does not answer. */
export async function connectFileSystem(
  options: ConnectOptions,
): Promise<{ fileSystem: FileSystem; close(): Promise<void> }> {
  const { clock, log } = options;
  const random = Math.random;
  const timeoutMs = options.soft ? options.timeoutMs : undefined;
  const tasks = new Tasks({ clock, log });
  const connect = websocketConnect(clock);
  const name = `${hostname()} pid ${process.pid}`;
  const cache = new MetaCache();
  const master: MasterClient = new MasterClient({
    address: options.master,
    connect,
    mountpoint: options.mountpoint,
    name,
    timeoutMs,
    clock,
    log,
    tasks,
    random,
    onInvalidate: (inos, entries) => {
      cache.invalidate(inos, entries);
      for (const ino of inos) {
        reader.forget(ino);
        files.changed(ino);
      }
    },
    onDisconnect: () => {
      cache.clear();
      reader.forgetAll();
    },
    onFlush: () => writeBack.flushAll(),
    opens: () => files.inos(),
  });
  const pool = new Pool(
    {
      connect,
      role: "mount",
      name,
      handlers: new Handlers(),
      clock,
      log,
      cluster: () => master.cluster,
    },
    random,
  );
  const shared = { master, pool, clock, random, timeoutMs };
  const reader = new ChunkReader({ ...shared, place: ownPlace() });
  const writer = new ChunkWriter({ ...shared, log });
  const onCommitted = (attr: Attr): void => {
    cache.dropAttr(attr.ino);
    cache.putAttr(attr, cache.ticket());
  };
  const writeBack = new WriteBack({ master, writer, clock, log, onCommitted });
  const files: OpenFiles = new OpenFiles({
    clock,
    tasks,
    tell: async (inos) => {
      const open = new Set(files.inos());
      await master.read(release, { inos: inos.filter((ino) => !open.has(ino)) });
    },
  });
  const nodes = new Nodes();
  const { showSnapshots } = options;
  const context: Context = {
    master,
    cache,
    reader,
    writer,
    writeBack,
    nodes,
    files,
    clock,
    log,
    showSnapshots,
  };
  await master.start();
  tasks.every("write-back", writeBackEveryMs, () => writeBack.tick(writeBackIdleMs));
  return {
    fileSystem: assemble(context),
    close: async () => {
      await writeBack.flushAll();
      await tasks.stop();
      await master.close();
      pool.close();
    },
  };
}

function assemble(context: Context): FileSystem {
  return {
    ...attributeOps(context),
    ...nameOps(context),
    ...fileOps(context, new ReadAheadBudget()),
    ...directoryOps(context),
  };
}

function ownPlace(): Place {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return {
    hosts: new Set(addresses.map(({ address }) => address)),
    rack: process.env["GFS_RACK"] ?? "",
  };
}
