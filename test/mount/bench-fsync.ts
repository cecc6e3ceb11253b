#!/usr/bin/env node
import { must } from "../../common/assert.ts";
import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { runMain } from "../../common/program.ts";
import { pattern, TamperedDisk } from "../chunkd/support.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { TestFile } from "./contents-support.ts";

/**
 * `npm run bench:fsync`: one fsync of a file with 64 chunks of 1 MiB that three servers have in
 * their page caches, and beside it as many of files with one chunk each, one after the other. A
 * flush takes a while, as on a disk that each server has for itself.
 */

const chunks = 64;
const rounds = 5;
const flushMs = 5;

async function msOf(work: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

function median(values: readonly number[]): number {
  return must(values.toSorted((a, b) => a - b)[values.length >> 1], "a value");
}

await runMain("bench-fsync", async () => {
  const slow = new TamperedDisk();
  slow.after = (site) => (site === "sync.data" ? sleep(systemClock, flushMs) : undefined);
  const endings: (() => unknown)[] = [];
  const cluster = await LiveCluster.start(
    { teardown: (ending) => endings.push(ending) },
    { servers: 3, disk: slow.disk },
  );
  const { fileSystem } = await cluster.mount();
  const data = pattern(cluster.chunkBytes, 1);
  const one = await TestFile.create(fileSystem, "one");
  const many: TestFile[] = [];
  for (let i = 0; i < chunks; i += 1) many.push(await TestFile.create(fileSystem, `many-${i}`));
  const together: number[] = [];
  const alone: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    for (let i = 0; i < chunks; i += 1) await one.write(i * data.length, data);
    await one.flush();
    together.push(await msOf(() => one.fsync()));
    for (const file of many) await file.write(0, data);
    for (const file of many) await file.flush();
    alone.push(
      await msOf(async () => {
        for (const file of many) await file.fsync();
      }),
    );
  }
  const ratio = (median(alone) / median(together)).toFixed(1);
  process.stdout.write(
    `${chunks} chunks: one fsync ${median(together).toFixed(0)} ms, ` +
      `${chunks} one after the other ${median(alone).toFixed(0)} ms, ratio ${ratio}\n`,
  );
  for (const ending of endings) await ending();
  process.exit(0);
});
