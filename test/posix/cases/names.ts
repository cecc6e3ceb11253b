import assert from "node:assert/strict";
import { type Theme, fails, hasBytes, missing } from "../case.ts";
import { utf8 } from "../process.ts";

/** Names and paths: any bytes but "/" and NUL (POSIX 3.170 Filename; path_resolution(7)). */
export const names: Theme = {
  theme: "names",
  cases: [
    {
      name: "a name of 255 bytes can be made, opened, listed and removed",
      source: "limits.h NAME_MAX",
      async run({ root }) {
        const long = "n".repeat(255);
        await root.put(long, "x");
        await hasBytes(root, long, "x");
        assert.deepEqual(await root.list(), [long]);
        await root.unlink(long);
        await missing(root, long);
      },
    },
    {
      name: "a name of 256 bytes is ENAMETOOLONG in every call",
      source: "POSIX open, mkdir, rename, link, symlink, unlink, stat, mknod",
      async run({ root }) {
        const long = "n".repeat(256);
        await root.put("file");
        await root.mkdir("dir");
        await fails("ENAMETOOLONG", root.open(long, "O_CREAT|O_RDWR"));
        await fails("ENAMETOOLONG", root.open(long, "O_RDONLY"));
        await fails("ENAMETOOLONG", root.mkdir(long));
        await fails("ENAMETOOLONG", root.mknod(long, "S_IFIFO"));
        await fails("ENAMETOOLONG", root.symlink("target", long));
        await fails("ENAMETOOLONG", root.link("file", long));
        await fails("ENAMETOOLONG", root.rename("file", long));
        await fails("ENAMETOOLONG", root.rename("dir", long));
        await fails("ENAMETOOLONG", root.unlink(long));
        await fails("ENAMETOOLONG", root.rmdir(long));
        await fails("ENAMETOOLONG", root.lstat(long));
        await fails("ENAMETOOLONG", root.lstat(`${long}/below`));
      },
    },
    {
      name: "255 bytes count as bytes, not as characters",
      source: "limits.h NAME_MAX",
      async run({ root }) {
        const fits = `${utf8("é").repeat(127)}x`;
        await root.put(fits);
        assert.deepEqual(await root.list(), [fits]);
        await fails("ENAMETOOLONG", root.put(utf8("é").repeat(128)));
      },
    },
    {
      name: "every byte but / and NUL can be in a name, and comes back as it was",
      source: "POSIX 3.170 Filename",
      async run({ root }) {
        const wanted: string[] = [];
        for (let byte = 1; byte < 256; byte += 1) {
          if (byte === 47 || byte === 46) continue; // "/", and "." by itself.
          const name = String.fromCharCode(byte);
          await root.put(name, name);
          wanted.push(name);
        }
        assert.deepEqual(await root.list(), wanted.toSorted());
        for (const name of wanted) await hasBytes(root, name, name);
      },
    },
    {
      name: "names that are not UTF-8 are kept, and differ from what they look like",
      source: "POSIX 3.170 Filename",
      async run({ root }) {
        const alike = ["\xff\xfe", "\xef\xbf\xbd", "\xc3\x28", "caf\xe9", "caf\xc3\xa9"];
        for (const name of alike) await root.put(name, name);
        assert.deepEqual(await root.list(), alike.toSorted());
        for (const name of alike) await hasBytes(root, name, name);
      },
    },
    {
      name: "names are neither folded nor normalised",
      source: "POSIX 3.170 Filename",
      async run({ root }) {
        const composed = utf8("\u00e9");
        const decomposed = utf8("e\u0301");
        const all = ["a", "A", composed, decomposed, " a", "a ", "a.", "..a", "...", "-rf", "a\n"];
        for (const name of all) await root.put(name, name);
        assert.deepEqual(await root.list(), all.toSorted());
        for (const name of all) await hasBytes(root, name, name);
      },
    },
    {
      name: "a path of PATH_MAX - 1 bytes works, a longer one is ENAMETOOLONG",
      source: "limits.h PATH_MAX, path_resolution(7)",
      async run({ root }) {
        const part = "p".repeat(254);
        let path = "";
        while (path.length + 255 < 4_095) {
          path += `${part}/`;
          await root.mkdir(path);
        }
        const fits = `${path}${"f".repeat(4_095 - path.length)}`;
        assert.equal(fits.length, 4_095);
        await root.put(fits, "deep");
        await hasBytes(root, fits, "deep");
        await fails("ENAMETOOLONG", root.open(`${fits}f`, "O_RDONLY"));
        await fails("ENAMETOOLONG", root.lstat(`./${fits}`));
      },
    },
    {
      name: "directories deeper than PATH_MAX are reached step by step",
      source: "path_resolution(7)",
      async run({ root }) {
        const name = "d".repeat(200);
        for (let depth = 0; depth < 30; depth += 1) {
          await root.mkdir(name);
          await root.request("chdir", name);
        }
        await root.put("bottom", "here");
        await hasBytes(root, "bottom", "here");
        await root.unlink("bottom");
        for (let depth = 0; depth < 30; depth += 1) {
          await root.request("chdir", "..");
          await root.rmdir(name);
        }
      },
    },
    {
      name: "an empty path is ENOENT",
      source: "POSIX 4.16 Pathname Resolution",
      async run({ root }) {
        await fails("ENOENT", root.open("", "O_RDONLY"));
        await fails("ENOENT", root.mkdir(""));
        await fails("ENOENT", root.lstat(""));
        await fails("ENOENT", root.symlink("", "link"));
      },
    },
    {
      name: "a missing directory in a path is ENOENT, a file in its place ENOTDIR",
      source: "POSIX open, mkdir, stat",
      async run({ root }) {
        await root.put("file");
        for (const [parent, errno] of [
          ["none", "ENOENT"],
          ["file", "ENOTDIR"],
        ] as const) {
          await fails(errno, root.open(`${parent}/x`, "O_CREAT|O_RDWR"));
          await fails(errno, root.mkdir(`${parent}/x`));
          await fails(errno, root.lstat(`${parent}/x`));
          await fails(errno, root.unlink(`${parent}/x`));
          await fails(errno, root.symlink("t", `${parent}/x`));
          await fails(errno, root.rename("file", `${parent}/x`));
          await fails(errno, root.truncate(`${parent}/x`, 0));
        }
      },
    },
    {
      name: "a trailing slash asks for a directory",
      source: "POSIX 4.16 Pathname Resolution",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir/");
        await fails("ENOTDIR", root.lstat("file/"));
        await fails("ENOTDIR", root.open("file/", "O_RDONLY"));
        await fails("ENOTDIR", root.unlink("file/"));
        await fails("ENOTDIR", root.rename("file/", "other"));
        await fails(["ENOTDIR", "ENOENT"], root.rename("file", "other/"));
        await fails("EISDIR", root.open("new/", "O_CREAT|O_RDWR"));
        await root.rename("dir/", "dir2/");
        await root.rmdir("dir2/");
      },
    },
    {
      name: "dot and dot-dot lead where they have to, and cannot be removed or renamed",
      source: "POSIX rmdir, rename, unlink",
      async run({ root }) {
        await root.mkdir("a");
        await root.mkdir("a/b");
        const { ino } = await root.stat("a");
        assert.equal((await root.stat("a/.")).ino, ino);
        assert.equal((await root.stat("a/b/..")).ino, ino);
        assert.equal((await root.stat("a/b/../b/./..")).ino, ino);
        await fails("EINVAL", root.rmdir("a/b/."));
        await fails("ENOTEMPTY", root.rmdir("a/b/.."));
        await fails("EBUSY", root.rename("a/b/.", "c"));
        await fails("EBUSY", root.rename("a/b/..", "c"));
        await fails(["EISDIR", "EPERM"], root.unlink("a/."));
        await fails("EEXIST", root.mkdir("a/."));
        await fails("EEXIST", root.mkdir("a/.."));
      },
    },
    {
      name: "what was found missing is found once it has been made",
      source: "POSIX open",
      async run({ root }) {
        const second = root;
        for (let round = 0; round < 20; round += 1) {
          await missing(second, `f${round}`);
          await root.put(`f${round}`);
          assert.equal((await second.lstat(`f${round}`)).kind, "file");
          await root.unlink(`f${round}`);
          await missing(second, `f${round}`);
          await root.mkdir(`f${round}`);
          assert.equal((await second.lstat(`f${round}`)).kind, "directory");
        }
      },
    },
  ],
};
