import assert from "node:assert/strict";
import { type Theme, alice, bob, fails, hasAttributes } from "../case.ts";

/** Extended attributes (xattr(7), setxattr(2), getxattr(2), listxattr(2), removexattr(2)). */
export const xattrs: Theme = {
  theme: "xattrs",
  cases: [
    {
      name: "attributes are set, read, listed, replaced and removed",
      source: "xattr(7)",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        for (const place of ["file", "dir"]) {
          await root.setxattr(place, "user.one", "1");
          await root.setxattr(place, "user.two", "\0\xff\n");
          assert.deepEqual(await mine(root, place), ["user.one", "user.two"]);
          assert.equal(await root.getxattr(place, "user.two"), "\0\xff\n");
          await root.setxattr(place, "user.one", "longer than before");
          assert.equal(await root.getxattr(place, "user.one"), "longer than before");
          await root.removexattr(place, "user.one");
          assert.deepEqual(await mine(root, place), ["user.two"]);
          await fails("ENODATA", root.getxattr(place, "user.one"));
          await fails("ENODATA", root.removexattr(place, "user.one"));
        }
      },
    },
    {
      name: "they are those of the open file too, and stay with a rename and a link",
      source: "fsetxattr(2)",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.setxattr(fd, "user.a", "1");
        await root.rename("file", "other");
        await root.link("other", "third");
        assert.equal(await root.getxattr("third", "user.a"), "1");
        await root.setxattr("third", "user.a", "2");
        assert.equal(await root.getxattr(fd, "user.a"), "2");
        await root.unlink("other");
        await root.unlink("third");
        assert.equal(await root.getxattr(fd, "user.a"), "2");
      },
    },
    {
      name: "XATTR_CREATE wants none to be there, XATTR_REPLACE one",
      source: "setxattr(2) EEXIST, ENODATA",
      async run({ root }) {
        await root.put("file");
        await fails("ENODATA", root.setxattr("file", "user.a", "1", "XATTR_REPLACE"));
        await root.setxattr("file", "user.a", "1", "XATTR_CREATE");
        await fails("EEXIST", root.setxattr("file", "user.a", "2", "XATTR_CREATE"));
        await root.setxattr("file", "user.a", "3", "XATTR_REPLACE");
        assert.equal(await root.getxattr("file", "user.a"), "3");
      },
    },
    {
      name: "the size of a value and of the list can be asked for, and too little room is ERANGE",
      source: "getxattr(2), listxattr(2) ERANGE",
      async run({ root }) {
        await root.put("file");
        await root.setxattr("file", "user.a", "12345");
        assert.equal(await root.request("getxattr_into", "file", "user.a", 0), 5);
        assert.equal(await root.request("getxattr_into", "file", "user.a", 5), 5);
        assert.equal(await root.request("getxattr_into", "file", "user.a", 100), 5);
        await fails("ERANGE", root.request("getxattr_into", "file", "user.a", 4));
        const size = await root.request<number>("listxattr_into", "file", 0);
        assert.ok(size >= 7, `a list of ${size} bytes`);
        assert.equal(await root.request("listxattr_into", "file", size), size);
        await fails("ERANGE", root.request("listxattr_into", "file", size - 1));
      },
    },
    {
      name: "an empty value is a value",
      source: "setxattr(2)",
      async run({ root }) {
        await root.put("file");
        await root.setxattr("file", "user.empty", "");
        assert.equal(await root.getxattr("file", "user.empty"), "");
        assert.deepEqual(await mine(root, "file"), ["user.empty"]);
      },
    },
    {
      name: "a name has 255 bytes at most, and is not empty",
      source: "xattr(7), setxattr(2) ERANGE",
      async run({ root }) {
        await root.put("file");
        const longest = `user.${"n".repeat(250)}`;
        await root.setxattr("file", longest, "1");
        assert.deepEqual(await mine(root, "file"), [longest]);
        await fails("ERANGE", root.setxattr("file", `${longest}n`, "1"));
        await fails("ERANGE", root.getxattr("file", `${longest}n`));
        await fails("ERANGE", root.setxattr("file", "", "1"));
        await fails("EINVAL", root.setxattr("file", "user.", "1"));
      },
    },
    {
      name: "a value of 4,000 bytes is kept, one over 65,536 is E2BIG",
      source: "xattr(7) XATTR_SIZE_MAX",
      async run({ root }) {
        await root.put("file");
        const value = "v".repeat(3_900);
        await root.setxattr("file", "user.big", value);
        assert.equal(await root.getxattr("file", "user.big"), value);
        await fails("E2BIG", root.setxattr("file", "user.huge", "v".repeat(65_537)));
      },
    },
    {
      name: "a name without a known namespace is EOPNOTSUPP",
      source: "xattr(7), setxattr(2)",
      async run({ root }) {
        await root.put("file");
        await fails("EOPNOTSUPP", root.setxattr("file", "plain", "1"));
        await fails("EOPNOTSUPP", root.setxattr("file", "unknown.a", "1"));
        await fails(["EOPNOTSUPP", "ENODATA"], root.getxattr("file", "unknown.a"));
      },
    },
    {
      name: "names are bytes, and a case differs",
      source: "xattr(7)",
      async run({ root }) {
        await root.put("file");
        const all = ["user.A", "user.a", "user.\xff\xfe", "user.a b", "user.caf\xe9"];
        for (const name of all) await root.setxattr("file", name, name);
        assert.deepEqual(await mine(root, "file"), all.toSorted());
        for (const name of all) assert.equal(await root.getxattr("file", name), name);
      },
    },
    {
      name: "user attributes are for files and directories: EPERM for others",
      source: "xattr(7)",
      async run({ root }) {
        await root.mknod("fifo", "S_IFIFO");
        await fails("EPERM", root.setxattr("fifo", "user.a", "1"));
        await root.symlink("none", "link");
        const value = root.request("setxattr", "link", "user.a", "1", "", true);
        await fails("EPERM", value);
      },
    },
    {
      name: "user attributes need the permission to read and write the file",
      source: "xattr(7)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "", 0o640);
        await root.chown("file", alice.uid, alice.gid);
        await root.chmod("file", 0o644);
        const [owner, other] = [await process(alice), await process(bob)];
        await owner.setxattr("file", "user.a", "1");
        assert.equal(await other.getxattr("file", "user.a"), "1");
        await fails("EACCES", other.setxattr("file", "user.a", "2"));
        await fails("EACCES", other.removexattr("file", "user.a"));
        await root.chmod("file", 0o640);
        await fails("EACCES", other.getxattr("file", "user.a"));
      },
    },
    {
      name: "in a sticky directory's own attributes only its owner writes",
      source: "xattr(7)",
      needs: "root",
      async run({ root, process }) {
        await root.mkdir("dir");
        await root.chmod("dir", 0o1777);
        await fails("EPERM", (await process(bob)).setxattr("dir", "user.a", "1"));
        await root.setxattr("dir", "user.a", "1");
      },
    },
    {
      name: "trusted attributes are root's, and others do not see them",
      source: "xattr(7)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "", 0o666);
        await root.chmod("file", 0o666);
        await root.setxattr("file", "trusted.a", "secret");
        assert.equal(await root.getxattr("file", "trusted.a"), "secret");
        assert.ok((await root.listxattr("file")).includes("trusted.a"));
        const user = await process(bob);
        await fails("EPERM", user.setxattr("file", "trusted.a", "1"));
        await fails("ENODATA", user.getxattr("file", "trusted.a"));
        assert.ok(!(await user.listxattr("file")).includes("trusted.a"));
        await root.symlink("none", "link");
        await root.request("setxattr", "link", "trusted.b", "1", "", true);
        assert.equal(await root.getxattr("link", "trusted.b", true), "1");
      },
    },
    {
      name: "file capabilities are kept, and lost when the file is written",
      source: "capabilities(7), security.capability",
      needs: "root",
      async run({ root }) {
        await root.put("file", "data");
        const capability = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        await root.setxattr("file", "security.capability", capability);
        assert.equal(await root.getxattr("file", "security.capability"), capability);
        const fd = await root.open("file", "O_WRONLY");
        await root.write(fd, "x");
        await root.close(fd);
        await fails("ENODATA", root.getxattr("file", "security.capability"));
      },
    },
    {
      name: "chown takes file capabilities off",
      source: "capabilities(7)",
      needs: "root",
      async run({ root }) {
        await root.put("file", "data");
        const capability = "\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        await root.setxattr("file", "security.capability", capability);
        await root.chown("file", 5, 5);
        await fails("ENODATA", root.getxattr("file", "security.capability"));
        await hasAttributes(root, "file", { uid: 5 });
      },
    },
    {
      name: "a new file with an old name has no attributes",
      source: "xattr(7)",
      async run({ root }) {
        await root.put("file");
        await root.setxattr("file", "user.a", "1");
        await root.unlink("file");
        await root.put("file");
        await fails("ENODATA", root.getxattr("file", "user.a"));
        await root.put("other");
        await root.setxattr("other", "user.b", "2");
        await root.rename("other", "file");
        assert.equal(await root.getxattr("file", "user.b"), "2");
      },
    },
    {
      name: "thirty attributes are listed, each once",
      source: "listxattr(2)",
      async run({ root }) {
        await root.put("file");
        const wanted = Array.from({ length: 30 }, (_, i) => `user.name-${100 + i}`);
        for (const name of wanted) await root.setxattr("file", name, name);
        assert.deepEqual(await mine(root, "file"), wanted);
      },
    },
  ],
};

/** The attributes in user., as others may be there by the system's policy. */
async function mine(
  process: { listxattr(place: string): Promise<string[]> },
  place: string,
): Promise<string[]> {
  return (await process.listxattr(place)).filter((name) => name.startsWith("user."));
}
