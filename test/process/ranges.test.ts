import t from "tap";
import { Cluster, type Status } from "../support/cluster.ts";

/** Ranges of files through the kernel: shared, punched, allocated, appended to. */

const cluster = await Cluster.start(t, { chunkMiB: 1, mounts: 0 });
await cluster.mount(["--binding", "device"]);
await cluster.mount(["--binding", "device"]);
const slow = { timeoutMs: 240_000 };

const usedBytes = ({ servers }: Status): number =>
  servers.reduce((sum, server) => sum + server.usedBytes, 0);

t.test("cp -r out of a snapshot moves no bytes, and the copy is a copy", async (t) => {
  await cluster.ok(
    `mkdir $M/t; head -c 9000000 </dev/urandom >$M/t/big; head -c 3000 </dev/urandom >$M/t/small
    truncate -s 2G $M/t/sparse; printf x | dd of=$M/t/sparse bs=1 seek=1500000000 conv=notrunc
    sync $M/t/*; mkdir $M/t/.snapshots/s; cp -r $M/t $W/t --sparse=always`,
    slow,
  );
  // Chunk servers tell how much they hold with their heartbeats.
  const settled = await cluster.awaitStatus("all is told", (now) => usedBytes(now) > 27_000_000);
  await cluster.ok("cp -r $M/t/.snapshots/s $M/r", slow);
  t.equal(await cluster.ok("diff -r $W/t $M2/r", slow), "");
  await cluster.ok("printf 'other' | dd of=$M/r/big bs=1 seek=5000000 conv=notrunc", slow);
  t.equal(await cluster.ok("diff -r $W/t $M2/t/.snapshots/s", slow), "", "it is a copy");
  t.match(await cluster.sh("cmp $M/r/big $M2/t/big"), { code: 1 });
  const now = await cluster.status();
  const grown = usedBytes(now) - usedBytes(settled);
  t.ok(grown <= 6_500_000, `one chunk became two on each of three servers: ${grown} bytes`);
});

t.test("fallocate makes holes, zeros and room", async (t) => {
  await cluster.ok("head -c 5000000 </dev/urandom >$W/f; cp $W/f $M/f");
  const both = (command: string): Promise<string> =>
    cluster.ok(`for f in $W/f $M/f; do ${command} $f; done; cmp $W/f $M2/f; stat -c %s $M2/f`);
  t.equal(await both("fallocate -p -o 1000000 -l 2500000"), "5000000");
  t.equal(await both("fallocate -z -o 4500000 -l 1000000"), "5500000");
  t.equal(await both("fallocate -n -z -o 5400000 -l 1000000"), "5500000");
  t.equal(await both("fallocate -l 7000000"), "7000000");
  t.equal(await both("fallocate -n -l 9000000"), "7000000");
  t.match(await cluster.sh("fallocate -l 4E $M/f"), { code: 1, err: /space|large/i });
  t.match(await cluster.sh("fallocate -c -o 0 -l 4096 $M/f"), { code: 1, err: /not supported/i });
});

t.test("appenders on two mounts lose and mix nothing", async (t) => {
  const appender = `const fs = require("fs"), [path, who] = process.argv.slice(1);
    const fd = fs.openSync(path, "a");
    for (let i = 0; i < 300; i += 1) {
      const record = Buffer.from(who + ":" + i + ":" + "x".repeat(20 + ((i * 37) % 300)) + "\\n");
      if (fs.writeSync(fd, record) !== record.length) throw new Error("short write");
    }`;
  const run = [1, 2, 3, 4].map(
    (who) => `node -e "$APPENDER" $M${who % 2 ? "" : "2"}/log w${who} &`,
  );
  const env = { APPENDER: appender };
  await cluster.ok(`: >$M/log; ${run.join(" ")} wait`, { ...slow, env });
  const log = await cluster.ok("cat $M2/log");
  t.equal(log, await cluster.ok("cat $M/log"));
  const seen = new Map<string, number>();
  for (const line of log.split("\n")) {
    const [who = "", number = "", rest = ""] = line.split(":");
    t.equal(Number(number), seen.get(who) ?? 0, `the next of ${who}`);
    t.equal(rest.length, 20 + ((Number(number) * 37) % 300));
    seen.set(who, Number(number) + 1);
  }
  t.same([...seen.values()], [300, 300, 300, 300]);
});
