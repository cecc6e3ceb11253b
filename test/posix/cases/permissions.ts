import assert from "node:assert/strict";
import { type Theme, alice, bob, fails, hasAttributes, hasBytes } from "../case.ts";

/** Who may do what (POSIX 4.7 File Access Permissions; path_resolution(7); inode(7) sticky). */
export const permissions: Theme = {
  theme: "permissions",
  cases: [
    {
      name: "owner, group and others have their own bits, and only theirs",
      source: "POSIX 4.7 File Access Permissions",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data");
        await root.chown("file", alice.uid, 3_000);
        const people = [
          { who: await process(alice), bits: { r: 0o400, w: 0o200 } },
          { who: await process({ ...bob, groups: [3_000] }), bits: { r: 0o040, w: 0o020 } },
          { who: await process(bob), bits: { r: 0o004, w: 0o002 } },
        ];
        for (const { who, bits } of people) {
          await root.chmod("file", bits.r);
          await who.close(await who.open("file", "O_RDONLY"));
          await fails("EACCES", who.open("file", "O_WRONLY"));
          await root.chmod("file", bits.w);
          await who.close(await who.open("file", "O_WRONLY"));
          await fails("EACCES", who.open("file", "O_RDONLY"));
          await fails("EACCES", who.open("file", "O_RDWR"));
          // What the classes of the others may do is not for this one.
          await root.chmod("file", 0o666 & ~bits.r & ~bits.w);
          await fails("EACCES", who.open("file", "O_RDONLY"));
          await fails("EACCES", who.open("file", "O_WRONLY"));
        }
      },
    },
    {
      name: "a group is looked up among the supplementary groups too",
      source: "POSIX 4.7, getgroups",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o640);
        await root.chmod("file", 0o640);
        await root.chown("file", 0, 3_017);
        const groups = Array.from({ length: 60 }, (_, i) => 3_000 + i);
        const member = await process({ ...bob, groups });
        await hasBytes(member, "file", "data");
        await fails("EACCES", (await process(bob)).open("file", "O_RDONLY"));
      },
    },
    {
      name: "access says what the open calls will say",
      source: "POSIX access, faccessat AT_EACCESS",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "x", 0o754);
        await root.chmod("file", 0o754);
        await root.chown("file", alice.uid, 3_000);
        const owner = await process(alice);
        const member = await process({ ...bob, groups: [3_000] });
        const other = await process(bob);
        await owner.access("file", "R_OK|W_OK|X_OK");
        await member.access("file", "R_OK|X_OK");
        await fails("EACCES", member.access("file", "W_OK"));
        await other.access("file", "R_OK");
        await fails("EACCES", other.access("file", "W_OK"));
        await fails("EACCES", other.access("file", "X_OK"));
        await other.access("file", "F_OK");
        await fails("ENOENT", other.access("none", "F_OK"));
      },
    },
    {
      name: "root reads and writes whatever the mode, and executes what anybody may",
      source: "capabilities(7) CAP_DAC_OVERRIDE",
      needs: "root",
      async run({ root }) {
        await root.put("file", "data");
        await root.chmod("file", 0);
        await root.chown("file", alice.uid, alice.gid);
        await hasBytes(root, "file", "data");
        await root.access("file", "R_OK|W_OK");
        await fails("EACCES", root.access("file", "X_OK"));
        await root.chmod("file", 0o001);
        await root.access("file", "X_OK");
      },
    },
    {
      name: "search permission is needed for every directory on the way",
      source: "path_resolution(7)",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("a");
        await root.mkdir("a/b");
        await root.put("a/b/file", "data", 0o644);
        const user = await process(bob);
        await hasBytes(user, "a/b/file", "data");
        await root.chmod("a", 0o744);
        await fails("EACCES", user.open("a/b/file", "O_RDONLY"));
        await fails("EACCES", user.lstat("a/b"));
        await fails("EACCES", user.readlink("a/b/none"));
        await root.chmod("a", 0o711);
        await hasBytes(user, "a/b/file", "data");
        await fails("EACCES", user.list("a"));
        await root.chmod("a/b", 0);
        await fails("EACCES", user.lstat("a/b/file"));
        await user.lstat("a/b");
      },
    },
    {
      name: "reading a directory needs r, and its entries x",
      source: "POSIX readdir, inode(7)",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        await root.chmod("dir", 0o744);
        const user = await process(bob);
        const fd = await user.open("dir", "O_RDONLY|O_DIRECTORY");
        await user.getdents(fd, 4_096);
        await fails("EACCES", user.lstat("dir/file"));
      },
    },
    {
      name: "making, removing and renaming entries needs w and x of the directory",
      source: "POSIX open, mkdir, unlink, rename, link, symlink",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.put("dir/file", "", 0o666);
        await root.mkdir("dir/sub", 0o777);
        await root.mkdir("mine");
        await root.chmod("mine", 0o777);
        await root.put("mine/file", "", 0o666);
        await root.chmod("mine/file", 0o666);
        const user = await process(bob);
        for (const mode of [0o755, 0o756]) {
          await root.chmod("dir", mode);
          await fails("EACCES", user.open("dir/new", "O_CREAT|O_RDWR"));
          await fails("EACCES", user.mkdir("dir/new"));
          await fails("EACCES", user.symlink("x", "dir/new"));
          await fails("EACCES", user.mknod("dir/new", "S_IFIFO"));
          await fails("EACCES", user.unlink("dir/file"));
          await fails("EACCES", user.rmdir("dir/sub"));
          await fails("EACCES", user.rename("dir/file", "mine/new"));
          await fails("EACCES", user.rename("mine/file", "dir/new"));
          await fails("EACCES", user.link("mine/file", "dir/new"));
        }
      },
    },
    {
      name: "an existing name without permission is EEXIST, not EACCES",
      source: "mkdir(2), open(2) O_EXCL",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        const user = await process(bob);
        await fails("EEXIST", user.mkdir("dir/file"));
        await fails("EEXIST", user.open("dir/file", "O_CREAT|O_EXCL|O_RDWR"));
        await fails("EEXIST", user.symlink("x", "dir/file"));
      },
    },
    {
      name: "in a sticky directory only an entry's owner, the directory's, or root removes it",
      source: "POSIX unlink, inode(7) S_ISVTX",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chmod("dir", 0o1777);
        const [first, second] = [await process(alice), await process(bob)];
        await first.put("dir/file", "a", 0o666);
        await first.mkdir("dir/sub", 0o777);
        await second.put("dir/mine");
        await fails("EPERM", second.unlink("dir/file"));
        await fails("EPERM", second.rmdir("dir/sub"));
        await fails("EPERM", second.rename("dir/file", "dir/new"));
        await fails("EPERM", second.rename("dir/mine", "dir/file"));
        await fails("EPERM", second.rename("dir/mine", "dir/file", "RENAME_EXCHANGE"));
        await first.unlink("dir/file");
        await second.rename("dir/mine", "dir/renamed");
        await root.chown("dir", alice.uid, alice.gid);
        await first.unlink("dir/renamed");
        await root.rmdir("dir/sub");
      },
    },
    {
      name: "moving a directory to another parent needs w of the directory itself",
      source: "rename(2) EACCES",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("a");
        await root.mkdir("b");
        await root.chmod("a", 0o777);
        await root.chmod("b", 0o777);
        await root.mkdir("a/dir", 0o755);
        const user = await process(bob);
        await fails("EACCES", user.rename("a/dir", "b/dir"));
        await user.rename("a/dir", "a/dir2");
        await root.chmod("a/dir2", 0o777);
        await user.rename("a/dir2", "b/dir");
      },
    },
    {
      name: "an open file keeps the rights it was opened with",
      source: "POSIX open, chmod",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data");
        await root.chmod("file", 0o666);
        const user = await process(bob);
        const fd = await user.open("file", "O_RDWR");
        await root.chmod("file", 0);
        assert.equal(await user.pread(fd, 4, 0), "data");
        await user.pwrite(fd, "DATA", 0);
        await user.truncate(fd, 2);
        await fails("EACCES", user.open("file", "O_RDONLY"));
        await hasBytes(root, "file", "DA");
      },
    },
    {
      name: "a file made with mode 0 can be written through the open that made it",
      source: "POSIX open O_CREAT",
      needs: "root",
      async run({ root, process }) {
        await root.chmod(".", 0o777);
        const user = await process(alice);
        const fd = await user.open("file", "O_CREAT|O_EXCL|O_RDWR", 0);
        await user.write(fd, "data");
        await user.close(fd);
        await hasAttributes(root, "file", { mode: 0, size: 4 });
        await fails("EACCES", user.open("file", "O_RDONLY"));
      },
    },
    {
      name: "truncate by path needs w, and of an open file a writing descriptor",
      source: "POSIX truncate, ftruncate",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o644);
        const user = await process(bob);
        await fails("EACCES", user.truncate("file", 0));
        await fails("EACCES", user.open("file", "O_RDONLY|O_TRUNC"));
        const fd = await user.open("file", "O_RDONLY");
        await fails("EINVAL", user.truncate(fd, 0));
        await hasAttributes(root, "file", { size: 4 });
      },
    },
    {
      name: "a program runs with x and not without, and set-user-ID gives it its owner",
      source: "POSIX exec",
      needs: "root",
      async run({ root, process }) {
        await root.run(["cp", "/usr/bin/id", "id"]);
        await root.chown("id", bob.uid, bob.gid);
        await root.chmod("id", 0o755);
        const user = await process(alice);
        const ran = async (): Promise<string> => {
          const { code, out } = await user.run(["sh", "-c", "exec ./id -u"]);
          return code === 0 ? out.trim() : `exit ${code}`;
        };
        assert.equal(await ran(), String(alice.uid));
        await root.chmod("id", 0o4755);
        assert.equal(await ran(), String(bob.uid));
        await root.chmod("id", 0o644);
        assert.equal(await ran(), "exit 126");
      },
    },
  ],
};
