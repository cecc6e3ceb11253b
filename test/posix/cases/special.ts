import assert from "node:assert/strict";
import { type Theme, alice, fails, hasAttributes, missing } from "../case.ts";

/** Fifos, sockets and devices (POSIX mkfifo, mknod, bind; inode(7)). */
export const special: Theme = {
  theme: "special files",
  cases: [
    {
      name: "a fifo passes bytes from one process to another",
      source: "POSIX mkfifo",
      async run({ root, process }) {
        const other = await process();
        await root.mknod("fifo", "S_IFIFO", 0o640);
        await hasAttributes(root, "fifo", { kind: "fifo", mode: 0o640, nlink: 1, size: 0 });
        const opening = other.open("fifo", "O_WRONLY");
        const reader = await root.open("fifo", "O_RDONLY");
        await other.write(await opening, "through");
        assert.equal(await root.read(reader, 100), "through");
      },
    },
    {
      name: "a fifo without a reader is ENXIO for a writer that does not wait",
      source: "POSIX open ENXIO",
      async run({ root }) {
        await root.mknod("fifo", "S_IFIFO");
        await fails("ENXIO", root.open("fifo", "O_WRONLY|O_NONBLOCK"));
        await root.open("fifo", "O_RDONLY|O_NONBLOCK");
        await root.open("fifo", "O_WRONLY|O_NONBLOCK");
      },
    },
    {
      name: "a socket is bound, connected through, and removed",
      source: "unix(7)",
      async run({ root }) {
        await root.request("bind_socket", "sock");
        await hasAttributes(root, "sock", { kind: "socket", nlink: 1 });
        assert.equal(await root.request("connect_socket", "sock"), "hello");
        await fails("EADDRINUSE", root.request("bind_socket", "sock"));
        await fails("ENXIO", root.open("sock", "O_RDWR"));
        await root.unlink("sock");
        await missing(root, "sock");
      },
    },
    {
      name: "device nodes keep their numbers, large ones too",
      source: "mknod(2), makedev(3)",
      needs: "root",
      async run({ root }) {
        const devices = [
          { major: 1, minor: 3 },
          { major: 0, minor: 0 },
          { major: 4_095, minor: 1_048_575 },
          { major: 300, minor: 70_000 },
        ];
        for (const [i, device] of devices.entries()) {
          await root.mknod(`c${i}`, "S_IFCHR", 0o600, device);
          await root.mknod(`b${i}`, "S_IFBLK", 0o600, device);
          await hasAttributes(root, `c${i}`, { kind: "char", ...device, mode: 0o600 });
          await hasAttributes(root, `b${i}`, { kind: "block", ...device });
        }
      },
    },
    {
      name: "a device node is the device, unless the mount says nodev",
      source: "mount(8) nodev, null(4)",
      needs: "root",
      async run({ root }) {
        await root.mknod("null", "S_IFCHR", 0o666, { major: 1, minor: 3 });
        const { out } = await root.run(["findmnt", "-no", "OPTIONS", "-T", "."]);
        if (out.trim().split(",").includes("nodev")) {
          await fails("EACCES", root.open("null", "O_RDWR"));
          return;
        }
        const fd = await root.open("null", "O_RDWR");
        assert.equal(await root.write(fd, "gone"), 4);
        assert.equal(await root.read(fd, 10), "");
      },
    },
    {
      name: "devices are root's to make; fifos anybody's",
      source: "mknod(2) EPERM",
      needs: "root",
      async run({ root, process }) {
        await root.chmod(".", 0o777);
        const user = await process(alice);
        await fails("EPERM", user.mknod("c", "S_IFCHR", 0o600, { major: 1, minor: 3 }));
        await fails("EPERM", user.mknod("b", "S_IFBLK", 0o600, { major: 1, minor: 3 }));
        await user.mknod("fifo", "S_IFIFO");
        await user.mknod("sock", "S_IFSOCK");
        await user.mknod("file", "S_IFREG");
        await hasAttributes(root, "file", { kind: "file", uid: alice.uid });
      },
    },
    {
      name: "mknod makes regular files, and refuses what exists",
      source: "mknod(2)",
      async run({ root }) {
        await root.umask(0o022);
        await root.mknod("file", "S_IFREG", 0o666);
        await hasAttributes(root, "file", { kind: "file", mode: 0o644, size: 0, nlink: 1 });
        await fails("EEXIST", root.mknod("file", "S_IFREG"));
        await fails("EEXIST", root.mknod("file", "S_IFIFO"));
        await fails(["EPERM", "EINVAL"], root.mknod("dir", "S_IFDIR"));
      },
    },
    {
      name: "special files are renamed, linked, chmodded and have times",
      source: "POSIX rename, chmod, utimensat",
      async run({ root }) {
        await root.mknod("fifo", "S_IFIFO", 0o600);
        await root.rename("fifo", "pipe");
        await root.chmod("pipe", 0o444);
        await root.utimens("pipe", 1_000_000_001n, 1_000_000_002n);
        const wanted = { kind: "fifo", mode: 0o444, mtime: 1_000_000_002n } as const;
        await hasAttributes(root, "pipe", wanted);
      },
    },
  ],
};
