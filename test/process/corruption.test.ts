import t from "tap";
import { must } from "../../common/assert.ts";
import { chunkFilesOf } from "../support/chunk-files.ts";
import { Cluster } from "../support/cluster.ts";
import { until } from "../support/until.ts";

/** Bits that flip on a disk (P3): a read gives what was written, or an error, never other bytes. */

const cluster = await Cluster.start(t, { chunkMiB: 8 });
const slow = { timeoutMs: 240_000 };
const mount = must(cluster.mounts[0], "there is a mount");

/** Its length tells the chunk files of a test from those of the others. */
async function write(name: string, bytes: number): Promise<void> {
  await cluster.ok(
    `head -c ${bytes} /dev/urandom >$W/${name}; cp $W/${name} $M/${name}; sync $M/${name}`,
  );
}

/** Which copy is read is chance, and each try is a new mount. */
const luck = { msMax: 180_000 };

const { flip, copiesEqual } = chunkFilesOf(cluster);

const corrupt = async (): Promise<number> => (await cluster.status()).chunks.corrupt;

await write("small", 40_000);
// Found by their lengths: 3 MiB and a little each.
const size = { one: 3_145_728 + 1, two: 3_145_728 + 2, alone: 3_145_728 + 3, all: 3_145_728 + 4 };

t.test("a flipped byte on one server's disk is never read, and is repaired", async (t) => {
  await write("one", size.one);
  t.equal(await copiesEqual(size.one), true);
  t.equal(await corrupt(), 0);
  await flip(0, size.one, 1_000_000);
  // Which server is asked is the mount's choice: read until the bad one was.
  await until(
    "the bad copy was read",
    async () => {
      await cluster.freshMount(mount);
      t.equal(await cluster.ok("cmp $W/one $M/one && cmp $W/small $M/small"), "");
      return (await corrupt()) >= 1;
    },
    luck,
  );
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0, belowGoal: 0 });
  await until("all copies on disk are right again", () => copiesEqual(size.one));
  t.match(await cluster.gfs("status"), { code: 0, out: /corrupt [1-9]/ });
});

t.test("two bad copies of three: still the right bytes, and both are repaired", async (t) => {
  const before = await corrupt();
  await write("two", size.two);
  await flip(0, size.two, 5);
  await flip(1, size.two, size.two - 1);
  await until(
    "both bad copies were read",
    async () => {
      await cluster.freshMount(mount);
      t.equal(await cluster.ok("cmp $W/two $M/two"), "");
      return (await corrupt()) >= before + 2;
    },
    luck,
  );
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0, belowGoal: 0 });
  await until("all copies on disk are right again", () => copiesEqual(size.two));
});

t.test("a reader that finds only a bad copy waits for the good ones", async (t) => {
  const before = await corrupt();
  await write("alone", size.alone);
  await flip(2, size.alone, 2_000_000);
  await cluster.server(0).kill();
  await cluster.server(1).kill();
  await cluster.freshMount(mount);
  const reader = cluster.startShell("cmp $W/alone $M/alone", slow);
  await cluster.awaitStatus("the bad copy was read", ({ chunks }) => chunks.corrupt > before);
  cluster.server(0).start();
  cluster.server(1).start();
  t.match(await reader.done, { code: 0, out: "" });
  await cluster.ready();
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0, belowGoal: 0 });
  await until("all copies on disk are right again", () => copiesEqual(size.alone));
});

t.test("when every copy is bad, the read fails, and other files are as they were", async (t) => {
  await write("all", size.all);
  // On a slow machine, one may have been away for a moment.
  await until("there are all copies", () => copiesEqual(size.all));
  for (const server of [0, 1, 2]) await flip(server, size.all, 1_500_000);
  await cluster.freshMount(mount);
  const read = await cluster.sh("cat $M/all >$W/read", { timeoutMs: 60_000 });
  t.match(read, { code: 1, timedOut: false, err: /Input\/output error/ });
  t.equal(
    await cluster.ok("cmp -n $(stat -c %s $W/read) $W/read $W/all"),
    "",
    "no wrong byte came",
  );
  t.equal(await cluster.ok("cmp $W/one $M/one; cmp $W/two $M/two; cmp $W/small $M/small"), "");
  await cluster.ok("rm $M/all; cp $W/all $M/all; cmp $W/all $M/all");
});
