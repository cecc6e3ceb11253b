import { spawnSync } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { createLog } from "../../common/log.ts";

interface Line {
  level: number;
  msg: string;
  number?: number;
  lines?: number;
}

/** A pipe that takes 64 KiB and then nothing until it is read: EAGAIN, as ENOSPC on a disk. */
function fullPipe(test: Pick<typeof t, "equal" | "teardown">): { fd: number; read: () => Line[] } {
  const directory = mkdtempSync(path.join(tmpdir(), "gfs-log-test-"));
  const name = path.join(directory, "pipe");
  test.equal(spawnSync("mkfifo", [name]).status, 0);
  const fd = openSync(name, constants.O_RDWR | constants.O_NONBLOCK);
  test.teardown(() => {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });
  const read = (): Line[] => {
    const bytes = Buffer.alloc(1 << 20);
    const text = bytes.toString("utf8", 0, readSync(fd, bytes));
    return text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Line);
  };
  return { fd, read };
}

t.test("lines that cannot be written are dropped, and how many is said after them", async (t) => {
  const { fd, read } = fullPipe(t);
  const log = createLog("test", "info", fd);
  const filler = "x".repeat(1_000);
  for (let number = 1; number <= 200; number += 1) log.event("some.event", { number, filler });
  const written = read();
  const last = written.at(-1)?.number ?? 0;
  t.ok(last > 10 && last < 200, `the pipe took ${last} of 200 lines`);
  log.event("later.event");
  log.event("last.event");
  t.match(read(), [
    { msg: "later.event" },
    { msg: "log.dropped", lines: 200 - last, level: 50 },
    { msg: "last.event" },
  ]);
});

t.test("a log that never takes a line ends nothing", async () => {
  const fd = openSync("/dev/full", "w");
  const log = createLog("test", "info", fd);
  log.event("some.event");
  log.error("some.error", { error: new Error("no") });
  closeSync(fd);
});

t.test("a level that is none is said in one line", (t) => {
  t.throws(() => createLog("a program", "nonsense"), {
    name: "UserError",
    message: "GFS_LOG is 'nonsense': it can be debug, info, warn, error, silent",
  });
  t.end();
});
