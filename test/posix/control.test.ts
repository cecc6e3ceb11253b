import { mkdtempSync, rmSync, statfsSync } from "node:fs";
import path from "node:path";
import t from "tap";
import type { Outcome } from "./run.ts";
import { runCases } from "./suite.ts";

/**
 * The POSIX cases on the kernel's own filesystems: what a case asks for is what Linux does. A case
 * has to pass on one of the two at least: tmpfs has no FALLOC_FL_ZERO_RANGE, for example, and what
 * the disk has depends on how it was formatted.
 */

const tmpfsMagic = 0x01_02_19_94;

async function runIn(parent: string): Promise<Map<string, Outcome>> {
  const directory = mkdtempSync(path.join(parent, "gfs-posix-"));
  try {
    return new Map((await runCases(directory)).map((outcome) => [outcome.name, outcome]));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

t.setTimeout(900_000);
const disk = await runIn("/var/tmp");
const hasTmpfs = statfsSync("/dev/shm").type === tmpfsMagic;
const memory = hasTmpfs ? await runIn("/dev/shm") : disk;
if (!hasTmpfs) t.comment("/dev/shm is not a tmpfs here: the cases ran on the disk only");

t.ok(disk.size >= 150, "there are as many cases as there were");
for (const [name, onDisk] of disk) {
  const inMemory = memory.get(name);
  if (onDisk.result === "skip") {
    t.comment(`skipped: ${name}: ${onDisk.reason}`);
    continue;
  }
  if (onDisk.result === "fail") t.comment(`on disk: ${name}: ${onDisk.reason}`);
  if (inMemory?.result === "fail") t.comment(`on tmpfs: ${name}: ${inMemory.reason}`);
  t.ok(onDisk.result === "pass" || inMemory?.result === "pass", name);
}
