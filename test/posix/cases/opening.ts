import assert from "node:assert/strict";
import { type Theme, alice, fails, hasAttributes, hasBytes, missing, pattern } from "../case.ts";

/** open(2) and its flags. */
export const opening: Theme = {
  theme: "open",
  cases: [
    {
      name: "a missing file is ENOENT without O_CREAT",
      source: "POSIX open",
      async run({ root }) {
        await fails("ENOENT", root.open("none", "O_RDONLY"));
        await fails("ENOENT", root.open("none", "O_RDWR|O_TRUNC"));
        await fails("ENOENT", root.open("none/", "O_RDONLY|O_DIRECTORY"));
      },
    },
    {
      name: "O_EXCL makes the file or says EEXIST, also for a link that leads nowhere",
      source: "POSIX open O_EXCL",
      async run({ root }) {
        await root.close(await root.open("file", "O_CREAT|O_EXCL|O_RDWR"));
        await fails("EEXIST", root.open("file", "O_CREAT|O_EXCL|O_RDWR"));
        await root.symlink("none", "dangling");
        await fails("EEXIST", root.open("dangling", "O_CREAT|O_EXCL|O_RDWR"));
        await root.mkdir("dir");
        await fails("EEXIST", root.open("dir", "O_CREAT|O_EXCL|O_RDWR"));
        await missing(root, "none");
      },
    },
    {
      name: "of many processes that open with O_EXCL, one makes the file",
      source: "POSIX open O_EXCL",
      async run({ root, process }) {
        const others = await Promise.all([process(), process(), process()]);
        for (let round = 0; round < 10; round += 1) {
          const path = `lock${round}`;
          const made = await Promise.allSettled(
            [root, ...others].map((one) => one.open(path, "O_CREAT|O_EXCL|O_RDWR")),
          );
          assert.equal(made.filter(({ status }) => status === "fulfilled").length, 1);
        }
      },
    },
    {
      name: "O_CREAT through a link makes its target",
      source: "POSIX open O_CREAT",
      async run({ root }) {
        await root.mkdir("dir");
        await root.symlink("dir/target", "link");
        await root.put("link", "data");
        await hasBytes(root, "dir/target", "data");
        assert.equal((await root.lstat("link")).kind, "symlink");
      },
    },
    {
      name: "O_TRUNC empties the file, also of what has not been written back",
      source: "POSIX open O_TRUNC",
      async run({ root }) {
        const first = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(first, pattern(100_000));
        const second = await root.open("file", "O_RDWR|O_TRUNC");
        await hasAttributes(root, first, { size: 0 });
        assert.equal(await root.pread(first, 10, 0), "");
        await root.write(second, "new");
        await root.close(first);
        await root.close(second);
        await hasBytes(root, "file", "new");
      },
    },
    {
      name: "O_NOFOLLOW refuses a link with ELOOP",
      source: "POSIX open O_NOFOLLOW",
      async run({ root }) {
        await root.put("file");
        await root.symlink("file", "link");
        await fails("ELOOP", root.open("link", "O_RDONLY|O_NOFOLLOW"));
        await root.close(await root.open("file", "O_RDONLY|O_NOFOLLOW"));
      },
    },
    {
      name: "O_DIRECTORY refuses a file with ENOTDIR, and writing a directory is EISDIR",
      source: "POSIX open O_DIRECTORY, EISDIR",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await fails("ENOTDIR", root.open("file", "O_RDONLY|O_DIRECTORY"));
        await fails("EISDIR", root.open("dir", "O_WRONLY"));
        await fails("EISDIR", root.open("dir", "O_RDWR"));
        await fails("EISDIR", root.open("dir", "O_CREAT|O_RDWR"));
        await fails("EISDIR", root.open("dir", "O_RDONLY|O_CREAT"));
        const fd = await root.open("dir", "O_RDONLY|O_DIRECTORY");
        await fails("EISDIR", root.read(fd, 10));
        await fails("EBADF", root.write(fd, "x"));
      },
    },
    {
      name: "a descriptor reads or writes as it was opened: EBADF otherwise",
      source: "POSIX read, write",
      async run({ root }) {
        await root.put("file", "data");
        const reader = await root.open("file", "O_RDONLY");
        const writer = await root.open("file", "O_WRONLY");
        await fails("EBADF", root.write(reader, "x"));
        await fails("EBADF", root.read(writer, 1));
        await fails("EINVAL", root.truncate(reader, 0));
        await fails("EBADF", root.fallocate(reader, "", 0, 10));
        await hasBytes(root, "file", "data");
      },
    },
    {
      name: "O_PATH finds a file without opening it",
      source: "open(2) O_PATH",
      async run({ root }) {
        await root.put("file", "data", 0);
        const fd = await root.open("file", "O_PATH");
        await hasAttributes(root, fd, { size: 4, kind: "file" });
        await fails("EBADF", root.read(fd, 1));
        await root.symlink("file", "link");
        const link = await root.open("link", "O_PATH|O_NOFOLLOW");
        await hasAttributes(root, link, { kind: "symlink" });
      },
    },
    {
      name: "paths can start at an open directory, wherever it has been moved",
      source: "POSIX openat",
      async run({ root }) {
        await root.mkdir("dir");
        const fd = await root.open("dir", "O_RDONLY|O_DIRECTORY");
        await root.rename("dir", "moved");
        await root.request("openat", fd, "file", "O_CREAT|O_RDWR", 0o644);
        assert.deepEqual(await root.list("moved"), ["file"]);
        await fails("ENOENT", root.request("openat", fd, "none", "O_RDONLY"));
        const file = await root.open("moved/file", "O_RDONLY");
        await fails("ENOTDIR", root.request("openat", file, "x", "O_RDONLY"));
      },
    },
    {
      name: "O_APPEND writes at the end, whatever the offset",
      source: "POSIX write O_APPEND",
      async run({ root }) {
        await root.put("file", "start");
        const fd = await root.open("file", "O_RDWR|O_APPEND");
        await root.lseek(fd, 0, "SEEK_SET");
        await root.write(fd, "-1");
        const second = await root.open("file", "O_WRONLY");
        await root.lseek(second, 0, "SEEK_END");
        await root.write(second, "-2");
        await root.write(fd, "-3");
        assert.equal(await root.lseek(fd, 0, "SEEK_CUR"), 11);
        await hasBytes(root, "file", "start-1-2-3");
      },
    },
    {
      name: "on Linux pwrite with O_APPEND appends too",
      source: "pwrite(2) BUGS",
      async run({ root }) {
        await root.put("file", "start");
        const fd = await root.open("file", "O_RDWR|O_APPEND");
        await root.pwrite(fd, "-end", 0);
        await hasBytes(root, "file", "start-end");
      },
    },
    {
      name: "appenders in many processes lose no record and tear none",
      source: "POSIX write O_APPEND",
      async run({ root, process }) {
        const writers = [root, await process(), await process()];
        await Promise.all(
          writers.map(async (writer, number) => {
            const fd = await writer.open("log", "O_CREAT|O_WRONLY|O_APPEND");
            for (let i = 0; i < 60; i += 1) {
              const text = `${number}:${i}`;
              await writer.write(fd, `${text.padEnd(99, ".")}\n`);
            }
            await writer.close(fd);
          }),
        );
        const lines = (await root.get("log")).split("\n").slice(0, -1);
        assert.equal(lines.length, 180);
        assert.ok(lines.every((line) => line.length === 99));
        assert.equal(new Set(lines).size, 180);
      },
    },
    {
      name: "appending after a truncation starts at the new end",
      source: "POSIX write O_APPEND, ftruncate",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR|O_APPEND");
        await root.write(fd, pattern(10_000));
        await root.truncate(fd, 3);
        await root.write(fd, "end");
        await hasAttributes(root, "file", { size: 6 });
        assert.equal(await root.pread(fd, 3, 3), "end");
      },
    },
    {
      name: "O_SYNC and O_DSYNC write",
      source: "POSIX open O_SYNC",
      async run({ root }) {
        for (const flag of ["O_SYNC", "O_DSYNC"]) {
          const fd = await root.open(flag, `O_CREAT|O_RDWR|${flag}`);
          await root.write(fd, "data");
          await root.close(fd);
          await hasBytes(root, flag, "data");
        }
      },
    },
    {
      name: "O_DIRECT reads what was written without it, and the other way round",
      source: "open(2) O_DIRECT",
      async run({ root }) {
        const data = pattern(16_384);
        await root.put("file", data);
        const fd = await root.open("file", "O_RDWR|O_DIRECT");
        assert.equal(await root.request("direct_read", fd, 16_384, 0), data);
        const other = pattern(4_096, 2);
        await root.request("direct_write", fd, other, 8_192);
        const buffered = await root.open("file", "O_RDWR");
        assert.equal(await root.pread(buffered, 4_096, 8_192), other);
        await root.pwrite(buffered, "xyz", 8_192);
        const seen = await root.request<string>("direct_read", fd, 4_096, 8_192);
        assert.equal(seen.slice(0, 4), `xyz${other[3] ?? ""}`);
        await root.request("direct_write", fd, other, 16_384);
        await hasAttributes(root, "file", { size: 20_480 });
        assert.equal(await root.request("direct_read", fd, 8_192, 16_384), other);
      },
    },
    {
      name: "a program that runs cannot be written: ETXTBSY",
      source: "POSIX open ETXTBSY, execve(2)",
      async run({ root, process }) {
        await root.run(["cp", "/bin/sleep", "program"]);
        const runner = await process();
        await root.mknod("ready", "S_IFIFO");
        // The fifo is opened by the shell only; `exec` then makes it the copied program.
        const running = runner.run(["sh", "-c", "echo >ready; exec ./program 1000"]);
        running.catch(() => undefined); // It is killed with its parent's case.
        assert.equal(await root.get("ready"), "\n");
        let pid: string | undefined;
        while (pid === undefined) {
          const { out } = await root.run(["pgrep", "-P", String(runner.pid), "-x", "program"]);
          pid = out.trim() || undefined;
        }
        try {
          await fails("ETXTBSY", root.open("program", "O_WRONLY"));
          await fails("ETXTBSY", root.truncate("program", 0));
        } finally {
          await root.run(["kill", pid]);
        }
      },
    },
    {
      name: "a program that is open for writing does not run: ETXTBSY",
      source: "execve(2)",
      async run({ root }) {
        await root.run(["cp", "/bin/true", "program"]);
        assert.equal((await root.run(["./program"])).code, 0);
        const fd = await root.open("program", "O_RDWR");
        await fails("ETXTBSY", root.run(["./program"]));
        await root.close(fd);
        assert.equal((await root.run(["./program"])).code, 0);
      },
    },
    {
      name: "a script runs",
      source: "execve(2)",
      async run({ root }) {
        await root.put("script", "#!/bin/sh\necho it ran\n", 0o755);
        assert.equal((await root.run(["./script"])).out, "it ran\n");
      },
    },
    {
      name: "a user's unprivileged file in a sticky, world-writable directory opens for its owner",
      source: "proc(5) protected_regular",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chmod("dir", 0o1777);
        const user = await process(alice);
        await user.put("dir/file", "data", 0o600);
        await hasBytes(user, "dir/file", "data");
        await user.close(await user.open("dir/file", "O_CREAT|O_RDWR"));
      },
    },
  ],
};
