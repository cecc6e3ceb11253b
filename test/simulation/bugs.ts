#!/usr/bin/env node
import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { runMain, UserError } from "../../common/program.ts";

/**
 * `npm run simulate:bugs`: can the simulator find anything? Puts bugs into a copy of build/, one at
 * a time, and shows how many seeds and seconds it takes to find each.
 */

interface Bug {
  name: string;
  /** In files of build/: `before` must be there exactly once, else the source has changed. */
  changes: readonly { file: string; before: string; after: string }[];
}

const seedsMax = 200;

const unverified = `readBlock: async (block) => {
  const start = block * blockBytes;
  if (record.bytes) return record.bytes.subarray(start, start + blockBytes);
  const into = Buffer.alloc(Math.max(0, Math.min(blockBytes, record.length - start)));
  await store.files.use(chunk.handle, "write", (file) => file.read("read.blocks", into, start));
  return into;
},`;

const bugs: readonly Bug[] = [
  {
    name: "the version is not raised on the servers before a grant is given under it",
    changes: [
      {
        file: "master/chunks/sets.js",
        before:
          "const { done, replies, lacking } = await this.#order(servers, raiseVersion, order);",
        after: `const replies = new Map(), lacking = [], done = [...servers];
          void this.#order(servers, raiseVersion, order);`,
      },
    ],
  },
  {
    name: "a reply is sent before its commit is in the journal",
    changes: [
      {
        file: "master/store/journaled.js",
        before: "journal.append(this.#sequence + 1, changes);",
        after: `const at = this.#sequence + 1;
          this.#options.clock.timer(20, () => journal.append(at, changes));`,
      },
    ],
  },
  {
    name: "the rest of a block that is written in part is not verified",
    changes: [
      {
        file: "chunkd/store/apply.js",
        before: "readBlock: (block) => readBlock(store, chunk, block),",
        after: unverified,
      },
    ],
  },
  {
    name: "a stale replica is taken in, and served",
    changes: [
      {
        file: "master/fleet/inventory.js",
        before: "if (!isMember || version < chunk.version)",
        after: "if (!isMember)",
      },
      {
        file: "chunkd/store/read.js",
        before: "const record = expectVersion(chunk, request.version);",
        after: "const record = expectVersion(chunk, chunk.record?.version ?? request.version);",
      },
    ],
  },
  {
    name: "a reference to a chunk is dropped twice",
    changes: [
      {
        file: "master/namespace/txn.js",
        before: "if (chunk.refs > 1) {",
        after: "if (chunk.refs > 2) {",
      },
    ],
  },
];

/** A copy of build/ with the bug in it. */
function breakIn(directory: string, { changes }: Bug): void {
  const root = process.cwd();
  cpSync(path.join(root, "build"), path.join(directory, "build"), { recursive: true });
  symlinkSync(path.join(root, "node_modules"), path.join(directory, "node_modules"));
  cpSync(path.join(root, "package.json"), path.join(directory, "package.json"));
  for (const { file, before, after } of changes) {
    const where = path.join(directory, "build", file);
    const parts = readFileSync(where, "utf8").split(before);
    if (parts.length !== 2) {
      throw new UserError(`build/${file} has ${parts.length - 1} times, not once: ${before}`);
    }
    writeFileSync(where, parts.join(after));
  }
}

interface Found {
  seed: number;
  /** What was wrong first. */
  violation: string;
}

/** The first seed of a range that fails with the programs in `directory`. */
function simulate(
  directory: string,
  { from, count }: { from: number; count: number },
): Promise<Found | undefined> {
  const program = path.join(directory, "build/test/simulation/main.js");
  const args = [program, "--from", String(from), "--seeds", String(count)];
  const child = spawn(process.execPath, args, {
    cwd: directory,
    stdio: ["ignore", "pipe", "ignore"],
  });
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      const failed = /^seed (\d+): FAILED.*\n(.*)$/m.exec(output);
      if (failed) resolve({ seed: Number(failed[1]), violation: (failed[2] ?? "").trim() });
      else if (code === 0) resolve(undefined);
      else reject(new Error(`the simulator ended with ${code} and no failed seed: ${output}`));
    });
  });
}

/** Seeds that fail without the bug too have not found it. */
async function firstFound(directory: string): Promise<Found | undefined> {
  for (let from = 1; from <= seedsMax;) {
    const found = await simulate(directory, { from, count: seedsMax - from + 1 });
    if (!found) return undefined;
    const control = await simulate(process.cwd(), { from: found.seed, count: 1 });
    if (!control) return found;
    process.stdout.write(`  seed ${found.seed} fails without it too: ${control.violation}\n`);
    from = found.seed + 1;
  }
  return undefined;
}

async function find(bug: Bug): Promise<boolean> {
  const directory = mkdtempSync(path.join(tmpdir(), "gfs-simulate-bugs-"));
  const startMs = performance.now();
  try {
    breakIn(directory, bug);
    const found = await firstFound(directory);
    const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
    const how = found ? `found by seed ${found.seed}` : `NOT FOUND by ${seedsMax} seeds`;
    process.stdout.write(`${bug.name}: ${how}, ${seconds} s\n`);
    if (found) process.stdout.write(`  ${found.violation.slice(0, 200)}\n`);
    return found !== undefined;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

await runMain("simulate-bugs", async () => {
  const wanted = process.argv.slice(2).map(Number);
  let missed = 0;
  for (const [i, bug] of bugs.entries()) {
    if (wanted.length > 0 && !wanted.includes(i + 1)) continue;
    if (!(await find(bug))) missed += 1; // One after the other: each has all of the machine.
  }
  process.exit(missed === 0 ? 0 : 1);
});
