import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes, hasBytes, missing } from "../case.ts";

/** All cases of rename (POSIX rename; renameat2(2)). */
export const renaming: Theme = {
  theme: "rename",
  cases: [
    {
      name: "a file gets its new name, in the same directory and in another",
      source: "POSIX rename",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("a", "data");
        const { ino } = await root.stat("a");
        await root.rename("a", "b");
        await missing(root, "a");
        await root.rename("b", "dir/c");
        await missing(root, "b");
        await hasAttributes(root, "dir/c", { ino, nlink: 1 });
        await hasBytes(root, "dir/c", "data");
      },
    },
    {
      name: "a file replaces a file, which is gone",
      source: "POSIX rename",
      async run({ root }) {
        await root.put("a", "A");
        await root.put("b", "B");
        const fd = await root.open("b", "O_RDONLY");
        await root.rename("a", "b");
        await hasBytes(root, "b", "A");
        await missing(root, "a");
        await hasAttributes(root, fd, { nlink: 0 });
      },
    },
    {
      name: "a directory replaces an empty directory, and no other",
      source: "POSIX rename ENOTEMPTY, EEXIST",
      async run({ root }) {
        await root.mkdir("a");
        await root.put("a/file");
        await root.mkdir("empty");
        await root.mkdir("full");
        await root.put("full/other");
        await fails(["ENOTEMPTY", "EEXIST"], root.rename("a", "full"));
        await root.rename("a", "empty");
        assert.deepEqual(await root.list("empty"), ["file"]);
        assert.deepEqual(await root.list(), ["empty", "full"]);
      },
    },
    {
      name: "a file does not replace a directory (EISDIR), nor a directory a file (ENOTDIR)",
      source: "POSIX rename EISDIR, ENOTDIR",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await fails("EISDIR", root.rename("file", "dir"));
        await fails("ENOTDIR", root.rename("dir", "file"));
        await root.symlink("dir", "link");
        await fails("ENOTDIR", root.rename("dir", "link"));
        await root.rename("file", "link");
        await hasAttributes(root, "link", { kind: "file" });
      },
    },
    {
      name: "a directory does not go below itself: EINVAL",
      source: "POSIX rename EINVAL",
      async run({ root }) {
        await root.mkdir("a");
        await root.mkdir("a/b");
        await root.mkdir("a/b/c");
        await fails("EINVAL", root.rename("a", "a/b/c/d"));
        await fails("EINVAL", root.rename("a", "a/b"));
        await fails("ENOTEMPTY", root.rename("a/b/c", "a"));
        await root.rename("a", "a");
        await root.rename("a/b/c", "a/c");
      },
    },
    {
      name: "two names of one file: nothing happens",
      source: "POSIX rename",
      async run({ root }) {
        await root.put("a", "data");
        await root.link("a", "b");
        await root.rename("a", "b");
        assert.deepEqual(await root.list(), ["a", "b"]);
        await root.rename("a", "a");
        await hasAttributes(root, "a", { nlink: 2 });
      },
    },
    {
      name: "a missing source is ENOENT, also a dangling place",
      source: "POSIX rename ENOENT, ENOTDIR",
      async run({ root }) {
        await root.put("file");
        await fails("ENOENT", root.rename("none", "x"));
        await fails("ENOENT", root.rename("file", "none/x"));
        await fails("ENOTDIR", root.rename("file", "file/x"));
        await hasAttributes(root, "file", { nlink: 1 });
      },
    },
    {
      name: "a link itself is renamed, and replaced",
      source: "POSIX rename",
      async run({ root }) {
        await root.put("file", "data");
        await root.symlink("file", "link");
        await root.rename("link", "link2");
        assert.equal(await root.readlink("link2"), "file");
        await root.put("new", "new");
        await root.rename("new", "link2");
        await hasBytes(root, "link2", "new");
        await hasBytes(root, "file", "data");
      },
    },
    {
      name: "a moved directory has a new parent, and both parents their link counts",
      source: "POSIX rename",
      async run({ root }) {
        await root.mkdir("a");
        await root.mkdir("b");
        await root.mkdir("a/dir");
        await root.rename("a/dir", "b/dir");
        await hasAttributes(root, "a", { nlink: 2 });
        await hasAttributes(root, "b", { nlink: 3 });
        assert.equal((await root.stat("b/dir/..")).ino, (await root.stat("b")).ino);
        await root.mkdir("a/dir2");
        await root.rename("a/dir2", "b/dir");
        await hasAttributes(root, "a", { nlink: 2 });
        await hasAttributes(root, "b", { nlink: 3 });
      },
    },
    {
      name: "RENAME_NOREPLACE refuses what exists with EEXIST",
      source: "renameat2(2)",
      async run({ root }) {
        await root.put("a", "A");
        await root.put("b", "B");
        await root.mkdir("dir");
        await fails("EEXIST", root.rename("a", "b", "RENAME_NOREPLACE"));
        await fails("EEXIST", root.rename("a", "dir", "RENAME_NOREPLACE"));
        await fails("EEXIST", root.rename("a", "a", "RENAME_NOREPLACE"));
        await root.rename("a", "c", "RENAME_NOREPLACE");
        await hasBytes(root, "c", "A");
        await hasBytes(root, "b", "B");
      },
    },
    {
      name: "RENAME_EXCHANGE exchanges files, and a file with a directory",
      source: "renameat2(2)",
      async run({ root }) {
        await root.put("a", "A");
        await root.put("b", "B");
        await root.rename("a", "b", "RENAME_EXCHANGE");
        await hasBytes(root, "a", "B");
        await hasBytes(root, "b", "A");
        await root.mkdir("dir");
        await root.mkdir("dir/sub");
        await root.put("dir/sub/file", "x");
        await root.rename("a", "dir/sub", "RENAME_EXCHANGE");
        await hasBytes(root, "a/file", "x");
        await hasBytes(root, "dir/sub", "B");
        await hasAttributes(root, "dir", { nlink: 2 });
        await hasAttributes(root, ".", { nlink: 4 });
        assert.equal((await root.stat("a/..")).ino, (await root.stat(".")).ino);
      },
    },
    {
      name: "RENAME_EXCHANGE wants both to be there, and neither above the other",
      source: "renameat2(2) ENOENT, EINVAL",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await root.mkdir("dir/sub");
        await fails("ENOENT", root.rename("file", "none", "RENAME_EXCHANGE"));
        await fails("ENOENT", root.rename("none", "file", "RENAME_EXCHANGE"));
        await fails("EINVAL", root.rename("dir", "dir/sub", "RENAME_EXCHANGE"));
        await fails("EINVAL", root.rename("dir/sub", "dir", "RENAME_EXCHANGE"));
        await fails("EINVAL", root.rename("file", "dir", "RENAME_EXCHANGE|RENAME_NOREPLACE"));
      },
    },
    {
      name: "someone who reads finds one of the two files at every moment",
      source: "POSIX rename (atomic)",
      async run({ root, process }) {
        const writer = await process();
        await root.put("file", "0".padEnd(1_000, "."));
        const renames = (async (): Promise<void> => {
          for (let i = 1; i <= 100; i += 1) {
            await writer.put("new", String(i).padEnd(1_000, "."));
            await writer.rename("new", "file");
          }
        })();
        for (let i = 0; i < 100; i += 1) {
          assert.equal((await root.get("file")).length, 1_000);
        }
        await renames;
      },
    },
    {
      name: "directories renamed by two processes against each other make no loop",
      source: "POSIX rename EINVAL",
      async run({ root, process }) {
        const other = await process();
        for (let round = 0; round < 10; round += 1) {
          await root.mkdir("a");
          await root.mkdir("b");
          const done = await Promise.allSettled([
            root.rename("a", "b/a"),
            other.rename("b", "a/b"),
          ]);
          assert.equal(done.filter(({ status }) => status === "fulfilled").length, 1);
          await root.request("remove_tree", (await root.list())[0]);
        }
      },
    },
    {
      name: "a name is free again after its file has gone elsewhere",
      source: "POSIX rename",
      async run({ root }) {
        for (let i = 0; i < 20; i += 1) {
          await root.put("new", String(i));
          await root.rename("new", "current");
          await missing(root, "new");
          await hasBytes(root, "current", String(i));
        }
        assert.deepEqual(await root.list(), ["current"]);
      },
    },
    {
      name: "a tree of directories goes with its top",
      source: "POSIX rename",
      async run({ root }) {
        await root.mkdir("a");
        await root.mkdir("a/b");
        await root.put("a/b/file", "deep");
        const fd = await root.open("a/b/file", "O_RDWR");
        await root.rename("a", "z");
        await hasBytes(root, "z/b/file", "deep");
        await missing(root, "a");
        await root.pwrite(fd, "DEEP", 0);
        await hasBytes(root, "z/b/file", "DEEP");
      },
    },
  ],
};
