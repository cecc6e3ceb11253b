import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import t from "tap";
import { must } from "../../common/assert.ts";
import { Cluster } from "../support/cluster.ts";
import { quote, type ShellResult } from "../support/process-shell.ts";

/** P6, P7: a mount rides through restarts of the master without an error to any program. */

const restarts = 10;
const roles = ["writer", "reader", "locker", "appender", "renamer"] as const;
const script = path.resolve("test/process/master-restart.py");
const limit = { timeoutMs: 600_000 };

const cluster = await Cluster.start(t, { chunkMiB: 1, mounts: 2 });

/** A tree that readers read, and the sums of its files outside. */
async function makeTree(): Promise<void> {
  const tree = path.join(cluster.work, "tree");
  mkdirSync(tree);
  const sums: Record<string, string> = {};
  for (let i = 0; i < 30; i += 1) {
    const bytes = Buffer.alloc(i * 40_009, `${i} `);
    writeFileSync(path.join(tree, `f${i}`), bytes);
    sums[`f${i}`] = createHash("sha256").update(bytes).digest("hex");
  }
  writeFileSync(path.join(cluster.work, "tree.json"), JSON.stringify(sums));
  await cluster.ok("cp -r $W/tree $M/tree; touch $M/counter $M/log");
}

function start(role: string, mount: string): Promise<ShellResult> {
  return cluster.startShell(`python3 ${quote(script)} ${role} ${mount} $W $W/stop`, limit).done;
}

/** Lines of files that are written: what has been done so far. */
const done = (): Promise<string> => cluster.ok("cat $W/*.manifest | wc -l", limit);

t.test("programs on two mounts see nothing of ten restarts of the master", async (t) => {
  await makeTree();
  const running = roles.flatMap((role) =>
    ["$M", "$M2"].map((mount) => ({ role, mount, result: start(role, mount) })),
  );
  let ended = 0;
  for (const { result } of running) void result.then(() => (ended += 1));
  for (let i = 1; i <= restarts && ended === 0; i += 1) {
    const before = await done().catch(() => "0");
    // Work has gone on since the last restart, and is at any point of an operation.
    await cluster.ok(`until test $(cat $W/*.manifest | wc -l) -gt $((${before} + 20)); do
      sleep 0.1; done 2>/dev/null`);
    await cluster.master.kill();
    if (i % 3 === 0) await cluster.ok("sleep 2");
    cluster.master.start();
    await cluster.ready();
  }
  await cluster.ok("touch $W/stop");
  const counts = new Map<string, number>();
  for (const { role, mount, result } of running) {
    const { code, out, err } = await result;
    t.equal(code, 0, `${role} on ${mount}: ${out.trim()}${err.slice(-500)}`);
    const [count] = Object.values(JSON.parse(out || "{}") as Record<string, number>);
    counts.set(`${role}-${mount === "$M" ? "m1" : "m2"}`, count ?? 0);
  }
  for (const [name, count] of counts) t.ok(count > 0, `${name}: ${count}`);
  await checkCounter(counts);
  await checkLog(counts);
});

async function checkCounter(counts: ReadonlyMap<string, number>): Promise<void> {
  const wanted = must(counts.get("locker-m1"), "m1") + must(counts.get("locker-m2"), "m2");
  t.equal(await cluster.ok("cat $M/counter"), String(wanted), "no two held the lock at a time");
  t.equal(await cluster.ok("cat $M2/counter"), String(wanted));
}

/** Every record once, in order, and no other bytes. */
async function checkLog(counts: ReadonlyMap<string, number>): Promise<void> {
  await cluster.ok("cp $M2/log $W/log");
  const seen = new Map<string, number>();
  let wrong = 0;
  for (const line of readFileSync(path.join(cluster.work, "log"), "utf8").trimEnd().split("\n")) {
    const [name = "", number = ""] = line.split(" ");
    if (Number(number) !== (seen.get(name) ?? 0) + 1) wrong += 1;
    seen.set(name, Number(number));
  }
  t.equal(wrong, 0, "records are there once, in the order of each mount");
  for (const name of ["appender-m1", "appender-m2"])
    t.equal(seen.get(name), counts.get(name), name);
}

t.test("what was closed is there for a mount that knows nothing yet", async (t) => {
  for (const mount of cluster.mounts) await cluster.freshMount(mount);
  t.equal(await cluster.ok("diff -r $W/tree $M2/tree", limit), "");
  for (const role of ["writer-m1", "writer-m2"]) {
    const files = await cluster.ok(`ls $M/${role} | wc -l; wc -l <$W/${role}.manifest`, limit);
    t.equal(new Set(files.split("\n")).size, 1, `${role}: ${files.replace("\n", " of ")} files`);
  }
  t.match((await cluster.healthy(180_000)).chunks, { lost: 0, belowGoal: 0 });
});
