import { mkdir } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { bash, mountMemory, runCases, temporaryDirectory } from "./fuse-native-support.ts";

const binding = ["--binding", "device"];

for (const seconds of ["0", "1"]) {
  await t.test(`a mount does the same, with ${seconds} s of caching in the kernel`, async (tt) => {
    const directory = path.join(await temporaryDirectory(tt), "m");
    await mkdir(directory);
    const mount = await mountMemory(tt, directory, [...binding, "--seconds", seconds]);
    await runCases(tt as typeof t, directory);
    await tt.test("nothing is left open or referenced", async (ttt) => {
      await bash(`rm -rf ${directory}/*; echo 2 > /proc/sys/vm/drop_caches`);
      const state = await mount.ask();
      ttt.equal(state.openFiles, 0, "open files");
      ttt.equal(state.references, 0, "references");
      ttt.equal(state.inodes, 1, "only the root is left");
    });
  });
}
