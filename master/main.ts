#!/usr/bin/env node
import { randomUUID } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { formatAddress } from "../common/address.ts";
import { createLog, type Log } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import { lmdbFileFault } from "../common/os/lmdb-file.ts";
import { systemDisk } from "../common/os/disk.ts";
import { systemJournalDirectory } from "../common/os/journal-file.ts";
import { releaseVersion } from "../common/os/version.ts";
import { runMain, terminationSignal, UserError } from "../common/program.ts";
import { StatusError } from "../protocol/status.ts";
import { listen } from "../protocol/websocket.ts";
import { parseArguments } from "./arguments.ts";
import { runCheck } from "./check/command.ts";
import { Master } from "./master.ts";
import { openJournaledStore } from "./store/journaled.ts";
import { openLmdbBase } from "./store/lmdb.ts";
import type { Store } from "./store/store.ts";

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
  const harmless = ["lost+found", "lock.mdb"];
  if (!isOurs && readdirSync(data).some((name) => !harmless.includes(name))) {
    throw new UserError(
      `--data ${data}: not empty, and not a gfs-master's: choose another directory`,
    );
  }
  await lockWhole(data);
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

/** Takes the directory for this process, if what is in it can be opened at all. */
async function lockWhole(data: string): Promise<void> {
  if (!(await systemDisk.lockDirectory("data.lock", data))) {
    throw new UserError(`--data ${data}: another gfs-master is running on it`);
  }
  const fault = lmdbFileFault(join(data, "data.mdb"));
  if (fault) {
    throw new UserError(`--data ${data}: data.mdb is damaged: ${fault}: restore it from a backup`);
  }
}

/** `--check`: returns the exit code. */
async function check(data: string, log: Log): Promise<number> {
  if (!existsSync(join(data, "data.mdb"))) {
    throw new UserError(`--data ${data}: there is no data.mdb to check`);
  }
  await lockWhole(data);
  const base = openLmdbBase(data, { readOnly: true });
  const directory = systemJournalDirectory(data);
  const print = (line: string): void => void process.stdout.write(`${line}\n`);
  try {
    return runCheck({ base, directory, log, print });
  } catch (error) {
    if (error instanceof UserError) throw new UserError(`--data ${data}: ${error.message}`);
    throw error;
  } finally {
    await base.close();
  }
}

await runMain("gfs-master", async () => {
  const {
    address,
    data,
    check: checks,
    ...settings
  } = parseArguments(process.argv, process.env["GFS_MASTER"]);
  const log = createLog("gfs-master", process.env["GFS_LOG"] ?? (checks ? "warn" : "info"));
  if (checks) {
    process.exitCode = await check(data, log);
    return;
  }
  const store = await openData(data, log);
  const master = new Master({
    store,
    clock: systemClock,
    log,
    random: Math.random,
    uuid: randomUUID,
    version: releaseVersion(),
    ...settings,
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
