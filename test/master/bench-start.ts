import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { dialMaster } from "../../cli/admin.ts";
import { must } from "../../common/assert.ts";
import { silentLog } from "../../common/log.ts";
import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { Fleet } from "../../master/fleet/fleet.ts";
import { openFormat } from "../../master/format.ts";
import { Committer } from "../../master/namespace/committer.ts";
import { addChunk, commitWrite } from "../../master/namespace/ops/contents.ts";
import { createFile, makeDirectory } from "../../master/namespace/ops/create.ts";
import type { Store } from "../../master/store/store.ts";
import { type Ino, rootIno, serverId } from "../../protocol/id.ts";
import { status } from "../../protocol/methods/admin.ts";
import { statfs } from "../../protocol/methods/namespace.ts";
import { freePort } from "../support/cluster.ts";
import { openRealStore } from "../support/journaled-store.ts";
import { programPath } from "../support/process-program.ts";

/**
 * How long a master with many files takes to start: `npm run bench:start -- [FILES]`. Makes the
 * store through the master's own operations: files of one chunk in directories of 1,000. Then
 * starts gfs-master on it, several times: after a clean stop, and after kill -9 with a full journal
 * (32 MiB are the most that recovery finds when checkpoints succeed); with the files in the page
 * cache, and without. Prints the time from the start of the process to its first answer, and to the
 * first answer of `gfs status`, which has counted all chunks; and its memory then.
 */

const filesPerDirectory = 1_000;
const journalBytes = 31 << 20;
const chunkBytes = 64 << 20;
const owner = { uid: 0, gid: 0 };
/** Nothing is put into LMDB before the process is killed. */
const noCheckpoint = { journalBytes: 2 ** 40, checkpointAfterMs: 2 ** 30 };

async function openForMaking(store: Store): Promise<Committer> {
  const nowNs = systemClock.wallNs();
  openFormat(store, { cluster: "bench", chunkBytes, replicas: 3, nowNs, ...owner });
  const committer = new Committer(store, systemClock);
  const fleet = new Fleet(systemClock);
  await committer.run((txn) => {
    for (const id of [1, 2, 3]) fleet.store(txn, serverId(id), `127.0.0.1:${10_000 + id}`, "");
  });
  return committer;
}

/** One directory with files of one chunk each, in one commit. */
function makeFiles(committer: Committer, name: string): Promise<void> {
  return committer.run((txn) => {
    const made = { parent: rootIno, name: Buffer.from(name), mode: 0o755, ...owner };
    const { ino: parent } = makeDirectory(txn, made);
    for (let i = 0; i < filesPerDirectory; i += 1) {
      const wanted = { parent, name: Buffer.from(`file-${i}`), mode: 0o644, exclusive: true };
      makeFile(createFile(txn, { ...wanted, ...owner }).ino);
    }
    function makeFile(ino: Ino): void {
      const handle = txn.newHandle();
      addChunk(txn, { ino, index: 0, handle, servers: [1, 2, 3].map(serverId) });
      const written = [{ index: 0, handle }];
      commitWrite(txn, { ino, size: 4096, mtime: txn.nowNs, written });
    }
  });
}

async function make(data: string, files: number): Promise<void> {
  const store = await openRealStore(data);
  const committer = await openForMaking(store);
  for (let i = 0; i < files / filesPerDirectory; i += 1) {
    await store.ready();
    await makeFiles(committer, `directory-${i}`);
  }
  await store.close();
}

/** Fills the journal and dies. */
async function fillJournal(data: string): Promise<void> {
  const store = await openRealStore(data, { limits: noCheckpoint, log: silentLog });
  const committer = await openForMaking(store);
  const names = readdirSync(data).filter((name) => name.startsWith("journal-"));
  const journal = path.join(data, must(names[0], "a journal"));
  for (let i = 0; statSync(journal).size < journalBytes; i += 1) {
    await makeFiles(committer, `journal-${process.pid}-${i}`);
  }
  process.kill(process.pid, "SIGKILL");
}

/** Takes a directory's files out of the page cache. */
function dropCache(data: string): void {
  for (const name of readdirSync(data)) {
    const file = path.join(data, name);
    spawnSync("sync", [file]);
    spawnSync("dd", [`if=${file}`, "iflag=nocache", "count=0", "status=none"]);
  }
}

function rssMiB(pid: number): number {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(text)?.[1] ?? 0) / 1024);
}

async function connected(address: { host: string; port: number }) {
  for (;;) {
    try {
      return (await dialMaster(address)).connection;
    } catch {
      await sleep(systemClock, 5);
    }
  }
}

async function start(data: string, what: string): Promise<void> {
  const address = { host: "127.0.0.1", port: await freePort() };
  const args = [programPath("master"), `127.0.0.1:${address.port}`, "--data", data];
  const env = { ...process.env, GFS_LOG: "warn" };
  const startMs = performance.now();
  const child = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"], env });
  const exited = once(child, "exit");
  const connection = await connected(address);
  const { inodes } = await connection.call(statfs, {});
  const answerMs = Math.round(performance.now() - startMs);
  const firstMiB = rssMiB(must(child.pid, "a process"));
  const { chunks } = await connection.call(status, {}, { deadlineMs: 120_000 });
  const statusMs = Math.round(performance.now() - startMs);
  const figures = `first answer ${answerMs} ms, ${firstMiB} MiB; status ${statusMs} ms`;
  const last = rssMiB(must(child.pid, "a process"));
  process.stdout.write(
    `${what}: ${figures}, ${last} MiB; ${inodes} inodes, ${chunks.total} chunks\n`,
  );
  connection.close("done");
  child.kill("SIGTERM");
  await exited;
}

async function measure(files: number): Promise<void> {
  const directory = mkdtempSync(path.join(process.env["BENCH_DIR"] ?? tmpdir(), "gfs-start-"));
  const data = path.join(directory, "master");
  try {
    const startMs = performance.now();
    await make(data, files);
    const seconds = Math.round((performance.now() - startMs) / 1000);
    const { size } = statSync(path.join(data, "data.mdb"));
    process.stdout.write(`made ${files} files in ${seconds} s, data.mdb ${size >> 20} MiB\n`);
    const script = fileURLToPath(import.meta.url);
    for (const journal of [false, true]) {
      for (const cold of [false, true]) {
        if (journal) await once(spawn(process.execPath, [script, "journal", data]), "exit");
        if (cold) dropCache(data);
        await start(
          data,
          `${journal ? "after kill -9" : "after a stop"}, ${cold ? "cold" : "warm"}`,
        );
      }
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const [first, second] = process.argv.slice(2);
if (first === "journal") await fillJournal(must(second, "a directory"));
else await measure(Number(first ?? 1_000_000));
