import t from "tap";
import { must } from "../../common/assert.ts";
import { Cluster } from "../support/cluster.ts";

/** Memory is bounded (P8): a file larger than what a program may have goes in and out. */

const peakMiBMax = 300;
const fileMiB = process.env["GFS_TEST_LONG"] === "1" ? 2_048 : 512;
const slow = { timeoutMs: 900_000 };

const cluster = await Cluster.start(t);
const mount = must(cluster.mounts[0], "there is a mount");
cluster.peaks();

/** The same bytes in every run, and different in each chunk. */
const stream = `openssl enc -aes-128-ctr -nosalt -K 0123456789abcdef0123456789abcdef \
  -iv 00000000000000000000000000000000 -in /dev/zero 2>/dev/null | head -c ${fileMiB}M`;

t.test(`${fileMiB} MiB go in and out, and no program takes ${peakMiBMax} MiB`, async (t) => {
  const startMs = performance.now();
  // head ends the pipe before openssl does: its SIGPIPE is no failure.
  const put = `set +o pipefail; ${stream} | tee >(sha256sum >$W/sum) >$M/file; sync $M/file`;
  await cluster.ok(put, slow);
  const writtenMs = performance.now();
  await cluster.freshMount(mount);
  const freshMs = performance.now();
  t.equal(await cluster.ok("sha256sum <$M/file", slow), await cluster.ok("cat $W/sum"));
  const readMs = performance.now();
  const rate = (ms: number): number => Math.round(fileMiB / (ms / 1000));
  t.comment(
    `written at ${rate(writtenMs - startMs)} MiB/s, read at ${rate(readMs - freshMs)} MiB/s`,
  );
  for (const { title, peakMiB } of cluster.peaks()) {
    t.ok(peakMiB > 0 && peakMiB < peakMiBMax, `${title}: ${peakMiB} MiB`);
  }
});
