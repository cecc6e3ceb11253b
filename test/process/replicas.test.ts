import t from "tap";
import { Cluster } from "../support/cluster.ts";

interface Counts {
  replicas: number;
  goals: { goal: number; inodes: number }[];
  chunks: { total: number; atGoal: number; belowGoal: number; aboveGoal: number };
}

t.test("the number of replicas of a directory goes up and down", async (t) => {
  const cluster = await Cluster.start(t, { servers: 3, chunkMiB: 1 });
  const counts = async (path: string): Promise<Counts> => {
    const { out, err } = await cluster.gfs(`replicas get ${path} --json`);
    t.equal(err, "");
    return JSON.parse(out) as Counts;
  };
  await cluster.ok("mkdir -p $M/one/deep $M/three; head -c 300000 /dev/urandom >$M/three/file");
  t.match(
    await cluster.gfs("replicas set /one 1"),
    { code: 0, out: "2 files and directories, 2 changed, 0 chunks changed\n" },
    "a path of the filesystem",
  );
  await cluster.ok("head -c 3000000 /dev/urandom >$M/one/deep/file; sync -f $M");
  t.match(await counts("/one"), {
    replicas: 1,
    goals: [{ goal: 1, inodes: 3 }],
    chunks: { total: 3, atGoal: 3, belowGoal: 0 },
  });
  const sum = await cluster.ok("md5sum <$M/one/deep/file");
  t.match(
    await cluster.gfs(`replicas set ${cluster.m}/one 3`),
    { code: 0, out: "3 files and directories, 3 changed, 3 chunks changed\n" },
    "a path below the mount",
  );
  t.match(await cluster.gfs("replicas set /one 3"), { out: /0 changed, 0 chunks/ }, "again");
  await cluster.awaitStatus("all have their copies", ({ chunks }) => chunks.belowGoal === 0);
  t.match(await counts("/one"), { chunks: { total: 3, atGoal: 3 } }, "copied");
  await cluster.server(0).kill();
  await cluster.server(1).kill();
  t.equal(await cluster.ok("md5sum <$M/one/deep/file", { timeoutMs: 120_000 }), sum);
  t.match(await cluster.gfs("replicas set /three/file 2"), { code: 0 }, "a file alone");
  t.match(await counts("/three"), { replicas: 3, goals: [{ goal: 2 }, { goal: 3 }] });
  t.match(await cluster.gfs("replicas get /three"), {
    out: /^\/three: 3 replicas\n2 replicas: 1 files and directories\n3 replicas: 1 /,
  });
  for (const wrong of ["set /one 0", "set /one 33", "set /one 1.5", "set /one x", "get /none"]) {
    const { code, err } = await cluster.gfs(`replicas ${wrong}`);
    t.equal(code, 1, wrong);
    t.match(err, /^gfs: [^\n]+\n$/, "in one line");
  }
});
