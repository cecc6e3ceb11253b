import assert from "node:assert/strict";
import { type Theme, alice, bob, fails, hasAttributes, hasBytes } from "../case.ts";
import type { Process } from "../process.ts";

/** POSIX access control lists (acl(5); the form is linux/posix_acl_xattr.h). */

interface Acl {
  user: number;
  group: number;
  other: number;
  mask?: number;
  users?: Record<number, number>;
  groups?: Record<number, number>;
}

const access = "system.posix_acl_access";
const inherited = "system.posix_acl_default";
const noId = 0xff_ff_ff_ff;

/** struct posix_acl_xattr_header and its entries, ordered as the kernel wants them. */
function encode(acl: Acl): string {
  const entries: [tag: number, bits: number, id: number][] = [[1, acl.user, noId]];
  for (const [id, bits] of Object.entries(acl.users ?? {})) entries.push([2, bits, Number(id)]);
  entries.push([4, acl.group, noId]);
  for (const [id, bits] of Object.entries(acl.groups ?? {})) entries.push([8, bits, Number(id)]);
  if (acl.mask !== undefined) entries.push([16, acl.mask, noId]);
  entries.push([32, acl.other, noId]);
  const bytes = Buffer.alloc(4 + 8 * entries.length);
  bytes.writeUInt32LE(2, 0);
  for (const [i, [tag, bits, id]] of entries.entries()) {
    bytes.writeUInt16LE(tag, 4 + 8 * i);
    bytes.writeUInt16LE(bits, 6 + 8 * i);
    bytes.writeUInt32LE(id, 8 + 8 * i);
  }
  return bytes.toString("latin1");
}

async function hasAcl(process: Process, path: string, wanted: Acl, name = access): Promise<void> {
  const seen = Buffer.from(await process.getxattr(path, name), "latin1").toString("hex");
  assert.equal(seen, Buffer.from(encode(wanted), "latin1").toString("hex"), `${name} of ${path}`);
}

export const acls: Theme = {
  theme: "acls",
  cases: [
    {
      name: "a named user gets what the list says, within the mask",
      source: "acl(5)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o600);
        const [named, other] = [await process(alice), await process(bob)];
        await fails("EACCES", named.open("file", "O_RDONLY"));
        const acl = { user: 6, users: { [alice.uid]: 6 }, group: 0, mask: 6, other: 0 };
        await root.setxattr("file", access, encode(acl));
        await named.close(await named.open("file", "O_RDWR"));
        await fails("EACCES", other.open("file", "O_RDONLY"));
        await root.setxattr("file", access, encode({ ...acl, mask: 4 }));
        await hasBytes(named, "file", "data");
        await fails("EACCES", named.open("file", "O_RDWR"));
        await hasAcl(root, "file", { ...acl, mask: 4 });
      },
    },
    {
      name: "a named group gets what the list says",
      source: "acl(5)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o600);
        const acl = { user: 6, group: 0, groups: { 3_000: 4 }, mask: 4, other: 0 };
        await root.setxattr("file", access, encode(acl));
        await hasBytes(await process({ ...bob, groups: [3_000] }), "file", "data");
        await fails("EACCES", (await process(bob)).open("file", "O_RDONLY"));
      },
    },
    {
      name: "a named user with no bits is kept out of what others may read",
      source: "acl(5)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data", 0o644);
        const acl = { user: 6, users: { [alice.uid]: 0 }, group: 4, mask: 4, other: 4 };
        await root.setxattr("file", access, encode(acl));
        await fails("EACCES", (await process(alice)).open("file", "O_RDONLY"));
        await hasBytes(await process(bob), "file", "data");
      },
    },
    {
      name: "the mode's group bits are the mask, and chmod sets it",
      source: "acl(5) CORRESPONDENCE",
      async run({ root }) {
        await root.put("file", "", 0o600);
        const acl = { user: 6, users: { [alice.uid]: 7 }, group: 4, mask: 7, other: 1 };
        await root.setxattr("file", access, encode(acl));
        await hasAttributes(root, "file", { mode: 0o671 });
        await root.chmod("file", 0o750);
        await hasAttributes(root, "file", { mode: 0o750 });
        await hasAcl(root, "file", { ...acl, user: 7, mask: 5, other: 0 });
      },
    },
    {
      name: "a list without names is the mode and is not kept",
      source: "acl(5), setxattr(2)",
      async run({ root }) {
        await root.put("file", "", 0o600);
        await root.setxattr("file", access, encode({ user: 7, group: 5, other: 4 }));
        await hasAttributes(root, "file", { mode: 0o754 });
        await fails("ENODATA", root.getxattr("file", access));
      },
    },
    {
      name: "removing a list leaves the mode",
      source: "acl(5)",
      async run({ root }) {
        await root.put("file", "", 0o600);
        const acl = { user: 6, users: { [alice.uid]: 6 }, group: 4, mask: 6, other: 0 };
        await root.setxattr("file", access, encode(acl));
        await root.removexattr("file", access);
        await fails("ENODATA", root.getxattr("file", access));
        await hasAttributes(root, "file", { mode: 0o660 });
      },
    },
    {
      name: "files get their directory's default list, less the mode they are made with",
      source: "acl(5) OBJECT CREATION AND DEFAULT ACLs",
      async run({ root }) {
        await root.mkdir("dir");
        const acl = { user: 7, users: { [alice.uid]: 7 }, group: 5, mask: 7, other: 5 };
        await root.setxattr("dir", inherited, encode(acl));
        await root.umask(0o077); // A default list takes the umask's place.
        await root.put("dir/file", "", 0o664);
        await hasAttributes(root, "dir/file", { mode: 0o664 });
        await hasAcl(root, "dir/file", { ...acl, user: 6, mask: 6, other: 4 });
        await fails("ENODATA", root.getxattr("dir/file", inherited));
        await root.mknod("dir/fifo", "S_IFIFO", 0o600);
        await hasAcl(root, "dir/fifo", { ...acl, user: 6, mask: 0, other: 0 });
      },
    },
    {
      name: "directories get it as their own and pass it on",
      source: "acl(5) OBJECT CREATION AND DEFAULT ACLs",
      async run({ root }) {
        await root.mkdir("dir");
        const acl = { user: 7, users: { [alice.uid]: 7 }, group: 5, mask: 7, other: 5 };
        await root.setxattr("dir", inherited, encode(acl));
        await root.umask(0o077);
        await root.mkdir("dir/sub", 0o770);
        await hasAttributes(root, "dir/sub", { mode: 0o770 });
        await hasAcl(root, "dir/sub", { ...acl, other: 0 });
        await hasAcl(root, "dir/sub", acl, inherited);
        await root.mkdir("dir/sub/deep", 0o700);
        await hasAcl(root, "dir/sub/deep", acl, inherited);
        await root.symlink("x", "dir/link");
        await hasAttributes(root, "dir", { mode: 0o755 });
      },
    },
    {
      name: "without a default list the umask counts, also when a list is removed again",
      source: "acl(5), umask(2)",
      async run({ root }) {
        await root.mkdir("dir");
        await root.umask(0o027);
        await root.put("dir/before", "", 0o666);
        const acl = { user: 7, group: 7, other: 7 };
        await root.setxattr("dir", inherited, encode(acl));
        await root.put("dir/during", "", 0o666);
        await root.removexattr("dir", inherited);
        await root.put("dir/after", "", 0o666);
        await hasAttributes(root, "dir/before", { mode: 0o640 });
        await hasAttributes(root, "dir/during", { mode: 0o666 });
        await hasAttributes(root, "dir/after", { mode: 0o640 });
      },
    },
    {
      name: "a default list is for directories, and a list is for its owner to set",
      source: "acl(5), setxattr(2) EACCES, EPERM",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "", 0o666);
        await root.chown("file", alice.uid, alice.gid);
        const acl = encode({ user: 6, users: { 5: 6 }, group: 6, mask: 6, other: 6 });
        await fails(["EACCES", "EPERM"], root.setxattr("file", inherited, acl));
        await (await process(alice)).setxattr("file", access, acl);
        await fails("EPERM", (await process(bob)).setxattr("file", access, acl));
        await fails("EPERM", (await process(bob)).removexattr("file", access));
      },
    },
    {
      name: "a list that is not one is EINVAL",
      source: "acl(5) VALID ACLs",
      async run({ root }) {
        await root.put("file");
        const noMask = encode({ user: 6, users: { 5: 6 }, group: 6, other: 6 });
        await fails("EINVAL", root.setxattr("file", access, noMask));
        await fails(["EINVAL", "EOPNOTSUPP"], root.setxattr("file", access, "\x03\0\0\0"));
        await fails("EINVAL", root.setxattr("file", access, "\x02\0\0\0abc"));
      },
    },
    {
      name: "set-group-ID goes when an owner outside the group sets a list",
      source: "acl(5), kernel's posix_acl_update_mode (CVE-2016-7097)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file");
        await root.chown("file", alice.uid, bob.gid);
        await root.chmod("file", 0o2775);
        const acl = { user: 7, users: { 5: 7 }, group: 7, mask: 7, other: 5 };
        await (await process(alice)).setxattr("file", access, encode(acl));
        await hasAttributes(root, "file", { mode: 0o775 });
      },
    },
    {
      name: "lists move ctime, and stay with rename and hard link",
      source: "acl(5)",
      async run({ root }) {
        await root.put("file");
        const acl = { user: 6, users: { 5: 6 }, group: 4, mask: 6, other: 0 };
        await root.setxattr("file", access, encode(acl));
        await root.rename("file", "other");
        await root.link("other", "third");
        await hasAcl(root, "third", acl);
      },
    },
    {
      name: "setfacl and getfacl give back what was set",
      source: "setfacl(1), getfacl(1)",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        const set = ["setfacl", "-R", "-m", "u:1001:rwX,g:3000:r-X,d:u:1001:rwX", "dir"];
        assert.equal((await root.run(set)).code, 0);
        const { out } = await root.run(["getfacl", "-n", "-R", "dir"]);
        assert.match(out, /^user:1001:rwx$/m);
        assert.match(out, /^default:user:1001:rwx$/m);
        assert.match(out, /^user:1001:rw-$/m);
        assert.match(out, /^group:3000:r--$/m);
        await root.run(["cp", "-a", "dir", "copy"]);
        const copied = await root.run(["getfacl", "-n", "-R", "copy"]);
        assert.equal(copied.out.replaceAll("copy", "dir"), out);
      },
    },
  ],
};
