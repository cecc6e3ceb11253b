import t from "tap";
import { Tasks } from "../../../common/tasks.ts";
import type { Ino } from "../../../protocol/id.ts";
import { OpenFiles } from "../../../mount/ops/open-files.ts";
import { clock, Deferred, file, log } from "./support.ts";

/** Open files whose releases reach the test before they are sent. */
function openFiles() {
  const told: Deferred<() => Ino[]>[] = [new Deferred(), new Deferred()];
  const sent = new Deferred();
  let count = 0;
  const files = new OpenFiles({
    clock,
    tasks: new Tasks({ clock, log }),
    tell: (inos) => {
      told[count]?.resolve(inos);
      count += 1;
      return sent.promise;
    },
  });
  return { files, told, sent };
}

await t.test("a file that is being opened again is not released, at any attempt", async (tt) => {
  const { files, told, sent } = openFiles();
  files.hold(file);
  tt.ok(files.letGo(file), "the last one");
  const inos = await told[0]!.promise;
  tt.same(inos(), [5], "closed");
  files.hold(file);
  tt.same(inos(), [], "the next attempt leaves it out");
  tt.same(files.inos(), [5], "a session that is resumed tells that it is open");
  sent.resolve();
});

await t.test("a failed open is released", async (tt) => {
  const { files, told, sent } = openFiles();
  files.hold(file);
  files.letGo(file);
  tt.same((await told[0]!.promise)(), [5]);
  sent.resolve();
});

await t.test("a create learns that a release of its file has passed it by", async (tt) => {
  const { files, told, sent } = openFiles();
  files.hold(file);
  files.letGo(file);
  const inos = await told[0]!.promise;
  const opening = files.opening();
  tt.equal(opening.crossed(file), false);
  inos();
  tt.equal(opening.crossed(file), true);
  opening.end();
  const next = files.opening();
  tt.equal(next.crossed(file), false, "what was sent before comes first");
  next.end();
  sent.resolve();
});

await t.test("a closed file stays open for the master, until it changes", async (tt) => {
  const { files, told, sent } = openFiles();
  files.hold(file);
  files.opened(file);
  files.letGo(file);
  tt.ok(files.isOpened(file), "opening it again is no question");
  tt.same(files.inos(), [], "but a session that is resumed does not claim it");
  files.unpark(file);
  tt.notOk(files.isOpened(file));
  tt.same((await told[0]!.promise)(), [file]);
  sent.resolve();
});

await t.test("a file that lost its name while it was open is released when closed", async (tt) => {
  const { files, told, sent } = openFiles();
  files.hold(file);
  files.opened(file);
  files.unpark(file);
  files.letGo(file);
  tt.same((await told[0]!.promise)(), [file]);
  sent.resolve();
});

await t.test("what was parked counts for nothing after the connection was lost", async (tt) => {
  const { files } = openFiles();
  files.hold(file);
  files.opened(file);
  files.letGo(file);
  files.disconnected();
  tt.notOk(files.isOpened(file));
  tt.notOk(files.takeParked(file), "and is not told as closed");
});
