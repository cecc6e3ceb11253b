import assert from "node:assert/strict";
import { type Theme, alice, fails, hasAttributes, hasBytes } from "../case.ts";

/** Files without a name (open(2) O_TMPFILE). */
export const tmpfile: Theme = {
  theme: "tmpfile",
  cases: [
    {
      name: "a file without a name is written, read and measured, and in no listing",
      source: "open(2) O_TMPFILE",
      async run({ root }) {
        const fd = await root.open(".", "O_TMPFILE|O_RDWR", 0o600);
        await root.write(fd, "data");
        assert.equal(await root.pread(fd, 10, 0), "data");
        await hasAttributes(root, fd, { kind: "file", nlink: 0, size: 4, mode: 0o600 });
        assert.deepEqual(await root.list(), []);
      },
    },
    {
      name: "it gets a name by linkat, and keeps its bytes after close",
      source: "open(2) O_TMPFILE, linkat(2)",
      async run({ root }) {
        const fd = await root.open(".", "O_TMPFILE|O_RDWR", 0o644);
        await root.write(fd, "data");
        await root.request("linkat_fd", fd, "name");
        await hasAttributes(root, "name", { nlink: 1, size: 4 });
        await root.close(fd);
        await hasBytes(root, "name", "data");
      },
    },
    {
      name: "with O_EXCL it cannot get one: ENOENT",
      source: "open(2) O_TMPFILE",
      async run({ root }) {
        const fd = await root.open(".", "O_TMPFILE|O_EXCL|O_RDWR");
        await fails("ENOENT", root.request("linkat_fd", fd, "name"));
      },
    },
    {
      name: "it needs writing, a directory, and permission to write there",
      source: "open(2) O_TMPFILE",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await fails("EINVAL", root.open(".", "O_TMPFILE|O_RDONLY"));
        await fails("ENOTDIR", root.open("file", "O_TMPFILE|O_RDWR"));
        await fails("ENOENT", root.open("none", "O_TMPFILE|O_RDWR"));
        await fails("EACCES", (await process(alice)).open(".", "O_TMPFILE|O_RDWR"));
      },
    },
    {
      name: "it belongs to its maker, with the umask and the directory's set-group-ID",
      source: "open(2) O_TMPFILE",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chown("dir", 0, 3_000);
        await root.chmod("dir", 0o2777);
        const user = await process(alice);
        const fd = await user.open("dir", "O_TMPFILE|O_RDWR", 0o666);
        await hasAttributes(user, fd, { uid: alice.uid, gid: 3_000, mode: 0o644 });
      },
    },
  ],
};
