import t, { type Test } from "tap";
import { must } from "../../common/assert.ts";
import { Cluster, type Status } from "../support/cluster.ts";

/** A chunk server is emptied while files are written and read (issue: drain under load). */

const cluster = await Cluster.start(t, { servers: 4, chunkMiB: 1 });
const slow = { timeoutMs: 240_000 };
const mount = must(cluster.mounts[0], "there is a mount");

await cluster.ok(`mkdir $W/t; cd $W/t
  for i in {1..60}; do head -c $((i * 9973)) <(yes $i) >f$i; done
  head -c 60000000 /dev/urandom >big; cp -r $W/t $M/t; sync -f $M`);

type Server = Status["servers"][number];
const first = ({ servers }: Status): Server =>
  must(
    servers.find(({ id }) => id === 1),
    "server 1",
  );

/** Which of the programs it is: they register in any order. */
const ids = await cluster.ok(
  cluster.servers.map((_, i) => `tr -d '\\n' <${cluster.serverData(i)}/id; echo`).join("; "),
);
const leaver = ids.split("\n").findIndex((text) => /"server":\s*1\b/.test(text));

/** Looks at the cluster until `ends`, and keeps what was worst. */
async function watch(ends: (now: Status) => boolean) {
  const worst = { belowGoal: 0, lost: 0, looks: 0 };
  await cluster.awaitStatus(
    "it is as wanted",
    (now) => {
      worst.looks += 1;
      worst.belowGoal = Math.max(worst.belowGoal, now.chunks.belowGoal);
      worst.lost = Math.max(worst.lost, now.chunks.lost);
      return ends(now);
    },
    90_000,
  );
  return worst;
}

/** Reads what is there, again and again, and writes new files, until the file `stop` is there. */
function startLoad(stop: string) {
  const reader = cluster.startShell(
    `n=0; while ! test -e $W/${stop}; do diff -r $W/t $M/t; n=$((n+1)); done; echo $n`,
    slow,
  );
  const writer = cluster.startShell(
    `n=0; while ! test -e $W/${stop}; do
       cp $W/t/big $M/new.$((n % 3)); cp $W/t/f$((n % 60 + 1)) $M/small.$n; n=$((n+1))
     done; echo $n`,
    slow,
  );
  const end = async (t: Test) => {
    await cluster.ok(`touch $W/${stop}`);
    const [read, written] = await Promise.all([reader.done, writer.done]);
    t.match(read, { code: 0, err: "" }, `the reader read all ${read.out.trim()} times`);
    t.match(written, { code: 0, err: "" }, `the writer wrote ${written.out.trim()} times`);
  };
  return { end };
}

t.test("drain under load: no error, nothing below its goal, ends empty", async (t) => {
  const load = startLoad("first");
  const before = await cluster.status();
  t.ok(first(before).chunks > 20, `server 1 holds ${first(before).chunks} chunks`);
  t.match(await cluster.gfs("drain 1 --no-wait"), { code: 0, out: /being emptied: \d+ chunks/ });
  t.match(await cluster.gfs("status"), { out: /up, draining \(\d+ left\)/ });
  const half = first(before).chunks / 2;
  const start = await watch((now) => (first(now).left ?? 0) < half);
  await load.end(t);
  await cluster.master.kill();
  cluster.master.start();
  // Until the servers have registered again, their replicas are not known to it.
  await cluster.ready();
  await cluster.healthy();
  const again = startLoad("second");
  const follow = cluster.gfs("drain 1 --json", slow);
  const rest = await watch((now) => first(now).mode === "drained");
  const { code, out } = await follow;
  t.equal(code, 0);
  t.match(out.trim().split("\n").at(-1), /"mode":"drained","left":0/);
  await again.end(t);
  for (const worst of [start, rest]) {
    t.match(worst, { belowGoal: 0, lost: 0 }, `in ${worst.looks} looks`);
  }
  const files = `find ${cluster.serverData(leaver)}/chunks -type f | wc -l`;
  t.equal(await cluster.ok(files), "0", "its data directory has no chunk left");
  t.match(first(await cluster.status()), { mode: "drained", chunks: 0 });
});

t.test("a drained server is stopped and forgotten, and all is still there", async (t) => {
  t.match(await cluster.gfs("forget 1"), { code: 1, err: /runs: stop it first/ });
  await cluster.server(leaver).stop();
  await cluster.awaitStatus("it has gone", (now) => first(now).state !== "up");
  t.match(await cluster.gfs("forget 1"), { code: 0, out: /is forgotten/ });
  t.equal((await cluster.status()).servers.length, 3);
  await cluster.freshMount(mount);
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "");
  t.match(await cluster.gfs("drain 2"), { code: 1, err: /want 3 copies, and 2 other servers/ });
  t.match(await cluster.gfs("drain 99"), { code: 1, err: /^gfs: no chunk server 99; there are/ });
  t.match(await cluster.gfs("maintenance 2 --for 3x"), { code: 1, err: /--for: '3x' is no time/ });
});

t.test("undo: a server that comes back as a new one is used again", async (t) => {
  cluster.server(leaver).start();
  await cluster.ready();
  t.match(await cluster.gfs("drain 1 --no-wait"), { code: 0 });
  t.match(await cluster.gfs("drain 1 --undo"), { code: 0, out: /is in use/ });
  await cluster.ok("cp -r $W/t $M/t2", slow);
  const { chunks } = await cluster.awaitStatus("it gets chunks", (now) => first(now).chunks > 0);
  t.equal(chunks.lost, 0);
  t.match(await cluster.gfs("maintenance 1"), { code: 0, out: /in maintenance/ });
  t.match(await cluster.gfs("status"), { out: /up, maintenance \(30 min\)/ });
  t.match(await cluster.gfs("maintenance 1 --undo"), { code: 0, out: /is in use/ });
  await cluster.healthy();
});
