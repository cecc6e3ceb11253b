import t from "tap";
import type { FileSystem } from "../../mount/fuse/filesystem.ts";
import { statusOf } from "../../protocol/status.ts";
import { pattern } from "../chunkd/support.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { openFlags, TestFile } from "./contents-support.ts";

/**
 * Loss of power between write(2) and fsync(2). What was written has been answered by the page
 * caches of all servers, and the mount has forgotten it.
 */

const bytes = pattern(300_000, 1);

/** A file of two replicas, written, and neither synced nor closed. */
async function written(
  teardown: Parameters<typeof LiveCluster.start>[0],
): Promise<{ cluster: LiveCluster; fileSystem: FileSystem; files: TestFile[] }> {
  const cluster = await LiveCluster.start(teardown, { servers: 2 });
  const { fileSystem } = await cluster.mount();
  const file = await TestFile.create(fileSystem, "f");
  await file.write(0, bytes);
  await file.flush();
  const other = await TestFile.open(fileSystem, "f", openFlags.readWrite);
  return { cluster, fileSystem, files: [file, other] };
}

const fsync = (file: TestFile): Promise<string> => file.fsync().then(() => "done", statusOf);

await t.test("fsync fails if all servers have lost what they had acknowledged", async (tt) => {
  const { cluster, fileSystem, files } = await written(tt);
  await Promise.all([cluster.losePower(0), cluster.losePower(1)]);
  for (const file of files) {
    tt.equal(await fsync(file), "io-error");
    tt.equal(await fsync(file), "done", "an error is told once");
  }
  const again = await TestFile.open(fileSystem, "f", openFlags.readWrite);
  await again.write(0, bytes);
  tt.equal(await fsync(again), "done", "what is written since is there");
});

await t.test("fsync succeeds if one of the servers has not lost power", async (tt) => {
  const { cluster, files } = await written(tt);
  await cluster.losePower(0);
  for (const file of files) tt.equal(await fsync(file), "done");
  const { fileSystem } = await cluster.mount();
  const seen = await TestFile.open(fileSystem, "f", openFlags.readOnly);
  tt.ok((await seen.read(0, bytes.length)).equals(bytes));
});

await t.test("fsync succeeds if only the servers' processes have ended", async (tt) => {
  const { cluster, files } = await written(tt);
  await Promise.all([cluster.killServer(0), cluster.killServer(1)]);
  for (const file of files) tt.equal(await fsync(file), "done");
  const { fileSystem } = await cluster.mount();
  const seen = await TestFile.open(fileSystem, "f", openFlags.readOnly);
  tt.ok((await seen.read(0, bytes.length)).equals(bytes));
});
