import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import yargs from "yargs";
import { withMaster } from "../cli/admin.ts";
import { NamespaceSession } from "../cli/session.ts";
import { must } from "../common/assert.ts";
import { sleep } from "../common/clock.ts";
import { crcsByBlock } from "../common/crc32c.ts";
import { silentLog } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import { runMain, UserError } from "../common/program.ts";
import { Handlers } from "../protocol/connection.ts";
import { Pool, websocketConnect } from "../protocol/dial.ts";
import { type Ino, rootIno } from "../protocol/id.ts";
import { status } from "../protocol/methods/admin.ts";
import { locate, readChunk, writeChunk } from "../protocol/methods/chunk.ts";
import { commit, create } from "../protocol/methods/namespace.ts";
import type { Location } from "../protocol/shapes.ts";

/**
 * `npm run bench:repair`: what the loss of a chunk server costs. Four chunk servers hold chunks;
 * one is killed; printed are the time until all goals are met again, and how much slower a reader
 * is meanwhile than before, as a ratio measured in the same run. Without a mount: reads are those
 * of the protocol, so that what is measured is the servers.
 */

const host = "127.0.0.1";
const serversCount = 4;
const readyMsMax = 60_000;
const repairMsMax = 900_000;
/** The reader before the kill: as long as it takes for a mean that is worth dividing by. */
const baseMs = 5_000;

interface File {
  ino: Ino;
  bytes: number;
}

class Bench {
  readonly root = mkdtempSync(path.join(os.tmpdir(), "gfs-bench-repair-"));
  readonly children: ChildProcess[] = [];
  readonly address: { host: string; port: number };

  constructor(port: number) {
    this.address = { host, port };
  }

  start(program: string, name: string, args: readonly string[]): ChildProcess {
    const script = fileURLToPath(new URL(`../${program}/main.js`, import.meta.url));
    mkdirSync(path.join(this.root, name));
    const log = openSync(path.join(this.root, `${name}.log`), "a");
    const data = ["--data", path.join(this.root, name)];
    const child = spawn(process.execPath, [script, ...args, ...data], {
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    this.children.push(child);
    return child;
  }

  status() {
    return withMaster(this.address, (connection) => connection.call(status, {}));
  }

  async until(what: string, msMax: number, wanted: () => Promise<boolean>): Promise<number> {
    const startMs = systemClock.nowMs();
    while (!(await wanted().catch(() => false))) {
      if (systemClock.nowMs() > startMs + msMax) throw new UserError(`in vain until ${what}`);
      await sleep(systemClock, 50);
    }
    return systemClock.nowMs() - startMs;
  }

  end(): void {
    for (const child of this.children) child.kill("SIGKILL");
    rmSync(this.root, { recursive: true, force: true });
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, host, () => {
      const address = server.address();
      const port = typeof address === "object" && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

/** Files of one chunk each, written as a mount would. */
async function write(session: NamespaceSession, pool: Pool, count: number, bytes: number) {
  const data = Buffer.alloc(bytes, "gfs");
  const crcs = crcsByBlock(data, 0);
  const files: File[] = [];
  for (let i = 0; i < count; i += 1) {
    const { attr, grant } = await session.mutate(create, {
      ...{ parent: rootIno, name: Buffer.from(`f${i}`), mode: 0o644, uid: 0, gid: 0 },
      ...{ exclusive: true, write: true },
    });
    const { index, handle, version, epoch, fresh, replicas } = must(grant, "a grant");
    const [primary, ...chain] = replicas;
    const order = { handle, version, epoch, offset: 0, crcs, create: fresh, forwarded: false };
    const { address } = must(primary, "a primary");
    await pool.call(address, writeChunk, { ...order, chain }, { payload: data });
    const written = [{ index, handle }];
    const size = { size: bytes, mtime: attr.mtime, written, sync: false };
    await session.mutate(commit, { ino: attr.ino, ...size });
    files.push({ ino: attr.ino, bytes });
  }
  return files;
}

/** Files that were read in a second, and reads that no replica answered. */
interface Rate {
  perSecond: number;
  failed: number;
}

/** Reads whole files in turn while `goesOn`. */
async function readRate(
  session: NamespaceSession,
  pool: Pool,
  files: readonly File[],
  goesOn: () => boolean,
): Promise<Rate> {
  const startMs = systemClock.nowMs();
  let read = 0;
  let failed = 0;
  for (let i = 0; goesOn(); i += 1) {
    const file = must(files[i % files.length], "a file");
    const request = { ino: file.ino, first: 0, count: 1 };
    const { locations } = await session.read(locate, request);
    if (await isRead(pool, must(locations[0], "a location"), file.bytes)) read += 1;
    else failed += 1;
  }
  return { perSecond: read / ((systemClock.nowMs() - startMs) / 1000), failed };
}

/** False if no replica answered: a copy has changed the version since, or the server is gone. */
async function isRead(pool: Pool, location: Location, length: number): Promise<boolean> {
  const { handle, version, replicas } = location;
  for (const { address } of replicas) {
    try {
      const { payload } = await pool.call(address, readChunk, {
        ...{ handle, version, offset: 0, length },
      });
      if (payload.length !== length) throw new UserError("a file was not read whole");
      return true;
    } catch (error) {
      if (error instanceof UserError) throw error;
    }
  }
  return false;
}

async function measure(bench: Bench, options: { chunks: number; kib: number }): Promise<string[]> {
  const masterAddress = `${host}:${bench.address.port}`;
  bench.start("master", "master", [masterAddress, "--chunk-size", "1", "--grace", "1"]);
  const servers = Array.from({ length: serversCount }, (_, i) =>
    bench.start("chunkd", `c${i}`, ["--master", masterAddress]),
  );
  const up = async (): Promise<number> =>
    (await bench.status()).servers.filter(({ state }) => state === "up").length;
  await bench.until("all servers are up", readyMsMax, async () => (await up()) === serversCount);
  const { cluster } = await bench.status();
  const pool = new Pool(
    {
      ...{ connect: websocketConnect(systemClock), role: "mount", name: "bench-repair", cluster },
      ...{ handlers: new Handlers(), clock: systemClock, log: silentLog },
    },
    Math.random,
  );
  return withMaster(bench.address, async (connection) => {
    const session = await NamespaceSession.open(connection);
    const files = await write(session, pool, options.chunks, options.kib * 1024);
    const baseEndMs = systemClock.nowMs() + baseMs;
    const before = await readRate(session, pool, files, () => systemClock.nowMs() < baseEndMs);
    must(servers[0], "a server").kill("SIGKILL");
    let repairing = true;
    const reading = readRate(session, pool, files, () => repairing);
    let lacking = 0;
    const repairMs = await bench.until("all goals are met", repairMsMax, async () => {
      const { chunks } = await bench.status();
      lacking = Math.max(lacking, chunks.belowGoal);
      return lacking > 0 && chunks.belowGoal === 0;
    });
    repairing = false;
    const during = await reading;
    pool.close();
    return [
      `${options.chunks} chunks of ${options.kib} KiB on ${serversCount} servers, ` +
        `one killed: ${lacking} lacked a replica`,
      `all goals met after ${(repairMs / 1000).toFixed(1)} s (grace 1 s)`,
      `reader: ${before.perSecond.toFixed(0)} files/s before, ` +
        `${during.perSecond.toFixed(0)} meanwhile, ` +
        `ratio ${(during.perSecond / before.perSecond).toFixed(2)}; ` +
        `no replica answered ${before.failed} reads before, ${during.failed} meanwhile`,
    ];
  });
}

async function main(): Promise<void> {
  const options = await yargs(process.argv.slice(2))
    .scriptName("npm run bench:repair --")
    .option("chunks", { type: "number", default: 2_000, describe: "chunks, one per file" })
    .option("kib", { type: "number", default: 256, describe: "KiB in each, up to 1,024" })
    .strict()
    .parseAsync();
  const { chunks, kib } = options;
  if (!(chunks >= 1) || !(kib >= 1 && kib <= 1_024)) throw new UserError("see --help");
  const bench = new Bench(await freePort());
  process.once("SIGINT", () => process.exit(130));
  process.once("SIGTERM", () => process.exit(143));
  process.once("exit", () => bench.end());
  for (const line of await measure(bench, { chunks, kib })) process.stdout.write(`${line}\n`);
  process.exit(0);
}

await runMain("bench-repair", main);
