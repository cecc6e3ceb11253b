import assert from "node:assert/strict";
import { type Theme, alice, bob, fails, hasAttributes, moves } from "../case.ts";

/** Types, modes, owners and link counts (POSIX sys/stat.h; chmod(2), chown(2), inode(7)). */
export const attributes: Theme = {
  theme: "attributes",
  cases: [
    {
      name: "a new file is empty, with one link, its mode less the umask, owned by its maker",
      source: "POSIX open O_CREAT",
      async run({ root }) {
        await root.umask(0o027);
        const fd = await root.open("file", "O_CREAT|O_RDWR", 0o777);
        const wanted = { kind: "file", mode: 0o750, nlink: 1, size: 0, blocks: 0 } as const;
        await hasAttributes(root, "file", wanted);
        await hasAttributes(root, fd, wanted);
      },
    },
    {
      name: "a new directory has two links, and each directory in it adds one",
      source: "inode(7) st_nlink",
      async run({ root }) {
        await root.mkdir("dir", 0o755);
        await hasAttributes(root, "dir", { kind: "directory", mode: 0o755, nlink: 2 });
        await root.mkdir("dir/a");
        await root.mkdir("dir/b");
        await root.put("dir/file");
        await hasAttributes(root, "dir", { nlink: 4 });
        await root.rmdir("dir/a");
        await hasAttributes(root, "dir", { nlink: 3 });
        await root.rename("dir/b", "b");
        await hasAttributes(root, "dir", { nlink: 2 });
      },
    },
    {
      name: "the mode has all twelve bits, by path and by open file",
      source: "POSIX chmod, fchmod",
      async run({ root }) {
        await root.put("file");
        const fd = await root.open("file", "O_RDONLY");
        for (const mode of [0, 0o777, 0o4711, 0o2755, 0o1644, 0o7777, 0o644]) {
          await root.chmod("file", mode);
          await hasAttributes(root, fd, { mode });
        }
        await root.chmod(fd, 0o600);
        await hasAttributes(root, "file", { mode: 0o600 });
      },
    },
    {
      name: "a mode given at creation includes set-user-ID, set-group-ID and sticky",
      source: "open(2), mkdir(2)",
      async run({ root }) {
        await root.umask(0);
        await root.put("file", "", 0o7777);
        await hasAttributes(root, "file", { mode: 0o7777 });
        // Linux: mkdir honours the sticky bit, and of the others what the parent passes on.
        await root.mkdir("dir", 0o1777);
        await hasAttributes(root, "dir", { mode: 0o1777 });
      },
    },
    {
      name: "chown sets both owners, one of them with -1, by path and by open file",
      source: "POSIX chown, fchown",
      needs: "root",
      async run({ root }) {
        await root.put("file");
        await root.chown("file", 12, 34);
        await hasAttributes(root, "file", { uid: 12, gid: 34 });
        await root.chown("file", -1, 35);
        await hasAttributes(root, "file", { uid: 12, gid: 35 });
        await root.chown("file", 13, -1);
        await hasAttributes(root, "file", { uid: 13, gid: 35 });
        const fd = await root.open("file", "O_RDONLY");
        await root.chown(fd, 4_000_000_000, 4_000_000_001);
        await hasAttributes(root, "file", { uid: 4_000_000_000, gid: 4_000_000_001 });
      },
    },
    {
      name: "lchown is for the link, chown for what it leads to",
      source: "POSIX lchown",
      needs: "root",
      async run({ root }) {
        await root.put("file");
        await root.symlink("file", "link");
        await root.lchown("link", 5, 6);
        await root.chown("link", 7, 8);
        await hasAttributes(root, "file", { uid: 7, gid: 8 });
        const link = await root.lstat("link");
        assert.deepEqual([link.uid, link.gid, link.mode], [5, 6, 0o777]);
      },
    },
    {
      name: "only the owner changes a mode: others get EPERM",
      source: "POSIX chmod",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "", 0o666);
        await root.chown("file", alice.uid, alice.gid);
        const [owner, other] = [await process(alice), await process(bob)];
        await owner.chmod("file", 0o640);
        await fails("EPERM", other.chmod("file", 0o777));
        await root.chmod("file", 0o644);
        await hasAttributes(root, "file", { mode: 0o644 });
      },
    },
    {
      name: "set-group-ID is taken off when a mode is given by an owner outside the group",
      source: "POSIX chmod",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await root.chown("file", alice.uid, bob.gid);
        await (await process(alice)).chmod("file", 0o2755);
        await hasAttributes(root, "file", { mode: 0o755 });
        await (await process({ ...alice, groups: [bob.gid] })).chmod("file", 0o2755);
        await hasAttributes(root, "file", { mode: 0o2755 });
      },
    },
    {
      name: "an owner gives a file to his groups only, and to no other owner",
      source: "POSIX chown, _POSIX_CHOWN_RESTRICTED",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await root.chown("file", alice.uid, alice.gid);
        const owner = await process({ ...alice, groups: [3_000] });
        await owner.chown("file", -1, 3_000);
        await owner.chown("file", alice.uid, alice.gid);
        await fails("EPERM", owner.chown("file", -1, bob.gid));
        await fails("EPERM", owner.chown("file", bob.uid, -1));
        await fails("EPERM", (await process(bob)).chown("file", -1, bob.gid));
        await hasAttributes(root, "file", { uid: alice.uid, gid: alice.gid });
      },
    },
    {
      name: "chown by a user clears set-user-ID and set-group-ID of an executable file",
      source: "POSIX chown, chown(2)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await root.chown("file", alice.uid, alice.gid);
        await root.chmod("file", 0o6755);
        await (await process({ ...alice, groups: [3_000] })).chown("file", -1, 3_000);
        await hasAttributes(root, "file", { mode: 0o755, gid: 3_000 });
      },
    },
    {
      name: "chown by root clears them as well, and keeps set-group-ID without group execution",
      source: "chown(2)",
      needs: "root",
      async run({ root }) {
        await root.put("file");
        await root.chmod("file", 0o6755);
        await root.chown("file", 5, 5);
        await hasAttributes(root, "file", { mode: 0o755 });
        await root.chmod("file", 0o2644);
        await root.chown("file", 6, 6);
        await hasAttributes(root, "file", { mode: 0o2644 });
        await root.mkdir("dir");
        await root.chmod("dir", 0o6755);
        await root.chown("dir", 7, 7);
        await hasAttributes(root, "dir", { mode: 0o6755 });
      },
    },
    {
      name: "a write by a user clears set-user-ID and set-group-ID",
      source: "POSIX write, write(2)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data");
        await root.chown("file", bob.uid, bob.gid);
        const user = await process(alice);
        await root.chmod("file", 0o6777);
        const fd = await user.open("file", "O_WRONLY");
        await user.write(fd, "x");
        await user.close(fd);
        await hasAttributes(root, "file", { mode: 0o777 });
        await root.chmod("file", 0o6777);
        await user.truncate("file", 1);
        await hasAttributes(root, "file", { mode: 0o777, size: 1 });
        await root.chmod("file", 0o6777);
        await user.close(await user.open("file", "O_WRONLY|O_TRUNC"));
        await hasAttributes(root, "file", { mode: 0o777, size: 0 });
      },
    },
    {
      name: "a write by root keeps them",
      source: "write(2), CAP_FSETID",
      needs: "root",
      async run({ root }) {
        await root.put("file", "data");
        await root.chmod("file", 0o6777);
        const fd = await root.open("file", "O_WRONLY");
        await root.write(fd, "x");
        await root.close(fd);
        await hasAttributes(root, "file", { mode: 0o6777 });
      },
    },
    {
      name: "a directory with set-group-ID passes on its group, and the bit to directories",
      source: "mkdir(2), inode(7) S_ISGID",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chown("dir", 0, 3_000);
        await root.chmod("dir", 0o2777);
        const user = await process(alice);
        await user.put("dir/file");
        await user.mkdir("dir/sub", 0o755);
        await user.symlink("x", "dir/link");
        await user.mknod("dir/fifo", "S_IFIFO", 0o644);
        await hasAttributes(root, "dir/file", { uid: alice.uid, gid: 3_000, mode: 0o644 });
        await hasAttributes(root, "dir/sub", { uid: alice.uid, gid: 3_000, mode: 0o2755 });
        await hasAttributes(root, "dir/fifo", { uid: alice.uid, gid: 3_000 });
        assert.equal((await root.lstat("dir/link")).gid, 3_000);
      },
    },
    {
      name: "in such a directory a new executable file of a foreign group loses set-group-ID",
      source: "inode(7), kernel's mode_strip_sgid",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chown("dir", 0, 3_000);
        await root.chmod("dir", 0o2777);
        const user = await process(alice);
        await user.umask(0);
        await user.put("dir/file", "", 0o2775);
        await hasAttributes(root, "dir/file", { gid: 3_000, mode: 0o775 });
        await user.put("dir/lock", "", 0o2664);
        await hasAttributes(root, "dir/lock", { gid: 3_000, mode: 0o2664 });
        const member = await process({ ...alice, groups: [3_000] });
        await member.umask(0);
        await member.put("dir/own", "", 0o2775);
        await hasAttributes(root, "dir/own", { mode: 0o2775 });
      },
    },
    {
      name: "what a user makes is his, with his effective group",
      source: "POSIX open, mkdir, mknod, symlink",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chmod("dir", 0o777);
        const user = await process(alice);
        const owner = { uid: alice.uid, gid: alice.gid };
        await user.put("dir/file");
        await user.mkdir("dir/sub");
        await user.mknod("dir/fifo", "S_IFIFO");
        await user.symlink("x", "dir/link");
        for (const name of ["file", "sub", "fifo"]) await hasAttributes(root, `dir/${name}`, owner);
        const { uid, gid } = await root.lstat("dir/link");
        assert.deepEqual({ uid, gid }, owner);
      },
    },
    {
      name: "attributes by open file are those of its path, also after a rename",
      source: "POSIX fstat",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDONLY");
        await root.rename("file", "other");
        await root.chmod("other", 0o600);
        await root.link("other", "third");
        assert.deepEqual(await root.stat(fd), await root.stat("third"));
        await hasAttributes(root, fd, { nlink: 2, mode: 0o600, size: 5 });
      },
    },
    {
      name: "inode numbers stay, and are different for different files",
      source: "POSIX sys/stat.h",
      async run({ root }) {
        const seen = new Set<number>();
        for (let i = 0; i < 50; i += 1) {
          await root.put(`f${i}`);
          seen.add((await root.stat(`f${i}`)).ino);
        }
        assert.equal(seen.size, 50);
        const before = await root.stat("f7");
        await root.rename("f7", "moved");
        assert.equal((await root.stat("moved")).ino, before.ino);
        assert.equal((await root.stat("moved")).dev, before.dev);
      },
    },
    {
      name: "blocks count what is stored, in 512 bytes",
      source: "POSIX sys/stat.h st_blocks",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.request("write_all", fd, "x".repeat(1 << 20));
        await root.fsync(fd);
        const { blocks, blksize } = await root.stat(fd);
        assert.ok(blocks >= 2_048 && blocks <= 4_096, `${blocks} blocks for 1 MiB`);
        assert.ok(blksize >= 512, `a block size of ${blksize}`);
      },
    },
    {
      name: "a user cannot set the sticky bit of a file or chmod through a foreign link's target",
      source: "chmod(2)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "", 0o644);
        await root.chmod(".", 0o777);
        const user = await process(alice);
        await user.symlink("file", "link");
        await fails("EPERM", user.chmod("link", 0o777));
        await hasAttributes(root, "file", { mode: 0o644 });
      },
    },
    {
      name: "chmod and chown that change nothing still move ctime",
      source: "POSIX chmod, chown",
      async run({ root }) {
        await root.put("file", "", 0o644);
        await moves(root, "file", ["ctime"], () => root.chmod("file", 0o644));
        const { uid, gid } = await root.stat("file");
        await moves(root, "file", ["ctime"], () => root.chown("file", uid, gid));
      },
    },
  ],
};
