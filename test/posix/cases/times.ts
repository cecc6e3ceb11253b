import assert from "node:assert/strict";
import { type Theme, alice, bob, fails, hasAttributes, moves, tick } from "../case.ts";

/** What moves which time (POSIX 4.12 File Times Update; utimensat(2); mount(8) relatime). */
export const times: Theme = {
  theme: "times",
  cases: [
    {
      name: "a new file has one time in all three places, between its neighbours'",
      source: "POSIX open O_CREAT",
      async run({ root }) {
        await root.put("before");
        await tick(root);
        await root.open("file", "O_CREAT|O_RDWR");
        await tick(root);
        await root.put("after");
        const [before, file, after] = [
          await root.stat("before"),
          await root.stat("file"),
          await root.stat("after"),
        ];
        assert.equal(file.atime, file.mtime);
        assert.equal(file.mtime, file.ctime);
        assert.ok(before.mtime < file.mtime && file.mtime < after.mtime);
      },
    },
    {
      name: "writing moves mtime and ctime",
      source: "POSIX write, pwrite",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await moves(root, "file", ["mtime", "ctime"], () => root.write(fd, "x"));
        await moves(root, "file", ["mtime", "ctime"], () => root.pwrite(fd, "y", 0));
      },
    },
    {
      name: "a write's time is the same before and after close and fsync",
      source: "POSIX 4.12 File Times Update",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "x");
        const written = await root.stat(fd);
        await tick(root);
        await root.fsync(fd);
        await hasAttributes(root, "file", { mtime: written.mtime, ctime: written.ctime });
        await root.close(fd);
        await hasAttributes(root, "file", { mtime: written.mtime, ctime: written.ctime });
      },
    },
    {
      name: "a write of no bytes moves nothing",
      source: "POSIX write",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await moves(root, "file", [], () => root.write(fd, ""));
      },
    },
    {
      name: "truncation that changes the size moves mtime and ctime",
      source: "POSIX truncate",
      async run({ root }) {
        await root.put("file", "12345");
        await moves(root, "file", ["mtime", "ctime"], () => root.truncate("file", 2));
        await moves(root, "file", ["mtime", "ctime"], () => root.truncate("file", 9));
        const fd = await root.open("file", "O_RDWR");
        await moves(root, "file", ["mtime", "ctime"], () => root.truncate(fd, 0));
      },
    },
    {
      name: "truncation to the same size moves them too",
      source: "POSIX ftruncate, truncate(2)",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDWR");
        await moves(root, "file", ["mtime", "ctime"], () => root.truncate(fd, 5));
      },
    },
    {
      name: "opening with O_TRUNC moves mtime and ctime, also of an empty file",
      source: "POSIX open O_TRUNC",
      async run({ root }) {
        await root.put("file", "data");
        const open = async (): Promise<unknown> =>
          root.close(await root.open("file", "O_WRONLY|O_TRUNC"));
        await moves(root, "file", ["mtime", "ctime"], open);
        await moves(root, "file", ["mtime", "ctime"], open);
      },
    },
    {
      name: "opening, closing and fsync move nothing",
      source: "POSIX open, close",
      async run({ root }) {
        await root.put("file", "data");
        await moves(root, "file", [], async () => {
          const fd = await root.open("file", "O_RDWR|O_CREAT");
          await root.fsync(fd);
          await root.close(fd);
        });
      },
    },
    {
      name: "chmod, chown, link and rename of a file move its ctime only",
      source: "POSIX chmod, chown, link; Linux rename",
      async run({ root }) {
        await root.put("file", "data");
        await moves(root, "file", ["ctime"], () => root.chmod("file", 0o600));
        await moves(root, "file", ["ctime"], () => root.link("file", "second"));
        await moves(root, "file", ["ctime"], () => root.unlink("second"));
        const fd = await root.open("file", "O_RDONLY");
        await moves(root, fd, ["ctime"], () => root.rename("file", "third"));
      },
    },
    {
      name: "setting and removing an attribute moves ctime only",
      source: "setxattr(2)",
      async run({ root }) {
        await root.put("file", "data");
        await moves(root, "file", ["ctime"], () => root.setxattr("file", "user.a", "1"));
        await moves(root, "file", ["ctime"], () => root.removexattr("file", "user.a"));
      },
    },
    {
      name: "what changes the entries of a directory moves its mtime and ctime",
      source: "POSIX open, mkdir, unlink, rmdir, symlink, link, mknod, rename",
      async run({ root }) {
        await root.mkdir("dir");
        const both = ["mtime", "ctime"] as const;
        await moves(root, "dir", both, () => root.put("dir/file"));
        await moves(root, "dir", both, () => root.mkdir("dir/sub"));
        await moves(root, "dir", both, () => root.symlink("x", "dir/link"));
        await moves(root, "dir", both, () => root.mknod("dir/fifo", "S_IFIFO"));
        await moves(root, "dir", both, () => root.link("dir/file", "dir/hard"));
        await moves(root, "dir", both, () => root.rename("dir/hard", "dir/harder"));
        await moves(root, "dir", both, () => root.rename("dir/harder", "out"));
        await moves(root, "dir", both, () => root.rename("out", "dir/in"));
        await moves(root, "dir", both, () => root.unlink("dir/in"));
        await moves(root, "dir", both, () => root.rmdir("dir/sub"));
      },
    },
    {
      name: "what fails, or changes a file's data only, leaves its directory's times",
      source: "POSIX 4.12 File Times Update",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        await moves(root, "dir", [], async () => {
          await fails("EEXIST", root.mkdir("dir/file"));
          await fails("ENOENT", root.unlink("dir/none"));
          await fails("EEXIST", root.open("dir/file", "O_CREAT|O_EXCL|O_RDWR"));
          await root.close(await root.open("dir/file", "O_CREAT|O_RDWR"));
          await root.put("dir/file", "new");
          await root.chmod("dir/file", 0o600);
        });
      },
    },
    {
      name: "both times are set to the nanosecond, by path and by open file, and ctime moves",
      source: "POSIX utimensat, futimens",
      async run({ root }) {
        await root.put("file");
        const [atime, mtime] = [1_234_567_890_123_456_789n, 1_034_567_890_987_654_321n];
        await moves(root, "file", ["mtime", "ctime"], () =>
          root.utimens("file", "UTIME_NOW", "UTIME_NOW"),
        );
        await root.utimens("file", atime, mtime);
        await hasAttributes(root, "file", { atime, mtime });
        const fd = await root.open("file", "O_RDWR");
        await root.utimens(fd, mtime, atime);
        await hasAttributes(root, "file", { atime: mtime, mtime: atime });
        await root.close(fd);
        await hasAttributes(root, "file", { atime: mtime, mtime: atime });
      },
    },
    {
      name: "UTIME_OMIT leaves one of them, and both of them leave all",
      source: "utimensat(2)",
      async run({ root }) {
        await root.put("file");
        await root.utimens("file", 1_000_000_001n, 2_000_000_002n);
        await root.utimens("file", "UTIME_OMIT", 3_000_000_003n);
        await hasAttributes(root, "file", { atime: 1_000_000_001n, mtime: 3_000_000_003n });
        await root.utimens("file", 4_000_000_004n, "UTIME_OMIT");
        await hasAttributes(root, "file", { atime: 4_000_000_004n, mtime: 3_000_000_003n });
        await moves(root, "file", [], () => root.utimens("file", "UTIME_OMIT", "UTIME_OMIT"));
      },
    },
    {
      name: "UTIME_NOW is the time that a change gets",
      source: "utimensat(2)",
      async run({ root }) {
        await root.put("file");
        await root.utimens("file", 5n, 5n);
        await root.put("before");
        await root.utimens("file", "UTIME_NOW", "UTIME_OMIT");
        const { atime, mtime } = await root.stat("file");
        assert.equal(mtime, 5n);
        const before = (await root.stat("before")).mtime;
        assert.ok(atime >= before && atime < before + 60_000_000_000n, `${atime} after ${before}`);
      },
    },
    {
      name: "times before 1970, and after 2038 and 2106, are kept",
      source: "POSIX utimensat, inode(7)",
      async run({ root }) {
        await root.put("file");
        for (const seconds of [-1n, -1_000_000_000n, 0n, 2_147_483_648n, 4_294_967_296n]) {
          const time = seconds * 1_000_000_000n + 500_000_001n;
          await root.utimens("file", time, time);
          await hasAttributes(root, "file", { atime: time, mtime: time });
        }
      },
    },
    {
      name: "set times last through a later close of a file that had been written",
      source: "POSIX 4.12 File Times Update (cp -p, tar, rsync)",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "data");
        await root.utimens(fd, 1_000_000_007n, 2_000_000_009n);
        await root.close(fd);
        await hasAttributes(root, "file", { atime: 1_000_000_007n, mtime: 2_000_000_009n });
      },
    },
    {
      name: "a symbolic link has times of its own",
      source: "utimensat(2) AT_SYMLINK_NOFOLLOW",
      async run({ root }) {
        await root.put("file");
        await root.symlink("file", "link");
        await root.utimens("file", 1n, 2n);
        await root.utimens("link", 1_000_000_003n, 1_000_000_004n, "AT_SYMLINK_NOFOLLOW");
        const { atime, mtime } = await root.lstat("link");
        assert.deepEqual([atime, mtime], [1_000_000_003n, 1_000_000_004n]);
        await hasAttributes(root, "file", { atime: 1n, mtime: 2n });
      },
    },
    {
      name: "the owner sets any times, a writer the present, and others none",
      source: "utimensat(2) EACCES, EPERM",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await root.chown("file", alice.uid, alice.gid);
        await root.chmod("file", 0o644);
        const [owner, other] = [await process(alice), await process(bob)];
        await owner.utimens("file", 1n, 2n);
        await fails("EPERM", other.utimens("file", 1n, 2n));
        await fails("EPERM", other.utimens("file", "UTIME_NOW", "UTIME_OMIT"));
        await fails("EACCES", other.utimens("file", "UTIME_NOW", "UTIME_NOW"));
        await fails("EACCES", other.request("utimes_null", "file"));
        await root.chmod("file", 0o646);
        await other.utimens("file", "UTIME_NOW", "UTIME_NOW");
        await other.request("utimes_null", "file");
        await fails("EPERM", other.utimens("file", 1n, 2n));
        await fails("EPERM", other.utimens("file", "UTIME_NOW", 2n));
        await fails("ENOENT", root.utimens("none", 1n, 2n));
      },
    },
    {
      name: "reading moves an atime that is not later than mtime, and no other time",
      source: "POSIX read; mount(8) relatime",
      async run({ root }) {
        await root.put("file", "data");
        await root.utimens("file", 1_000_000_000n, 1_000_000_000n);
        const before = await root.stat("file");
        await tick(root);
        const fd = await root.open("file", "O_RDONLY");
        assert.equal(await root.read(fd, 4), "data");
        const after = await root.stat("file");
        assert.ok(after.atime > before.atime, `atime is still ${after.atime}`);
        assert.deepEqual([after.mtime, after.ctime], [before.mtime, before.ctime]);
      },
    },
    {
      name: "listing a directory moves its atime likewise",
      source: "POSIX readdir; mount(8) relatime",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        await root.utimens("dir", 1_000_000_000n, 1_000_000_000n);
        await tick(root);
        await root.list("dir");
        const { atime, mtime } = await root.stat("dir");
        assert.ok(atime > 1_000_000_000n, `atime is still ${atime}`);
        assert.equal(mtime, 1_000_000_000n);
      },
    },
    {
      name: "O_NOATIME leaves atime, and is for the owner",
      source: "open(2) O_NOATIME",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o644);
        await root.utimens("file", 1n, 1n);
        const fd = await root.open("file", "O_RDONLY|O_NOATIME");
        await root.read(fd, 4);
        await hasAttributes(root, "file", { atime: 1n });
        await fails("EPERM", (await process(bob)).open("file", "O_RDONLY|O_NOATIME"));
      },
    },
    {
      name: "times move forward from call to call, across files",
      source: "POSIX 4.12 File Times Update (make)",
      async run({ root }) {
        let last = 0n;
        for (let i = 0; i < 30; i += 1) {
          await root.put(`f${i}`, "x");
          const { mtime } = await root.stat(`f${i}`);
          assert.ok(mtime >= last, `file ${i} is older than the one before`);
          last = mtime;
        }
      },
    },
  ],
};
