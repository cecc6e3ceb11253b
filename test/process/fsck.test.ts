import t from "tap";
import { must } from "../../common/assert.ts";
import { chunkFilesOf } from "../support/chunk-files.ts";
import { Cluster } from "../support/cluster.ts";
import { until } from "../support/until.ts";

/** What nobody reads goes bad; all copies go bad: found, told by name, and what is good is read. */

const cluster = await Cluster.start(t, { chunkMiB: 4 });
const mount = must(cluster.mounts[0], "there is a mount");
const { flip, copiesEqual } = chunkFilesOf(cluster);
const slow = { timeoutMs: 120_000 };
const block = 65_536;
// The last chunk of each is found by its length; the chunk before it is whole.
const chunk = 4 * 1024 * 1024;
const length = { idle: 40 * block + 1, all: 40 * block + 2 };

async function write(name: string, bytes: number): Promise<void> {
  await cluster.ok(`mkdir -p $M/dir; head -c ${chunk + bytes} /dev/urandom >$W/${name}
    cp $W/${name} $M/dir/${name}; sync $M/dir/${name}`);
}

interface Report {
  counts: { lost: number; corrupt: number; mendable: number };
  problems: { problem: string; files: { path: string; ranges: unknown[] }[] }[];
}

async function fsck(): Promise<{ code: number | string; report: Report }> {
  const { code, out } = await cluster.gfs("fsck --json", slow);
  return { code, report: JSON.parse(out) as Report };
}

t.test("a cluster in order passes", async (t) => {
  await write("idle", length.idle);
  t.match(await cluster.gfs("fsck", slow), { code: 0, out: /chunks 2, below goal 0, lost 0/ });
  t.match(await cluster.gfs("fsck --master 127.0.0.1:1", slow), {
    code: 3,
    err: /^gfs: no master/,
  });
});

t.test("a flipped byte that nobody reads is found by the scrub, and mended", async (t) => {
  await cluster.server(0).stop();
  await flip(0, length.idle, 7 * block);
  cluster.server(0).start();
  await cluster.ready();
  const found = await cluster.awaitStatus("the scrub has found it", ({ servers }) =>
    servers.some(({ scrub }) => (scrub?.badBlocks ?? 0) === 1),
  );
  t.equal(found.chunks.corrupt, 1);
  await until("all copies are right again", () => copiesEqual(length.idle));
  await cluster.healthy(120_000);
  t.match(await cluster.gfs("fsck", slow), { code: 0 });
  t.match(await cluster.gfs("status"), { out: /scrub of server \d+: round \d+, .*, bad blocks 1/ });
});

t.test("when a block is bad in every copy, the others are read, and fsck names it", async (t) => {
  await write("all", length.all);
  await cluster.ok("mkdir $M/dir/.snapshots/before; printf x >>$M/dir/all; sync $M/dir/all");
  await cluster.ok("truncate -s -1 $M/dir/all; sync $M/dir/all");
  const files = async (server: number): Promise<string> =>
    cluster.ok(`find ${cluster.serverData(server)}/chunks -type f -size ${length.all}c | wc -l`);
  await cluster.ok("rm $M/dir/all");
  await until("the file's own chunk is gone", async () => {
    return (await Promise.all([0, 1, 2].map(files))).every((count) => count === "1");
  });
  for (const server of [0, 1, 2]) {
    await flip(server, length.all, 10 * block);
    await flip(server, length.all, 11 * block + 5);
  }
  await cluster.freshMount(mount);
  const old = "$M/dir/.snapshots/before/all";
  const whole = await cluster.sh(`cat ${old} >/dev/null`, slow);
  t.match(whole, { code: 1, timedOut: false, err: /Input\/output error/ });
  const first = (chunk + 10 * block) / block;
  t.equal(await cluster.ok(`cmp -n $((${first} * ${block})) $W/all ${old}`, slow), "");
  const after = `<(dd if=$W/all bs=${block} skip=${first + 2} status=none)`;
  t.equal(
    await cluster.ok(
      `cmp ${after} <(dd if=${old} bs=${block} skip=${first + 2} status=none)`,
      slow,
    ),
    "",
  );
  await until("all three are known", async () => (await fsck()).code === 2);
  const { report } = await fsck();
  t.match(report.counts, { lost: 0, corrupt: 1 });
  t.match(report.problems, [
    {
      problem: "corrupt",
      files: [
        {
          path: "/dir/.snapshots/before/all",
          ranges: [{ offset: chunk + 10 * block, length: 2 * block }],
        },
      ],
    },
  ]);
  t.match(await cluster.gfs("status"), { code: 2, out: /damaged 1/ });
  const bytes = `${chunk + 10 * block}-${chunk + 12 * block - 1}`;
  const line = new RegExp(`corrupt chunk \\d+: "/dir/.snapshots/before/all" bytes ${bytes}`);
  t.match(await cluster.gfs("fsck"), { code: 2, out: line });
});

t.test("chunks whose servers are away are lost until these are back", async (t) => {
  await cluster.ok("rmdir $M/dir/.snapshots/before; cp $W/idle $M/dir/away; sync $M/dir/away");
  for (const server of cluster.servers) await server.kill();
  await until("they are missed", async () => (await fsck()).report.counts.lost >= 2);
  const { code, report } = await fsck();
  t.equal(code, 2);
  t.ok(report.problems.some(({ files }) => files.some(({ path }) => path === "/dir/away")));
  for (const server of cluster.servers) server.start();
  await cluster.ready();
  await until("nothing is lost", async () => (await fsck()).code === 0);
  await cluster.freshMount(mount);
  t.equal(await cluster.ok("cmp $W/idle $M/dir/away; cmp $W/idle $M/dir/idle", slow), "");
});
