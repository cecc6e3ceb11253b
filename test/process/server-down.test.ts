import t from "tap";
import { Cluster, type Status } from "../support/cluster.ts";

/** Chunk servers that go and come back (P6): work goes on, waits, or fails when told to. */

const cluster = await Cluster.start(t, { chunkMiB: 1 });
const slow = { timeoutMs: 240_000 };

await cluster.ok(`mkdir $W/t; cd $W/t
  for i in {1..40}; do head -c $((i * 9973)) <(yes $i) >f$i; done
  head -c 9000000 /dev/urandom >big; cp -r $W/t $M/t`);
const [mount] = cluster.mounts;
if (!mount) throw new Error("there is a mount");

const states = ({ servers }: Status): string[] => servers.map(({ state }) => state);
const up = (now: Status): number => states(now).filter((state) => state === "up").length;

t.test("with one of three servers killed, reads and writes go on", async (t) => {
  const victim = cluster.server(1);
  await victim.kill();
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "");
  await cluster.ok("cp -r $W/t $M/t2; printf more >>$M/t/f1; printf more >>$W/t/f1", slow);
  await cluster.ok("printf middle | tee $M/t/big $W/t/big >/dev/null", slow);
  await cluster.freshMount(mount);
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "");
  const now = await cluster.awaitStatus("the server counts as away", (now) => up(now) === 2);
  t.ok(now.chunks.belowGoal > 0, `${now.chunks.belowGoal} chunks lack a copy`);
  t.equal(now.chunks.lost, 0);
  t.match(await cluster.gfs("status"), { code: 0, out: /suspect|dead/ });
});

t.test("a server that comes back is made whole, and its old copies are not read", async (t) => {
  cluster.server(1).start();
  await cluster.ready();
  const { chunks } = await cluster.healthy(180_000);
  t.match(chunks, { belowGoal: 0, lost: 0, corrupt: 0 });
  // Now only this one and another are left: what it has must be the new state.
  await cluster.server(0).kill();
  await cluster.freshMount(mount);
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "");
  await cluster.server(2).kill();
  await cluster.freshMount(mount);
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "", "also from this server alone");
});

t.test("with all servers killed a read waits, can be interrupted, and then goes on", async (t) => {
  await cluster.server(1).kill();
  await cluster.freshMount(mount);
  const interrupted = await cluster.sh("timeout -s INT 2 cat $M/t/f7", { timeoutMs: 30_000 });
  t.match(interrupted, { code: 124, timedOut: false }, "SIGINT ends a waiting reader");
  t.equal(await cluster.ok("ls $M/t | wc -l"), "41", "names need the master alone");
  const reader = cluster.startShell("cat $M/t/f20 | cmp - $W/t/f20", slow);
  const writer = cluster.startShell("cp $W/t/big $M/t/waiting", slow);
  t.equal(await Promise.race([reader.done, writer.done, waited()]), "both wait");
  for (const server of cluster.servers) server.start();
  await cluster.ready();
  t.match(await reader.done, { code: 0 });
  t.match(await writer.done, { code: 0 });
  t.equal(await cluster.ok("cmp $W/t/big $M/t/waiting; rm $M/t/waiting; diff -r $W/t $M/t"), "");
  t.match((await cluster.healthy(180_000)).chunks, { belowGoal: 0, lost: 0 });
});

/** Long enough for a read that does not wait for the servers to have failed: a fact about time. */
async function waited(): Promise<string> {
  await cluster.ok("sleep 4");
  return "both wait";
}

t.test("a server that hangs holds nothing up for ever", async (t) => {
  cluster.server(0).signal("SIGSTOP");
  try {
    await cluster.ok("cp -r $W/t $M/t3", slow);
    await cluster.freshMount(mount);
    t.equal(await cluster.ok("diff -r $W/t $M/t3", slow), "");
  } finally {
    cluster.server(0).signal("SIGCONT");
  }
  await cluster.ready();
  t.match((await cluster.healthy(180_000)).chunks, { belowGoal: 0, lost: 0 });
});

t.test("a soft mount fails with an error instead of waiting", async (t) => {
  const soft = await cluster.mount(["-o", "soft,timeout=2"]);
  t.equal(await cluster.ok("cmp $W/t/f3 $M2/t/f3"), "");
  for (const server of cluster.servers) await server.kill();
  const read = await cluster.sh("cat $M2/t/f9", { timeoutMs: 60_000 });
  t.match(read, { code: 1, timedOut: false, err: /error|timed out/i });
  t.comment(`a read failed after ${read.ms} ms: ${read.err.trim()}`);
  // cp, unlike the shell, looks at what write and close return.
  const write = await cluster.sh("cp $W/t/big $M2/t/new", { timeoutMs: 60_000 });
  t.match(write, { code: 1, timedOut: false, err: /error|timed out/i });
  const small = await cluster.sh("cp $W/t/f3 $M2/t/small", { timeoutMs: 60_000 });
  t.match(small, { code: 1, timedOut: false, err: /error|timed out/i }, "close tells it too");
  await cluster.master.kill();
  const list = await cluster.sh("ls $M2/t3", { timeoutMs: 60_000 });
  t.match(list, { code: 2, timedOut: false }, "also without the master");
  cluster.master.start();
  for (const server of cluster.servers) server.start();
  await cluster.ready();
  t.equal(await cluster.ok("diff -r $W/t $M2/t3", slow), "", "and works again after");
  t.ok(soft.program.running);
  cluster.peaks();
});
