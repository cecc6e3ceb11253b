#!/usr/bin/env node
import { hostname } from "node:os";
import { resolve } from "node:path";
import yargs from "yargs";
import { formatAddress, masterAddressDefault } from "../common/address.ts";
import { createLog } from "../common/log.ts";
import { systemBoot } from "../common/os/boot.ts";
import { systemClock } from "../common/os/clock.ts";
import { systemDisk } from "../common/os/disk.ts";
import {
  addressFrom,
  runMain,
  terminationSignal,
  usageError,
  UserError,
} from "../common/program.ts";
import { websocketConnect } from "../protocol/dial.ts";
import { bootId } from "../protocol/id.ts";
import { scrubMibDefault } from "./limits.ts";
import { ChunkServer, type ServerOptions } from "./server.ts";

/** gfs-chunkd: keeps chunks in a directory. Here is only what comes from the command line. */

const wildcards = new Set(["0.0.0.0", "::"]);

async function options(): Promise<Omit<ServerOptions, "log">> {
  const argv = await yargs(process.argv.slice(2))
    .scriptName("gfs-chunkd")
    .usage("$0 --data DIR [--master HOST:PORT] [options]")
    .option("master", {
      type: "string",
      describe: "the master's address; default from GFS_MASTER",
      default: process.env["GFS_MASTER"] ?? masterAddressDefault,
    })
    .option("data", {
      type: "string",
      describe: "directory for the chunks; made if need be",
      demandOption: true,
    })
    .option("listen", {
      type: "string",
      describe: "IP:PORT to listen on; port 0 is any free one, kept across restarts",
      default: "127.0.0.1:0",
    })
    .option("advertise", {
      type: "string",
      describe: "HOST:PORT that others are told; default: where it listens",
    })
    .option("rack", { type: "string", describe: "name of the rack", default: "" })
    .option("reserve", {
      type: "number",
      describe: "bytes of disk to leave free; default 256 MiB, at most a tenth of the disk",
    })
    .option("scrub-rate", {
      type: "number",
      describe: "MiB per second that are read to verify checksums, 0: none",
      default: scrubMibDefault,
    })
    .strict()
    .fail((message, error) => {
      throw usageError("gfs-chunkd", message, error);
    })
    .parseAsync();
  const listen = addressFrom(argv.listen, "--listen");
  if (wildcards.has(listen.host) && argv.advertise === undefined) {
    throw new UserError(`--listen ${argv.listen}: say with --advertise where others reach it`);
  }
  if (argv.advertise !== undefined) addressFrom(argv.advertise, "--advertise");
  if (argv.reserve !== undefined && !(argv.reserve >= 0)) {
    throw new UserError("--reserve: must be a number of bytes, 0 or more");
  }
  const scrubMib = argv["scrub-rate"];
  if (!(scrubMib >= 0)) throw new UserError("--scrub-rate: must be MiB per second, 0 or more");
  return {
    root: resolve(argv.data),
    master: addressFrom(argv.master, "--master"),
    listen,
    advertise: argv.advertise,
    rack: argv.rack,
    name: `${hostname()}/${process.pid}`,
    reserveBytes: argv.reserve,
    scrubBytesPerSecond: scrubMib * 1024 * 1024,
    boot: bootId(systemBoot()),
    disk: systemDisk,
    clock: systemClock,
    random: Math.random,
    connect: websocketConnect(systemClock),
  };
}

await runMain("gfs-chunkd", async () => {
  const parsed = await options();
  const log = createLog("gfs-chunkd", process.env["GFS_LOG"] ?? "info");
  const server = await ChunkServer.start({ ...parsed, log });
  log.debug("server.options", { root: parsed.root, master: formatAddress(parsed.master) });
  const signal = await Promise.race([terminationSignal(), server.failed]);
  log.event("server.stopping", { signal });
  await server.stop();
  process.exit(0);
});
