import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { Store } from "../../master/store/store.ts";
import { rootIno } from "../../protocol/id.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import { openRealStore } from "../support/journaled-store.ts";
import { openLmdbStore } from "../support/lmdb-store.ts";
import { MasterCluster, testServers } from "../support/master-cluster.ts";
import { createMemoryStore } from "../../master/store/memory.ts";

/**
 * What a create and an unlink cost on the master, through its connections (in memory) and on a real
 * disk. `node build/test/master/bench-commits.js [ROUNDS]` prints, for each store and for 1 and 128
 * requests in flight, operations per second and CPU per operation, of this process, which plays
 * the mount too. The stores take turns, so that what else the machine does hits all of them.
 */

const directory = mkdtempSync(path.join(process.env["BENCH_DIR"] ?? tmpdir(), "gfs-commits-"));
const stores: [string, () => Store | Promise<Store>][] = [
  ["LMDB, every commit synced", () => openLmdbStore(path.join(directory, "lmdb"))],
  ["journal over LMDB", () => openRealStore(path.join(directory, "journal"))],
  ["memory", createMemoryStore],
];
const only = process.env["BENCH_ONLY"];
const rounds = Number(process.argv[2] ?? 5);
/** Creates and unlinks per round, by how many are in flight. */
const work = [
  { inFlight: 1, files: 300 },
  { inFlight: 128, files: 6_000 },
];

class Subject {
  readonly name: string;
  readonly cluster: MasterCluster;
  readonly store: Store;
  readonly figures = new Map<number, { perSecond: number[]; cpuUs: number[] }>();
  #files = 0;

  constructor(name: string, store: Store) {
    this.name = name;
    this.store = store;
    this.cluster = new MasterCluster(store);
  }

  async round(inFlight: number, files: number): Promise<void> {
    const mount = await this.cluster.mount();
    const cpu = process.cpuUsage();
    const startedMs = performance.now();
    let left = files;
    const one = async (): Promise<void> => {
      while (left > 0) {
        left -= 1;
        const name = `f${(this.#files += 1)}`;
        const { attr } = await mount.create(name);
        const gone = { parent: rootIno, name: Buffer.from(name), closed: attr.ino };
        await mount.mutate(namespace.unlink, gone);
      }
    };
    await Promise.all(Array.from({ length: inFlight }, one));
    const ms = performance.now() - startedMs;
    const { user, system } = process.cpuUsage(cpu);
    const figures = this.figures.get(inFlight) ?? { perSecond: [], cpuUs: [] };
    figures.perSecond.push((files * 2 * 1_000) / ms);
    figures.cpuUs.push((user + system) / files / 2);
    this.figures.set(inFlight, figures);
    mount.connection.close("done");
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
}

const subjects: Subject[] = [];
for (const [name, open] of stores) {
  if (only !== undefined && !name.includes(only)) continue;
  const subject = new Subject(name, await open());
  await subject.cluster.start();
  for (const server of testServers(3)) await server.join(subject.cluster);
  subjects.push(subject);
}
for (let round = 0; round <= rounds; round += 1) {
  for (const { inFlight, files } of work) {
    for (const subject of subjects) await subject.round(inFlight, files);
  }
  // The first round only warms up.
  if (round === 0) for (const { figures } of subjects) figures.clear();
}
process.stdout.write("in flight  operations/s  ratio  CPU µs/operation  store\n");
for (const { inFlight } of work) {
  const base = median(subjects[0]?.figures.get(inFlight)?.perSecond ?? []);
  for (const { name, figures } of subjects) {
    const { perSecond, cpuUs } = figures.get(inFlight) ?? { perSecond: [], cpuUs: [] };
    const cells = [
      String(inFlight).padStart(9),
      median(perSecond).toFixed(0).padStart(12),
      (median(perSecond) / base).toFixed(1).padStart(5),
      median(cpuUs).toFixed(0).padStart(16),
    ];
    process.stdout.write(`${cells.join("  ")}  ${name}\n`);
  }
}
for (const { cluster, store } of subjects) {
  await cluster.stop();
  await store.close();
}
rmSync(directory, { recursive: true, force: true });
process.exit(0);
