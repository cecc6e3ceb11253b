import assert from "node:assert/strict";
import {
  type Theme,
  fails,
  hasAttributes,
  hasBytes,
  missing,
  pattern,
  untilItWaits,
} from "../case.ts";

/**
 * The same directory through two mounts: metadata at once, data from close to open, locks and
 * appends always. With one mount, the two are the same.
 */
export const mounts: Theme = {
  theme: "two mounts",
  cases: [
    {
      name: "what one mount wrote and closed, the other then opens and reads",
      source: "design: close-to-open",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 5; i += 1) {
          const bytes = pattern(50_000 + i, i + 1);
          await root.put("file", bytes);
          await hasBytes(far, "file", bytes);
          await far.put("file", `far ${i}`);
          await hasBytes(root, "file", `far ${i}`);
        }
      },
    },
    {
      name: "a new name is found at once where it was missing just before",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 20; i += 1) {
          await missing(far, `f${i}`);
          await root.put(`f${i}`);
          await hasAttributes(far, `f${i}`, { kind: "file" });
          assert.ok((await far.list()).includes(`f${i}`));
        }
      },
    },
    {
      name: "a removed name is missing at once where it was just seen",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 20; i += 1) {
          await root.put("file");
          await hasAttributes(far, "file", { kind: "file" });
          await root.unlink("file");
          await missing(far, "file");
          await root.mkdir("dir");
          await hasAttributes(far, "dir", { kind: "directory" });
          await far.rmdir("dir");
          await missing(root, "dir");
        }
      },
    },
    {
      name: "a rename is seen at once, with both names",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        await root.put("a", "data");
        for (let i = 0; i < 10; i += 1) {
          await hasBytes(far, "a", "data");
          await root.rename("a", "b");
          await missing(far, "a");
          await hasBytes(far, "b", "data");
          await far.rename("b", "a");
          await missing(root, "b");
          await hasBytes(root, "a", "data");
        }
      },
    },
    {
      name: "a replaced file is the new one at once",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 10; i += 1) {
          await root.put("new", `version ${i}`);
          await root.rename("new", "current");
          await hasBytes(far, "current", `version ${i}`);
        }
      },
    },
    {
      name: "modes, owners, times and sizes are seen at once",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        await root.put("file", "data");
        await hasAttributes(far, "file", { size: 4 });
        for (let i = 0; i < 10; i += 1) {
          await root.chmod("file", 0o600 + i);
          await hasAttributes(far, "file", { mode: 0o600 + i });
          await far.utimens("file", 1n, BigInt(i) * 1_000_000_007n);
          await hasAttributes(root, "file", { mtime: BigInt(i) * 1_000_000_007n });
          await root.truncate("file", i);
          await hasAttributes(far, "file", { size: i });
        }
      },
    },
    {
      name: "an open file shows the attributes that the other mount gave it",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        await root.put("file", "data");
        const fd = await far.open("file", "O_RDONLY");
        await root.chmod("file", 0o640);
        await root.link("file", "second");
        await hasAttributes(far, fd, { mode: 0o640, nlink: 2 });
      },
    },
    {
      name: "attributes and lists of the other mount are seen at once",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        await root.put("file");
        await fails("ENODATA", far.getxattr("file", "user.a"));
        await root.setxattr("file", "user.a", "1");
        assert.equal(await far.getxattr("file", "user.a"), "1");
        await far.setxattr("file", "user.a", "2");
        assert.equal(await root.getxattr("file", "user.a"), "2");
        await root.removexattr("file", "user.a");
        await fails("ENODATA", far.getxattr("file", "user.a"));
      },
    },
    {
      name: "a link that the other mount replaced leads to the new target",
      source: "design: metadata is coherent",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 10; i += 1) {
          await root.symlink(`target${i}`, "new");
          await root.rename("new", "link");
          assert.equal(await far.readlink("link"), `target${i}`);
        }
      },
    },
    {
      name: "a file that the other mount unlinked or replaced stays readable where it is open",
      source: "POSIX unlink",
      async run({ root, other }) {
        const far = await other();
        await root.put("a", pattern(200_000));
        await root.put("b", "b");
        await root.put("new", "new");
        const [a, b] = [await far.open("a", "O_RDWR"), await far.open("b", "O_RDWR")];
        await root.unlink("a");
        await root.rename("new", "b");
        assert.ok((await far.pread(a, 200_000, 0)) === pattern(200_000), "bytes of a");
        assert.equal(await far.pread(b, 10, 0), "b");
        await far.pwrite(a, "more", 200_000);
        await far.fsync(a);
        await hasAttributes(far, a, { nlink: 0, size: 200_004 });
        await hasAttributes(far, b, { nlink: 0 });
        await hasBytes(root, "b", "new");
      },
    },
    {
      name: "O_EXCL on both mounts: one makes the file",
      source: "POSIX open O_EXCL",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 20; i += 1) {
          const flags = "O_CREAT|O_EXCL|O_RDWR";
          const made = await Promise.allSettled([
            root.open(`lock${i}`, flags),
            far.open(`lock${i}`, flags),
          ]);
          assert.equal(made.filter(({ status }) => status === "fulfilled").length, 1);
        }
      },
    },
    {
      name: "O_CREAT without O_EXCL on both mounts: both open the same file",
      source: "POSIX open O_CREAT",
      async run({ root, other }) {
        const far = await other();
        for (let i = 0; i < 20; i += 1) {
          const [a, b] = await Promise.all([
            root.open(`f${i}`, "O_CREAT|O_RDWR"),
            far.open(`f${i}`, "O_CREAT|O_RDWR"),
          ]);
          assert.equal((await root.stat(a)).ino, (await far.stat(b)).ino);
        }
      },
    },
    {
      name: "appenders on both mounts lose no record and tear none",
      source: "POSIX write O_APPEND",
      async run({ root, other }) {
        const far = await other();
        await Promise.all(
          [root, far].map(async (writer, number) => {
            const fd = await writer.open("log", "O_CREAT|O_WRONLY|O_APPEND");
            for (let i = 0; i < 50; i += 1) {
              await writer.write(fd, `${`${number}:${i}`.padEnd(99, ".")}\n`);
            }
            await writer.close(fd);
          }),
        );
        for (const reader of [root, far]) {
          const lines = (await reader.get("log")).split("\n").slice(0, -1);
          assert.equal(lines.length, 100);
          assert.ok(lines.every((line) => line.length === 99));
          assert.equal(new Set(lines).size, 100);
        }
      },
    },
    {
      name: "flock of one mount keeps the other out, which waits for it",
      source: "flock(2)",
      async run({ root, other }) {
        const far = await other();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await far.open("file", "O_RDWR"),
        ];
        await root.flock(mine, "LOCK_EX");
        await fails("EAGAIN", far.flock(theirs, "LOCK_EX|LOCK_NB"));
        const waiting = far.flock(theirs, "LOCK_EX");
        await untilItWaits(far, "flock");
        await root.flock(mine, "LOCK_UN");
        await waiting;
        await fails("EAGAIN", root.flock(mine, "LOCK_SH|LOCK_NB"));
      },
    },
    {
      name: "record locks of one mount keep the other out, range by range",
      source: "POSIX fcntl",
      async run({ root, other }) {
        const far = await other();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await far.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK", 0, 10);
        await fails(["EAGAIN", "EACCES"], far.lock(theirs, "F_SETLK", "F_RDLCK", 5, 10));
        const found = await far.lock(theirs, "F_GETLK", "F_WRLCK", 0, 0);
        assert.deepEqual([found.kind, found.start, found.length], ["F_WRLCK", 0, 10]);
        await far.lock(theirs, "F_SETLK", "F_WRLCK", 10, 10);
        const waiting = root.lock(mine, "F_SETLKW", "F_WRLCK", 10, 5);
        await untilItWaits(root, "fcntl");
        await far.close(theirs);
        await waiting;
      },
    },
    {
      name: "the death of a process on the other mount lets go of its locks",
      source: "POSIX fcntl, flock(2)",
      async run({ root, other }) {
        const far = await other();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await far.open("file", "O_RDWR"),
        ];
        await far.lock(theirs, "F_SETLK", "F_WRLCK");
        await far.flock(theirs, "LOCK_EX");
        const waiting = root.lock(mine, "F_SETLKW", "F_WRLCK");
        await untilItWaits(root, "fcntl");
        await far.kill();
        await waiting;
        await root.flock(mine, "LOCK_EX");
      },
    },
    {
      name: "bytes under a lock are seen by the next who has it",
      source: "POSIX fcntl (what databases rely on)",
      async run({ root, other }) {
        const far = await other();
        await root.put("count", "0".padEnd(8));
        const next = async (one: typeof root, fd: number): Promise<void> => {
          for (let i = 0; i < 10; i += 1) {
            await one.lock(fd, "F_SETLKW", "F_WRLCK");
            const value = Number(await one.pread(fd, 8, 0)) + 1;
            await one.pwrite(fd, String(value).padEnd(8), 0);
            await one.fsync(fd);
            await one.lock(fd, "F_SETLK", "F_UNLCK");
          }
        };
        const [mine, theirs] = [
          await root.open("count", "O_RDWR"),
          await far.open("count", "O_RDWR"),
        ];
        await Promise.all([next(root, mine), next(far, theirs)]);
        assert.equal(Number(await root.get("count")), 20);
      },
    },
    {
      name: "both mounts make and remove in one directory, and see the same in the end",
      source: "POSIX open, unlink, rename",
      async run({ root, other }) {
        const far = await other();
        await Promise.all(
          [root, far].map(async (one, number) => {
            for (let i = 0; i < 40; i += 1) {
              await one.put(`${number}-${i}`, "x");
              if (i % 2 === 0) await one.unlink(`${number}-${i}`);
              else await one.rename(`${number}-${i}`, `r${number}-${i}`);
            }
          }),
        );
        const names = await root.list();
        assert.equal(names.length, 40);
        assert.deepEqual(await far.list(), names);
      },
    },
    {
      name: "a directory that the other mount removed takes nothing more",
      source: "POSIX rmdir",
      async run({ root, other }) {
        const far = await other();
        await root.mkdir("dir");
        await far.request("chdir", "dir");
        await root.rmdir("dir");
        await fails("ENOENT", far.open("x", "O_CREAT|O_RDWR"));
        await missing(far, "../dir");
      },
    },
    {
      name: "sqlite writers on both mounts keep the count and the file whole",
      source: "sqlite.org/lockingv3.html",
      secondsMax: 180,
      async run({ root, other }) {
        const far = await other();
        const script = (body: string): string[] => [
          "python3",
          "-c",
          `import sqlite3\nc = sqlite3.connect('db', timeout=120, isolation_level=None)\n${body}`,
        ];
        assert.equal((await root.run(script("c.execute('create table t (n)')"))).err, "");
        const insert = "for n in range(20): c.execute('insert into t values (?)', (n,))";
        const done = await Promise.all([root, far].map((one) => one.run(script(insert))));
        assert.deepEqual(
          done.map(({ err }) => err),
          ["", ""],
        );
        const check =
          "print(c.execute('select count(*) from t').fetchone()[0], " +
          "c.execute('pragma integrity_check').fetchone()[0])";
        assert.equal((await root.run(script(check))).out, "40 ok\n");
        assert.equal((await far.run(script(check))).out, "40 ok\n");
      },
    },
  ],
};
