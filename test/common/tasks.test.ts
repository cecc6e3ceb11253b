import t from "tap";
import { sleep } from "../../common/clock.ts";
import { silentLog } from "../../common/log.ts";
import { Tasks } from "../../common/tasks.ts";
import { handClock } from "../support/hand-clock.ts";

t.test("any number of loops can wait for the end, and Node warns of no leak", async (t) => {
  const warnings: string[] = [];
  const listen = (warning: Error): void => void warnings.push(warning.name);
  process.on("warning", listen);
  t.teardown(() => process.off("warning", listen));
  const { clock } = handClock();
  const tasks = new Tasks({ clock, log: silentLog });
  let ended = 0;
  for (let i = 0; i < 40; i += 1) {
    tasks.run(`loop ${i}`, async () => {
      await sleep(clock, 60_000, tasks.signal);
      ended += 1;
    });
  }
  await tasks.stop();
  // Node emits a warning in a tick of its own.
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(ended, 40);
  t.same(warnings, []);
});
