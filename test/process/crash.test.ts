import t from "tap";
import { probe } from "../../cli/mounts.ts";
import { Cluster } from "../support/cluster.ts";

/** kill -9 (P1, P2, P6): what was acknowledged is there, and what waits goes on. */

const cluster = await Cluster.start(t, { chunkMiB: 1 });
const slow = { timeoutMs: 240_000 };
const [mount] = cluster.mounts;
if (!mount) throw new Error("there is a mount");

/**
 * Writes files until it is stopped or a write fails. The manifest, outside of the mount, gets a
 * line only after close, and for every second file after fsync, has returned; it is one write(2),
 * so a line is there or not. The size and the contents come from the number: 0 to 2.5 MiB.
 */
const writeLoop = `
  i=0
  while :; do
    i=$((i + 1)); f=$ROUND/d$((i % 5))/f$i; size=$(((i * 7919 * 101) % 300000))
    [ $((i % 10)) != 0 ] || size=$((size + 2200000))
    head -c $size <(yes "$f of round $ROUND") >$W/source
    mkdir -p $M/$ROUND/d$((i % 5)) || exit 7
    if [ $((i % 2)) = 0 ]; then
      dd if=$W/source of=$M/$f bs=128k conv=fsync status=none || exit 7
    else
      cat <$W/source >$M/$f || exit 7
    fi
    printf '%s  %s\\n' "$(sha256sum <$W/source | cut -d' ' -f1)" "$f" >>$W/manifest
  done`;

const lines = (): Promise<number> =>
  cluster.ok("cat $W/manifest 2>/dev/null | wc -l || true").then(Number);

async function killEverything(): Promise<void> {
  const { programs } = cluster;
  for (const program of programs) program.signal("SIGKILL");
  await Promise.all(programs.map((program) => program.exited));
}

async function startEverything(): Promise<void> {
  cluster.master.start();
  for (const server of cluster.servers) server.start();
  await cluster.ready();
  if (mount) await cluster.remount(mount);
}

for (const round of [1, 2, 3]) {
  t.test(`round ${round}: after kill -9 of all programs, what was closed is there`, async (t) => {
    const before = await lines();
    const writer = cluster.startShell(writeLoop, { ...slow, env: { ROUND: `r${round}` } });
    await cluster.ok(`until test $(wc -l <$W/manifest || echo 0) -ge ${before + 25}; do
      sleep 0.02; done 2>/dev/null`);
    await killEverything();
    t.not((await writer.done).code, 0, "the writer saw that the mount died");
    await startEverything();
    const count = await lines();
    t.ok(count >= before + 25, `${count} files in the manifest`);
    const check = await cluster.sh("cd $M && sha256sum --check --quiet $W/manifest", slow);
    t.match(check, { code: 0, out: "", err: "" }, "every file has its checksum");
    const { chunks } = await cluster.healthy(120_000);
    t.match(chunks, { lost: 0, corrupt: 0, belowGoal: 0 });
    await cluster.ok("printf new >$M/new && test $(cat $M/new) = new", slow);
  });
}

t.test("after repair, every file still has its checksum, past all caches", async (t) => {
  await cluster.freshMount(mount);
  t.match(await cluster.sh("cd $M && sha256sum --check --quiet $W/manifest", slow), {
    code: 0,
    out: "",
    err: "",
  });
});

t.test("a copy goes on over kill -9 of the master, and does not notice", async (t) => {
  await cluster.ok(`mkdir $W/many $W/big; cd $W/many; for i in {1..400}; do
    head -c $((i * 97)) <(yes $i) >f$i; done; head -c 40000000 /dev/urandom >$W/big/file`);
  const copy = cluster.startShell("cp -r $W/many $M/many; cp -r $W/big $M/big", slow);
  await cluster.ok("until test -e $M/many/f50 -o -e $M/big; do :; done", slow);
  for (let i = 0; i < 3; i += 1) {
    await cluster.master.kill();
    cluster.master.start();
    await cluster.ready();
  }
  t.match(await copy.done, { code: 0, err: "" });
  t.equal(await cluster.ok("diff -r $W/many $M/many; diff -r $W/big $M/big", slow), "");
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0, belowGoal: 0 });
});

t.test("after kill -9 of the mount, gfs-mount at the same place takes over", async (t) => {
  await cluster.ok("printf kept >$M/kept");
  await mount.program.kill();
  t.match(await probe(mount.directory, 10_000), { state: "dead" });
  t.match(await cluster.sh("cat $M/kept", { timeoutMs: 10_000 }), { code: 1, timedOut: false });
  await cluster.remount(mount);
  t.match(await probe(mount.directory, 10_000), { state: "answers" });
  t.equal(await cluster.ok("cat $M/kept"), "kept");
  await cluster.awaitStatus("only one mount is left", ({ mounts }) => {
    return mounts.filter(({ connected }) => connected).length === 1;
  });
});

t.test("SIGTERM ends each program cleanly, and nothing is lost", async (t) => {
  await cluster.ok("printf late >$M/late");
  t.equal(await mount.program.stop(), 0, "mount");
  for (const server of cluster.servers) t.equal(await server.stop(), 0, server.title);
  t.equal(await cluster.master.stop(), 0, "master");
  await startEverything();
  t.equal(await cluster.ok("cat $M/late"), "late");
  t.match(await cluster.sh("cd $M && sha256sum --check --quiet $W/manifest", slow), {
    code: 0,
    out: "",
    err: "",
  });
  cluster.peaks();
});
