#!/usr/bin/env node
import { randomUUID } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { type Address, formatAddress, masterAddressDefault } from "../common/address.ts";
import { createLog, type Log } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import { lmdbFileFault } from "../common/os/lmdb-file.ts";
import { systemDisk } from "../common/os/disk.ts";
import { systemJournalDirectory } from "../common/os/journal-file.ts";
import { releaseVersion } from "../common/os/version.ts";
import {
  addressFrom,
  runMain,
  terminationSignal,
  usageError,
  UserError,
} from "../common/program.ts";
import { replicasMax } from "../protocol/methods/namespace.ts";
import { StatusError } from "../protocol/status.ts";
import { listen } from "../protocol/websocket.ts";
import { Master } from "./master.ts";
import type { SyncMode } from "./namespace/committer.ts";
import { openJournaledStore } from "./store/journaled.ts";
import { openLmdbBase } from "./store/lmdb.ts";
import type { Store } from "./store/store.ts";

const chunkMiBDefault = 64;
const chunkMiBMax = 1024;

interface Arguments {
  address: Address;
  data: string;
  chunkBytes: number;
  sync: SyncMode;
  minReplicas: number;
}

function parseArguments(): Arguments {
  const parsed = yargs(hideBin(process.argv))
    .scriptName("gfs-master")
    .usage("$0 [IP:PORT] --data DIR\n\nKeeps the metadata of a gfs cluster.")
    .option("data", {
      type: "string",
      default: join(homedir(), ".local/share/gfs/master"),
      describe: "directory for the metadata, made if missing",
    })
    .option("chunk-size", {
      type: "number",
      default: chunkMiBDefault,
      describe: "MiB per chunk; fixed when the filesystem is made",
    })
    .option("sync", {
      choices: ["batch", "always"] as const,
      default: "batch" as const,
      describe:
        "answer a change when it survives kill -9 (batch; power loss within a second, or by " +
        "fsync), or when it survives power loss (always)",
    })
    .option("min-replicas", {
      type: "number",
      default: 1,
      describe: "a chunk is written to only while so many of its servers are there: writers wait",
    })
    .version(releaseVersion())
    .strict()
    .demandCommand(0, 1)
    .fail((message, error) => {
      throw usageError("gfs-master", message, error);
    })
    .parseSync();
  const text = parsed._[0] === undefined ? undefined : String(parsed._[0]);
  const fallback = process.env["GFS_MASTER"] ?? masterAddressDefault;
  const address = text
    ? addressFrom(text, "the address to listen on")
    : addressFrom(fallback, "GFS_MASTER");
  const mib = parsed["chunk-size"];
  if (!Number.isInteger(mib) || mib < 1 || mib > chunkMiBMax || (mib & (mib - 1)) !== 0) {
    throw new UserError(`--chunk-size: a power of two from 1 to ${chunkMiBMax} MiB, not ${mib}`);
  }
  const minReplicas = parsed["min-replicas"];
  if (!Number.isInteger(minReplicas) || minReplicas < 1 || minReplicas > replicasMax) {
    throw new UserError(`--min-replicas: a number from 1 to ${replicasMax}, not ${minReplicas}`);
  }
  const { data, sync } = parsed;
  return { address, data, chunkBytes: mib * 1024 * 1024, sync, minReplicas };
}

/** Refuses a directory that something else lives in, before anything is written to it. */
async function openData(data: string, log: Log): Promise<Store> {
  try {
    mkdirSync(data, { recursive: true });
    accessSync(data, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new UserError(`--data ${data}: cannot be used: ${reason}`);
  }
  const isOurs = existsSync(join(data, "data.mdb"));
  if (!isOurs && readdirSync(data).some((name) => name !== "lost+found")) {
    throw new UserError(
      `--data ${data}: not empty, and not a gfs-master's: choose another directory`,
    );
  }
  if (!(await systemDisk.lockDirectory("data.lock", data))) {
    throw new UserError(`--data ${data}: another gfs-master is running on it`);
  }
  const fault = lmdbFileFault(join(data, "data.mdb"));
  if (fault) {
    throw new UserError(`--data ${data}: data.mdb is damaged: ${fault}: restore it from a backup`);
  }
  try {
    const base = openLmdbBase(data);
    const directory = systemJournalDirectory(data);
    return await openJournaledStore({ base, directory, clock: systemClock, log, uuid: randomUUID });
  } catch (error) {
    if (error instanceof UserError) throw new UserError(`--data ${data}: ${error.message}`);
    const reason = error instanceof Error ? error.message : String(error);
    throw new UserError(`--data ${data}: the metadata cannot be opened: ${reason}`);
  }
}

await runMain("gfs-master", async () => {
  const { address, data, chunkBytes, sync, minReplicas } = parseArguments();
  const log = createLog("gfs-master", process.env["GFS_LOG"] ?? "info");
  const store = await openData(data, log);
  const master = new Master({
    store,
    clock: systemClock,
    log,
    random: Math.random,
    uuid: randomUUID,
    version: releaseVersion(),
    chunkBytes,
    sync,
    minReplicas,
    owner: { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 },
  });
  master.address = formatAddress(address);
  await master.start();
  const listener = await listen({
    address,
    clock: systemClock,
    onTransport: (transport, peer) => master.accept(transport, peer),
    onHttp: (request, response) => {
      if (request.url === "/healthz") response.writeHead(200).end("ok\n");
      else response.writeHead(426).end("gfs-master speaks WebSocket here\n");
    },
  }).catch((error: unknown) => {
    throw error instanceof StatusError ? new UserError(error.message) : error;
  });
  master.address = formatAddress(listener.address);
  log.event("master.ready", { address: master.address, cluster: master.cluster, data });
  const signal = await terminationSignal();
  log.event("master.stopping", { signal });
  await listener.close();
  await master.stop();
  process.exit(0);
});
