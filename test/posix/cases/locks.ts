import assert from "node:assert/strict";
import { type Theme, fails, untilItWaits } from "../case.ts";

/** flock(2) and fcntl(2) record locks. */
export const locks: Theme = {
  theme: "locks",
  cases: [
    {
      name: "an exclusive flock keeps others out, a shared one only exclusive ones",
      source: "flock(2)",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDONLY"),
          await other.open("file", "O_RDONLY"),
        ];
        await root.flock(mine, "LOCK_EX");
        await fails("EAGAIN", other.flock(theirs, "LOCK_EX|LOCK_NB"));
        await fails("EAGAIN", other.flock(theirs, "LOCK_SH|LOCK_NB"));
        await root.flock(mine, "LOCK_SH");
        await other.flock(theirs, "LOCK_SH|LOCK_NB");
        await fails("EAGAIN", root.flock(mine, "LOCK_EX|LOCK_NB"));
        await other.flock(theirs, "LOCK_UN");
        await root.flock(mine, "LOCK_EX|LOCK_NB");
      },
    },
    {
      name: "flock belongs to the open file: a second open in one process is another",
      source: "flock(2)",
      async run({ root }) {
        await root.put("file");
        const first = await root.open("file", "O_RDWR");
        const second = await root.open("file", "O_RDWR");
        await root.flock(first, "LOCK_EX");
        await fails("EAGAIN", root.flock(second, "LOCK_EX|LOCK_NB"));
        const copy = await root.request<number>("dup", first);
        await root.close(first);
        await fails("EAGAIN", root.flock(second, "LOCK_EX|LOCK_NB"));
        await root.close(copy);
        await root.flock(second, "LOCK_EX|LOCK_NB");
      },
    },
    {
      name: "flock waits until it is let go, and is then held",
      source: "flock(2)",
      async run({ root, process }) {
        const [other, third] = [await process(), await process()];
        await root.put("file");
        const mine = await root.open("file", "O_RDWR");
        const theirs = await other.open("file", "O_RDWR");
        await root.flock(mine, "LOCK_EX");
        const waiting = other.flock(theirs, "LOCK_EX");
        await untilItWaits(other, "flock");
        await root.flock(mine, "LOCK_UN");
        await waiting;
        const last = await third.open("file", "O_RDWR");
        await fails("EAGAIN", third.flock(last, "LOCK_SH|LOCK_NB"));
      },
    },
    {
      name: "flock is let go by close and by the death of the process",
      source: "flock(2)",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const mine = await root.open("file", "O_RDWR");
        const first = await other.open("file", "O_RDWR");
        await other.flock(first, "LOCK_EX");
        const waiting = root.flock(mine, "LOCK_EX");
        await untilItWaits(root, "flock");
        await other.close(first);
        await waiting;
        await root.flock(mine, "LOCK_UN");
        const second = await other.open("file", "O_RDWR");
        await other.flock(second, "LOCK_EX");
        const again = root.flock(mine, "LOCK_EX");
        await untilItWaits(root, "flock");
        await other.kill();
        await again;
      },
    },
    {
      name: "a signal interrupts the wait for flock with EINTR, and nothing is held",
      source: "flock(2) EINTR",
      async run({ root, process }) {
        const [other, third] = [await process(), await process()];
        await root.put("file");
        const mine = await root.open("file", "O_RDWR");
        const theirs = await other.open("file", "O_RDWR");
        await root.flock(mine, "LOCK_EX");
        const waiting = fails("EINTR", other.flock(theirs, "LOCK_EX"));
        await untilItWaits(other, "flock");
        other.signal("SIGUSR1");
        await waiting;
        await root.flock(mine, "LOCK_UN");
        const last = await third.open("file", "O_RDWR");
        await third.flock(last, "LOCK_EX|LOCK_NB");
      },
    },
    {
      name: "flock needs no writing, and is on directories too",
      source: "flock(2)",
      async run({ root, process }) {
        const other = await process();
        const [mine, theirs] = [
          await root.open(".", "O_RDONLY|O_DIRECTORY"),
          await other.open(".", "O_RDONLY|O_DIRECTORY"),
        ];
        await root.flock(mine, "LOCK_EX");
        await fails("EAGAIN", other.flock(theirs, "LOCK_SH|LOCK_NB"));
        await fails("EINVAL", root.request("flock", mine, ""));
      },
    },
    {
      name: "flock and fcntl locks do not meet",
      source: "flock(2) NOTES",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.flock(mine, "LOCK_EX");
        await other.lock(theirs, "F_SETLK", "F_WRLCK");
      },
    },
    {
      name: "a write lock keeps others out of its range, and out of no other",
      source: "POSIX fcntl F_SETLK",
      async run({ root, process }) {
        const other = await process();
        await root.put("file", "x".repeat(100));
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK", 10, 10);
        for (const [start, length] of [
          [10, 10],
          [0, 11],
          [19, 1],
          [0, 0],
          [15, 0],
        ] as const) {
          const tried = other.lock(theirs, "F_SETLK", "F_WRLCK", start, length);
          await fails(["EAGAIN", "EACCES"], tried);
          const reading = other.lock(theirs, "F_SETLK", "F_RDLCK", start, length);
          await fails(["EAGAIN", "EACCES"], reading);
        }
        await other.lock(theirs, "F_SETLK", "F_WRLCK", 0, 10);
        await other.lock(theirs, "F_SETLK", "F_WRLCK", 20, 0);
      },
    },
    {
      name: "read locks share, and F_GETLK says who is in the way",
      source: "POSIX fcntl F_GETLK",
      async run({ root, process }) {
        const other = await process();
        await root.put("file", "x".repeat(100));
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_RDLCK", 5, 20);
        await other.lock(theirs, "F_SETLK", "F_RDLCK", 0, 0);
        assert.deepEqual(await root.lock(mine, "F_GETLK", "F_WRLCK", 0, 50), {
          kind: "F_RDLCK",
          start: 0,
          length: 0,
          pid: other.pid,
        });
        assert.deepEqual(await other.lock(theirs, "F_GETLK", "F_WRLCK", 0, 50), {
          kind: "F_RDLCK",
          start: 5,
          length: 20,
          pid: root.pid,
        });
        assert.equal((await root.lock(mine, "F_GETLK", "F_RDLCK", 0, 50)).kind, "F_UNLCK");
      },
    },
    {
      name: "a process changes and splits its own locks",
      source: "POSIX fcntl F_SETLK",
      async run({ root, process }) {
        const other = await process();
        await root.put("file", "x".repeat(100));
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK", 0, 100);
        await root.lock(mine, "F_SETLK", "F_UNLCK", 40, 20);
        await other.lock(theirs, "F_SETLK", "F_WRLCK", 40, 20);
        await root.lock(mine, "F_SETLK", "F_RDLCK", 60, 40);
        await other.lock(theirs, "F_SETLK", "F_RDLCK", 70, 10);
        const found = await other.lock(theirs, "F_GETLK", "F_WRLCK", 0, 0);
        assert.deepEqual([found.kind, found.start, found.length], ["F_WRLCK", 0, 40]);
        await fails(["EAGAIN", "EACCES"], other.lock(theirs, "F_SETLK", "F_WRLCK", 60, 1));
      },
    },
    {
      name: "the wait for a record lock ends when it is let go",
      source: "POSIX fcntl F_SETLKW",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK", 0, 10);
        const waiting = other.lock(theirs, "F_SETLKW", "F_WRLCK", 5, 10);
        await untilItWaits(other, "fcntl");
        await root.lock(mine, "F_SETLK", "F_UNLCK", 0, 10);
        await waiting;
        await fails(["EAGAIN", "EACCES"], root.lock(mine, "F_SETLK", "F_RDLCK", 14, 1));
      },
    },
    {
      name: "closing any descriptor of the file lets go of all record locks of the process",
      source: "POSIX fcntl, close",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const mine = await root.open("file", "O_RDWR");
        const second = await root.open("file", "O_RDONLY");
        const theirs = await other.open("file", "O_RDWR");
        await root.lock(mine, "F_SETLK", "F_WRLCK");
        const waiting = other.lock(theirs, "F_SETLKW", "F_WRLCK");
        await untilItWaits(other, "fcntl");
        await root.close(second);
        await waiting;
      },
    },
    {
      name: "the death of a process lets go of its record locks",
      source: "POSIX fcntl, _exit",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await other.lock(theirs, "F_SETLK", "F_WRLCK");
        const waiting = root.lock(mine, "F_SETLKW", "F_WRLCK");
        await untilItWaits(root, "fcntl");
        await other.kill();
        await waiting;
      },
    },
    {
      name: "a child does not have its parent's record locks, and cannot take them",
      source: "POSIX fork, fcntl",
      async run({ root }) {
        await root.put("file");
        const fd = await root.open("file", "O_RDWR");
        await root.lock(fd, "F_SETLK", "F_WRLCK");
        const tried = await root.forked("lock", fd, "F_SETLK", "F_WRLCK");
        assert.deepEqual(tried, { errno: "EAGAIN" });
      },
    },
    {
      name: "a signal interrupts the wait for a record lock with EINTR",
      source: "POSIX fcntl EINTR",
      async run({ root, process }) {
        const [other, third] = [await process(), await process()];
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK");
        const waiting = fails("EINTR", other.lock(theirs, "F_SETLKW", "F_WRLCK"));
        await untilItWaits(other, "fcntl");
        other.signal("SIGUSR1");
        await waiting;
        await root.lock(mine, "F_SETLK", "F_UNLCK");
        const last = await third.open("file", "O_RDWR");
        await third.lock(last, "F_SETLK", "F_WRLCK");
      },
    },
    {
      name: "a process that is killed while it waits leaves nothing behind",
      source: "POSIX fcntl",
      async run({ root, process }) {
        const [other, third] = [await process(), await process()];
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK");
        const waiting = other.lock(theirs, "F_SETLKW", "F_WRLCK").catch(() => undefined);
        await untilItWaits(other, "fcntl");
        await other.kill();
        await waiting;
        await root.lock(mine, "F_SETLK", "F_UNLCK");
        const last = await third.open("file", "O_RDWR");
        await third.lock(last, "F_SETLK", "F_WRLCK");
      },
    },
    {
      name: "two processes that wait for each other: one gets EDEADLK",
      source: "POSIX fcntl EDEADLK",
      async run({ root, process }) {
        const other = await process();
        await root.put("file");
        const [mine, theirs] = [
          await root.open("file", "O_RDWR"),
          await other.open("file", "O_RDWR"),
        ];
        await root.lock(mine, "F_SETLK", "F_WRLCK", 0, 1);
        await other.lock(theirs, "F_SETLK", "F_WRLCK", 1, 1);
        const waiting = other.lock(theirs, "F_SETLKW", "F_WRLCK", 0, 1);
        await untilItWaits(other, "fcntl");
        await fails("EDEADLK", root.lock(mine, "F_SETLKW", "F_WRLCK", 1, 1));
        await root.close(mine);
        await waiting;
      },
    },
    {
      name: "a lock asks for what the descriptor allows: EBADF otherwise",
      source: "POSIX fcntl EBADF",
      async run({ root }) {
        await root.put("file");
        const reader = await root.open("file", "O_RDONLY");
        const writer = await root.open("file", "O_WRONLY");
        await fails("EBADF", root.lock(reader, "F_SETLK", "F_WRLCK"));
        await fails("EBADF", root.lock(writer, "F_SETLK", "F_RDLCK"));
        await fails("EINVAL", root.lock(writer, "F_SETLK", "F_WRLCK", -1, 1));
      },
    },
    {
      name: "open file description locks belong to the open file, and stay when another closes",
      source: "fcntl(2) F_OFD_SETLK",
      async run({ root }) {
        await root.put("file");
        const first = await root.open("file", "O_RDWR");
        const second = await root.open("file", "O_RDWR");
        const third = await root.open("file", "O_RDWR");
        await root.lock(first, "F_OFD_SETLK", "F_WRLCK", 0, 10);
        await fails("EAGAIN", root.lock(second, "F_OFD_SETLK", "F_WRLCK", 5, 1));
        await root.close(third);
        await fails("EAGAIN", root.lock(second, "F_OFD_SETLK", "F_WRLCK", 5, 1));
        await root.close(first);
        await root.lock(second, "F_OFD_SETLK", "F_WRLCK", 5, 1);
      },
    },
    {
      name: "many waiters get the lock one after the other",
      source: "flock(2)",
      async run({ root, process }) {
        const waiters = await Promise.all([process(), process(), process(), process()]);
        await root.put("file");
        await root.put("count", "0");
        const mine = await root.open("file", "O_RDWR");
        await root.flock(mine, "LOCK_EX");
        const done = waiters.map(async (waiter) => {
          const fd = await waiter.open("file", "O_RDWR");
          for (let i = 0; i < 5; i += 1) {
            await waiter.flock(fd, "LOCK_EX");
            await waiter.put("count", String(Number(await waiter.get("count")) + 1));
            await waiter.flock(fd, "LOCK_UN");
          }
        });
        await root.flock(mine, "LOCK_UN");
        await Promise.all(done);
        assert.equal(await root.get("count"), "20");
      },
    },
  ],
};
