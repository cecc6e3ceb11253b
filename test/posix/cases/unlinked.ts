import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes, hasBytes, missing, moves, pattern } from "../case.ts";

/** Files that are open without a name (POSIX unlink, rename: "shall remain accessible"). */
export const unlinked: Theme = {
  theme: "unlinked",
  cases: [
    {
      name: "an unlinked file that is open is read, written, cut and measured",
      source: "POSIX unlink",
      async run({ root }) {
        await root.put("file", pattern(100_000));
        const fd = await root.open("file", "O_RDWR");
        await root.unlink("file");
        await missing(root, "file");
        assert.deepEqual(await root.list(), []);
        await hasAttributes(root, fd, { nlink: 0, size: 100_000 });
        assert.ok((await root.pread(fd, 100_000, 0)) === pattern(100_000));
        await root.pwrite(fd, "more", 100_000);
        await root.truncate(fd, 100_002);
        assert.equal(await root.pread(fd, 10, 99_999), `${pattern(100_000)[99_999] ?? ""}mo`);
        await root.fsync(fd);
        await hasAttributes(root, fd, { nlink: 0, size: 100_002 });
      },
    },
    {
      name: "its attributes can be changed",
      source: "POSIX fchmod, fchown, futimens",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.unlink("file");
        await root.chmod(fd, 0o640);
        await root.utimens(fd, 1_000_000_001n, 1_000_000_002n);
        await root.setxattr(fd, "user.a", "1");
        await hasAttributes(root, fd, { mode: 0o640, mtime: 1_000_000_002n, nlink: 0 });
        assert.equal(await root.getxattr(fd, "user.a"), "1");
      },
    },
    {
      name: "it stays apart from a new file of its name",
      source: "POSIX unlink",
      async run({ root }) {
        await root.put("file", "old");
        const fd = await root.open("file", "O_RDWR");
        await root.unlink("file");
        await root.put("file", "new");
        await root.pwrite(fd, "OLD", 0);
        await hasBytes(root, "file", "new");
        assert.equal(await root.pread(fd, 3, 0), "OLD");
      },
    },
    {
      name: "a file that was replaced by rename stays readable where it is open",
      source: "POSIX rename",
      async run({ root, process }) {
        const other = await process();
        await root.put("file", "old");
        await root.put("new", "new");
        const fd = await root.open("file", "O_RDWR");
        await other.rename("new", "file");
        assert.equal(await root.pread(fd, 3, 0), "old");
        await hasAttributes(root, fd, { nlink: 0 });
        await root.pwrite(fd, "OLD", 0);
        await hasBytes(root, "file", "new");
      },
    },
    {
      name: "another process's unlink does not matter to it",
      source: "POSIX unlink",
      async run({ root, process }) {
        const other = await process();
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "before");
        await other.unlink("file");
        await root.write(fd, "-after");
        assert.equal(await root.pread(fd, 20, 0), "before-after");
      },
    },
    {
      name: "its directory can be removed",
      source: "POSIX rmdir",
      async run({ root }) {
        await root.mkdir("dir");
        const fd = await root.open("dir/file", "O_CREAT|O_RDWR");
        await root.write(fd, "data");
        await root.unlink("dir/file");
        assert.deepEqual(await root.list("dir"), []);
        await root.rmdir("dir");
        assert.equal(await root.pread(fd, 4, 0), "data");
      },
    },
    {
      name: "many files open without a name, and all are what they were",
      source: "POSIX unlink",
      async run({ root }) {
        const open: number[] = [];
        for (let i = 0; i < 50; i += 1) {
          const fd = await root.open("temporary", "O_CREAT|O_EXCL|O_RDWR");
          await root.write(fd, `file ${i}`);
          await root.unlink("temporary");
          open.push(fd);
        }
        for (const [i, fd] of open.entries()) {
          assert.equal(await root.pread(fd, 20, 0), `file ${i}`);
        }
        assert.deepEqual(await root.list(), []);
      },
    },
    {
      name: "one of two names goes: the other keeps the open file",
      source: "POSIX unlink",
      async run({ root }) {
        await root.put("a", "data");
        await root.link("a", "b");
        const fd = await root.open("a", "O_RDWR");
        await moves(root, fd, ["ctime"], () => root.unlink("a"));
        await hasAttributes(root, fd, { nlink: 1 });
        await root.pwrite(fd, "DATA", 0);
        await hasBytes(root, "b", "DATA");
      },
    },
    {
      name: "its room comes back with the last close",
      source: "POSIX unlink, fstatvfs",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "x");
        const copy = await root.request<number>("dup", fd);
        await root.unlink("file");
        await root.close(fd);
        await hasAttributes(root, copy, { nlink: 0, size: 1 });
        await root.close(copy);
        await fails("EBADF", root.stat(copy));
      },
    },
  ],
};
