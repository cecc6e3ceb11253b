import t from "tap";
import type { Clock } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { FreshWrites } from "../../master/service/fresh-writes.ts";
import { ino, sessionId } from "../../protocol/id.ts";

t.test("a mount that syncs hears what others have written, for as long as it matters", (t) => {
  let nowMs = 0;
  const clock: Clock = { ...systemClock, nowMs: () => nowMs };
  const writes = new FreshWrites(clock);
  const [one, two, three] = [sessionId(1), sessionId(2), sessionId(3)];
  writes.note(ino(5), one, [0, 1]);
  writes.note(ino(5), two, [1, 2]);
  t.same(writes.ofOthers(ino(5), one), [1, 2]);
  t.same(writes.ofOthers(ino(5), two), [0, 1]);
  t.same(new Set(writes.ofOthers(ino(5), three)), new Set([0, 1, 2]));
  t.same(writes.ofOthers(ino(6), one), []);
  nowMs += 50_000;
  writes.note(ino(5), two, [7]);
  nowMs += 20_000;
  t.same(writes.ofOthers(ino(5), three), [1, 2, 7], "the first one's are long on their disks");
  nowMs += 60_001;
  t.same(writes.ofOthers(ino(5), three), []);
  t.end();
});
