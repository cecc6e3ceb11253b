import assert from "node:assert/strict";
import { type Theme, alice, fails, hasAttributes, hasBytes, missing } from "../case.ts";

/** Hard and symbolic links (POSIX link, unlink, symlink, readlink). */
export const links: Theme = {
  theme: "links",
  cases: [
    {
      name: "a hard link is the same file, also in another directory",
      source: "POSIX link",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("a", "data");
        await root.link("a", "dir/b");
        const { ino } = await root.stat("a");
        await hasAttributes(root, "dir/b", { ino, nlink: 2 });
        await root.put("dir/b", "new");
        await hasBytes(root, "a", "new");
        await root.chmod("a", 0o600);
        await hasAttributes(root, "dir/b", { mode: 0o600 });
        await root.unlink("a");
        await hasAttributes(root, "dir/b", { nlink: 1 });
        await hasBytes(root, "dir/b", "new");
      },
    },
    {
      name: "link refuses an existing name, a missing file and a directory",
      source: "POSIX link EEXIST, ENOENT, EPERM",
      async run({ root }) {
        await root.put("a");
        await root.put("b");
        await root.mkdir("dir");
        await fails("EEXIST", root.link("a", "b"));
        await fails("EEXIST", root.link("a", "a"));
        await fails("EEXIST", root.link("a", "dir"));
        await fails("ENOENT", root.link("none", "c"));
        await fails("ENOENT", root.link("a", "none/c"));
        await fails("ENOTDIR", root.link("a", "b/c"));
        await fails("EPERM", root.link("dir", "dir2"));
        await hasAttributes(root, "a", { nlink: 1 });
      },
    },
    {
      name: "two hundred links to one file are counted",
      source: "limits.h LINK_MAX",
      async run({ root }) {
        await root.put("file");
        for (let i = 0; i < 200; i += 1) await root.link("file", `l${i}`);
        await hasAttributes(root, "file", { nlink: 201 });
        for (let i = 0; i < 200; i += 1) await root.unlink(`l${i}`);
        await hasAttributes(root, "file", { nlink: 1 });
      },
    },
    {
      name: "a symbolic link itself can be linked, and fifos too",
      source: "linkat(2)",
      async run({ root }) {
        await root.symlink("none", "link");
        await root.link("link", "link2");
        assert.equal(await root.readlink("link2"), "none");
        assert.equal((await root.lstat("link")).nlink, 2);
        await root.mknod("fifo", "S_IFIFO");
        await root.link("fifo", "fifo2");
        await hasAttributes(root, "fifo", { nlink: 2 });
        await root.put("file");
        await root.symlink("file", "to-file");
        await root.link("to-file", "followed", "AT_SYMLINK_FOLLOW");
        assert.equal((await root.lstat("followed")).kind, "file");
      },
    },
    {
      name: "a user does not link a file of others that he may not write",
      source: "proc(5) protected_hardlinks",
      needs: "root",
      async run({ root, process }) {
        const { out } = await root.run(["cat", "/proc/sys/fs/protected_hardlinks"]);
        await root.chmod(".", 0o777);
        await root.put("file", "", 0o644);
        const linked = (await process(alice)).link("file", "mine");
        if (out.trim() === "1") await fails("EPERM", linked);
        else await linked;
      },
    },
    {
      name: "a symbolic link holds its text, whatever it is",
      source: "POSIX symlink, readlink",
      async run({ root }) {
        const targets = ["none", "/", "..", "a//b/", " ", "\xff\xfe\x01", "caf\xc3\xa9", "t\nu"];
        for (const [i, target] of targets.entries()) {
          await root.symlink(target, `l${i}`);
          assert.equal(await root.readlink(`l${i}`), target);
          const { kind, size, mode } = await root.lstat(`l${i}`);
          assert.deepEqual([kind, size, mode], ["symlink", target.length, 0o777]);
        }
      },
    },
    {
      name: "its text has up to 4,095 bytes, more is ENAMETOOLONG",
      source: "POSIX symlink, limits.h SYMLINK_MAX (Linux: PATH_MAX - 1)",
      async run({ root }) {
        // ext4 keeps what fits into a block less one.
        const longest = "t/".repeat(2_047) + "t";
        assert.equal(longest.length, 4_095);
        await root.symlink(longest, "link");
        assert.equal(await root.readlink("link"), longest);
        await fails("ENAMETOOLONG", root.symlink(`${longest}t`, "link2"));
      },
    },
    {
      name: "links are followed in the middle of a path, and loops are ELOOP",
      source: "POSIX ELOOP, path_resolution(7)",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("dir/file", "data");
        await root.symlink("dir", "link");
        await hasBytes(root, "link/file", "data");
        assert.equal((await root.stat("link")).kind, "directory");
        await root.symlink("b", "a");
        await root.symlink("a", "b");
        await root.symlink("self", "self");
        await fails("ELOOP", root.stat("a"));
        await fails("ELOOP", root.open("self", "O_RDONLY"));
        await fails("ELOOP", root.open("self/x", "O_CREAT|O_RDWR"));
        await fails("ELOOP", root.truncate("a", 0));
        await fails("ELOOP", root.chmod("self", 0));
        assert.equal((await root.lstat("self")).kind, "symlink");
      },
    },
    {
      name: "forty links on the way are followed, more are ELOOP",
      source: "path_resolution(7)",
      async run({ root }) {
        await root.put("l0", "end");
        for (let i = 1; i <= 41; i += 1) await root.symlink(`l${i - 1}`, `l${i}`);
        await hasBytes(root, "l40", "end");
        await fails("ELOOP", root.open("l41", "O_RDONLY"));
      },
    },
    {
      name: "a dangling link is there for lstat and not for stat",
      source: "POSIX lstat, stat",
      async run({ root }) {
        await root.symlink("none", "link");
        await fails("ENOENT", root.stat("link"));
        await fails("ENOENT", root.open("link", "O_RDONLY"));
        await fails("EINVAL", root.readlink("."));
        await root.put("none", "now");
        await hasBytes(root, "link", "now");
        await root.unlink("link");
        await hasBytes(root, "none", "now");
      },
    },
    {
      name: "a link that was replaced leads to its new target",
      source: "POSIX symlink, rename",
      async run({ root }) {
        for (let i = 0; i < 10; i += 1) {
          await root.put(`target${i}`, String(i));
          await root.symlink(`target${i}`, "new");
          await root.rename("new", "link");
          assert.equal(await root.readlink("link"), `target${i}`);
          await hasBytes(root, "link", String(i));
        }
      },
    },
    {
      name: "what was unlinked can be made anew, and is another file",
      source: "POSIX unlink",
      async run({ root }) {
        await root.put("file", "old");
        const fd = await root.open("file", "O_RDONLY");
        await root.unlink("file");
        await missing(root, "file");
        await root.put("file", "new");
        assert.notEqual((await root.stat("file")).ino, (await root.stat(fd)).ino);
        await fails("ENOENT", root.unlink("none"));
      },
    },
    {
      name: "readlink of what is not a link is EINVAL",
      source: "POSIX readlink EINVAL",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await fails("EINVAL", root.readlink("file"));
        await fails("EINVAL", root.readlink("dir"));
        await fails("ENOENT", root.readlink("none"));
        await fails("EEXIST", root.symlink("x", "file"));
        await fails("EEXIST", root.symlink("x", "dir"));
      },
    },
  ],
};
