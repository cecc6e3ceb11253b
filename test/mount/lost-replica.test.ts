import t from "tap";
import { must } from "../../common/assert.ts";
import { removeChunk } from "../../chunkd/store/remove.ts";
import { chunkHandle } from "../../protocol/id.ts";
import { pattern } from "../chunkd/support.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { openFlags, TestFile } from "./contents-support.ts";

t.test("a replica that is gone from its server is made again when somebody reads", async (t) => {
  const cluster = await LiveCluster.start(t, { servers: 2 });
  const { fileSystem } = await cluster.mount();
  const bytes = pattern(300_000, 1);
  const file = await TestFile.create(fileSystem, "f");
  await file.write(0, bytes);
  await file.fsync();
  await file.close();
  const { store } = must(cluster.servers[0], "a server");
  const held = (): number[] => store.index.scan(0, 10).map(({ handle }) => handle);
  const [handle] = held();
  await removeChunk(store, chunkHandle(must(handle, "a chunk")));
  t.same(held(), []);
  let wrong = 0;
  // Which of the two a mount asks first is chance; then it is made in the background.
  while (held().length === 0) {
    const { fileSystem: other, close } = await cluster.mount();
    const seen = await TestFile.open(other, "f", openFlags.readOnly);
    if (!(await seen.read(0, bytes.length)).equals(bytes)) wrong += 1;
    await close();
  }
  t.same(held(), [handle]);
  t.equal(wrong, 0);
});
