import { mkdtempSync, rmSync } from "node:fs";
import t from "tap";
import { must } from "../../common/assert.ts";
import { Cluster } from "../support/cluster.ts";
import { SmallDisk } from "../support/small-disk.ts";

/** One disk for all servers, the master and all logs, and it fills up to the last byte. */

const disk = SmallDisk.mount(t, 400);
if (!disk) {
  t.plan(0, "mounting a small disk takes root");
  process.exit(0);
}
const { TMPDIR } = process.env;
process.env["TMPDIR"] = disk.path;
const cluster = await Cluster.start(t, { chunkMiB: 1 });
if (TMPDIR === undefined) delete process.env["TMPDIR"];
else process.env["TMPDIR"] = TMPDIR;
/** For what the tests note down while the disk is full. */
const memory = mkdtempSync("/dev/shm/gfs-full-disk-");
t.teardown(() => rmSync(memory, { recursive: true }));
const slow = { timeoutMs: 120_000 };

async function expectAllRun(test: { ok(fact: boolean, what: string): unknown }): Promise<void> {
  for (const program of cluster.programs) {
    test.ok(program.running, program.running ? program.title : await program.lastWords());
  }
}

const write = (name: string, kib: number): string =>
  `dd if=/dev/urandom of=$M/${name} bs=1k count=${kib} conv=fsync status=none`;

t.test("writers get ENOSPC when no server has room, and what was there is right", async (t) => {
  await cluster.ok(`for i in {1..20}; do ${write("kept$i", 50)}; ${write("large$i", 200)}; done
    cd $M; sha256sum * >$W/sums`);
  const much = await cluster.sh("dd if=/dev/zero of=$M/much bs=1M count=300 conv=fsync", slow);
  t.match(much, { code: 1, timedOut: false, err: /No space left on device/ });
  must(disk, "a disk").fill();
  const files = await cluster.sh(
    `for i in {1..40}; do timeout 20 ${write("small$i", 20)} || exit 9; done`,
    slow,
  );
  t.match(files, { code: 9, timedOut: false, err: /No space left on device/ });
  t.equal(await cluster.ok("cd $M && sha256sum --check --quiet $W/sums", slow), "");
  t.match(await cluster.sh("mkdir $M/d{1..2000}", slow), { timedOut: false });
  t.equal(await cluster.ok("cd $M && sha256sum --check --quiet $W/sums", slow), "");
});

t.test("no program has ended, and all goes on when there is room again", async (t) => {
  await expectAllRun(t);
  must(disk, "a disk").free();
  await cluster.ok("rm $M/much", slow);
  await cluster.awaitStatus("the servers have room", ({ servers }) =>
    servers.every((server) => server.disk === "ok" && server.freeBytes > 100e6),
  );
  await cluster.ok(`${write("after", 3_000)}; mkdir $M/after.d; rm -rf $M/small*`, slow);
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0, corrupt: 0 });
  await cluster.freshMount(must(cluster.mounts[0], "a mount"));
  t.equal(await cluster.ok("cd $M && sha256sum --check --quiet $W/sums", slow), "");
  await expectAllRun(t);
});

t.test("a file that is written while the disk fills is whole or was refused", async (t) => {
  const writer = cluster.startShell(
    `i=0; while [ $i -lt 400 ]; do i=$((i + 1))
      head -c 20000 <(yes $i) >${memory}/source
      timeout 30 dd if=${memory}/source of=$M/w$i bs=20k conv=fsync status=none &&
        echo $i >>${memory}/written || true; done`,
    { timeoutMs: 240_000 },
  );
  await cluster.ok("until test -e $M/w20; do sleep 0.05; done", slow);
  must(disk, "a disk").fill();
  await cluster.sh("sleep 3");
  must(disk, "a disk").free();
  t.match(await writer.done, { code: 0, timedOut: false });
  await expectAllRun(t);
  const wrong = await cluster.ok(
    `for i in $(cat ${memory}/written); do
      cmp -s <(head -c 20000 <(yes $i)) $M/w$i || echo $i; done`,
    slow,
  );
  t.equal(wrong, "");
  t.match((await cluster.healthy(120_000)).chunks, { lost: 0 });
});
