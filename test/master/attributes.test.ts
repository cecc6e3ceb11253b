import t from "tap";
import { noteAccess, setAttributes } from "../../master/namespace/ops/attributes.ts";
import { commitWrite, truncate } from "../../master/namespace/ops/contents.ts";
import { createFile, createTmpfile, makeDirectory } from "../../master/namespace/ops/create.ts";
import { makeLink, removeDirectory } from "../../master/namespace/ops/link.ts";
import { removeXattr, setXattr } from "../../master/namespace/ops/xattrs.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import { type Ino, rootIno } from "../../protocol/id.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { chunkBytes, TestNamespace } from "../support/namespace.ts";
import { outcome } from "../support/outcome.ts";

const owner = { uid: 0, gid: 0 };
const capability = Buffer.from("security.capability");

async function fileOf(real: TestNamespace, mode: number, name = "f"): Promise<Ino> {
  const wanted = { parent: rootIno, name: Buffer.from(name), mode, exclusive: true, ...owner };
  return (await real.run((txn) => createFile(txn, wanted))).ino;
}

const attrOf = (real: TestNamespace, ino: Ino): Attr => real.reader.getattr(ino, undefined);

t.test("times are set as given, and `now` is the time of the commit", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o644);
  const made = attrOf(real, ino);
  await real.run((txn) => setAttributes(txn, ino, { atime: -1n, mtime: "now" }));
  const now = attrOf(real, ino);
  t.equal(now.atime, -1n, "before 1970");
  t.ok(now.mtime > made.mtime);
  t.equal(now.mtime, now.ctime, "both of one commit");
  await real.run((txn) => setAttributes(txn, ino, { mtime: 5n }));
  t.equal(attrOf(real, ino).atime, -1n, "what is absent stays");
});

t.test("a time that 64 bits cannot hold becomes the nearest that they can", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o644);
  await real.run((txn) => setAttributes(txn, ino, { atime: -(2n ** 70n), mtime: 2n ** 70n }));
  const { atime, mtime } = attrOf(real, ino);
  t.same([atime, mtime], [-(2n ** 63n), 2n ** 63n - 1n]);
});

t.test("killSuidGid takes setuid, and setgid where the group may execute", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  for (const [before, after] of [
    [0o6755, 0o755],
    [0o6745, 0o2745],
    [0o2750, 0o750],
    [0o1644, 0o1644],
  ] as const) {
    const ino = await fileOf(real, before, before.toString(8));
    await real.run((txn) => setAttributes(txn, ino, { killSuidGid: true }));
    t.equal(attrOf(real, ino).mode & 0o7777, after, before.toString(8));
  }
  const wanted = { parent: rootIno, name: Buffer.from("d"), mode: 0o2775, ...owner };
  const { ino } = await real.run((txn) => makeDirectory(txn, wanted));
  await real.run((txn) => setAttributes(txn, ino, { uid: 7, killSuidGid: true }));
  t.equal(attrOf(real, ino).mode & 0o7777, 0o2775, "a directory keeps its setgid bit");
});

t.test("capabilities end when a file is written, cut or given away", async (t) => {
  const changes: Record<string, (real: TestNamespace, ino: Ino) => Promise<unknown>> = {
    write: (real, ino) =>
      real.run((txn) => commitWrite(txn, { ino, size: 1, mtime: 1n, written: [] })),
    truncate: (real, ino) => real.run((txn) => truncate(txn, { ino, size: 0, chunkBytes })),
    chown: (real, ino) => real.run((txn) => setAttributes(txn, ino, { uid: 1, killSuidGid: true })),
  };
  for (const [what, change] of Object.entries(changes)) {
    const real = new TestNamespace(createMemoryStore());
    const ino = await fileOf(real, 0o755);
    for (const name of [capability, Buffer.from("user.other")]) {
      const value = Buffer.from("x");
      await real.run((txn) => setXattr(txn, { ino, name, value, mode: "any" }));
    }
    await real.run((txn) => setAttributes(txn, ino, { mode: 0o700, mtime: 1n }));
    t.equal(attrOf(real, ino).xattrs, 2, "chmod and utimensat leave them");
    await change(real, ino);
    t.same(Object.keys(real.xattrs(ino)), ["user.other"], what);
    t.equal(attrOf(real, ino).xattrs, 1);
  }
});

t.test("what is written has the time of the write, also as its ctime", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o644);
  const commit = (mtime: bigint): Promise<unknown> =>
    real.run((txn) => commitWrite(txn, { ino, size: 1, mtime, written: [] }));
  const mtime = attrOf(real, ino).ctime + 1n;
  await commit(mtime);
  t.match(attrOf(real, ino), { mtime, ctime: mtime });
  await commit(mtime - 1n);
  t.ok(attrOf(real, ino).ctime > mtime, "ctime moves on whatever the mount's clock says");
  const future = mtime + 10n ** 18n;
  await commit(future);
  t.match(attrOf(real, ino), { mtime: future });
  t.ok(attrOf(real, ino).ctime < future, "and never into the future");
});

t.test("an access moves atime only if nothing has changed since, and tells nobody", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o644);
  const told: number[] = [];
  real.committer.onCommit = ({ inos }) => void told.push(...inos);
  const { ctime } = attrOf(real, ino);
  const later = ctime + 1_000_000n;
  await real.run((txn) => noteAccess(txn, { ino, atime: later, ctime }));
  t.match(attrOf(real, ino), { atime: later, ctime });
  t.same(told, [], "no cache was woken");
  await real.run((txn) => noteAccess(txn, { ino, atime: later - 1n, ctime }));
  t.equal(attrOf(real, ino).atime, later, "the latest of two mounts' stays");
  await real.run((txn) => setAttributes(txn, ino, { atime: 5n }));
  await real.run((txn) => noteAccess(txn, { ino, atime: later + 1n, ctime }));
  t.equal(attrOf(real, ino).atime, 5n, "utimensat(2) since then has the last word");
});

t.test("a removed directory takes nothing and has nothing, reclaimed or not", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const name = Buffer.from("d");
  const wanted = { parent: rootIno, name, mode: 0o755, ...owner };
  const { ino } = await real.run((txn) => makeDirectory(txn, wanted));
  await real.run((txn) => removeDirectory(txn, { parent: rootIno, name }));
  const inside = { parent: ino, name, mode: 0o755, ...owner };
  const check = async (when: string): Promise<void> => {
    t.equal(await outcome(real.run((txn) => makeDirectory(txn, inside))), "not-found", when);
    t.equal(await outcome(() => real.reader.lookup(ino, name, undefined)), "not-found");
    const page = { after: undefined, limit: 1 };
    t.equal(await outcome(() => real.reader.readdir(ino, undefined, page)), "not-found");
  };
  await check("at once");
  await real.reclaim();
  await check("reclaimed");
});

t.test("attributes have the names, sizes and kinds that Linux allows", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o644);
  const set = (name: string, value = ""): Promise<string> => {
    const wanted = {
      ino,
      name: Buffer.from(name),
      value: Buffer.from(value),
      mode: "any",
    } as const;
    return outcome(real.run((txn) => setXattr(txn, wanted)));
  };
  t.equal(await set("user.a"), "ok");
  for (const name of ["a", "system.a", "os2.a", "userx.a", "user"]) {
    t.equal(await set(name), "not-supported", name);
    const get = (): unknown => real.reader.getxattr(ino, Buffer.from(name), undefined);
    t.equal(await outcome(get), "not-supported");
  }
  t.equal(await set("user."), "invalid");
  t.equal(await set(`user.${"x".repeat(251)}`), "range", "256 bytes");
  t.equal(await set("system.posix_acl_access", "nonsense"), "not-supported", "another version");
  for (let i = 0; ; i += 1) {
    const status = await set(`user.${String(i).padStart(5, "0")}${"x".repeat(240)}`);
    if (status === "ok") continue;
    t.equal(status, "no-space", "names that one listxattr(2) could not return");
    t.ok(i > 250);
    break;
  }
});

t.test("what a minimal ACL says, the mode says alone", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const ino = await fileOf(real, 0o2777);
  const acl = "system.posix_acl_access";
  const minimal = "0200000001000600ffffffff04000400ffffffff20000000ffffffff";
  const masked = `${minimal.slice(0, 40)}10000100ffffffff20000000ffffffff`;
  const name = Buffer.from(acl);
  const put = (hex: string, killSgid = false): Promise<unknown> => {
    const value = Buffer.from(hex, "hex");
    return real.run((txn) => setXattr(txn, { ino, name, value, mode: "any", killSgid }));
  };
  await put(masked);
  t.match(attrOf(real, ino), { mode: 0o102610, xattrs: 1 }, "the group's bits are the mask");
  await put(minimal, true);
  t.match(attrOf(real, ino), { mode: 0o100640, xattrs: 0 }, "and setgid is gone");
  await put(masked);
  await real.run((txn) => removeXattr(txn, { ino, name }));
  t.match(attrOf(real, ino), { mode: 0o100610, xattrs: 0 }, "taken away, it leaves the mode");
  t.equal(await outcome(real.run((txn) => removeXattr(txn, { ino, name }))), "ok", "and again");
});

t.test("O_TMPFILE's file gets a name from link(2) only if it may, and only once", async (t) => {
  const real = new TestNamespace(createMemoryStore());
  const make = async (linkable: boolean): Promise<Ino> => {
    const wanted = { parent: rootIno, mode: 0o600, umask: 0, linkable, ...owner };
    return (await real.run((txn) => createTmpfile(txn, wanted))).ino;
  };
  const link = (ino: Ino, name: string): Promise<string> =>
    outcome(real.run((txn) => makeLink(txn, { ino, parent: rootIno, name: Buffer.from(name) })));
  const before = attrOf(real, rootIno);
  const file = await make(true);
  t.same(attrOf(real, rootIno), before, "the directory is not changed");
  t.match(attrOf(real, file), { nlink: 0, size: 0 });
  t.equal(await link(file, "a"), "ok");
  t.match(attrOf(real, file), { nlink: 1 });
  t.equal(real.store.count("orphan"), 0);
  t.equal(await link(file, "b"), "ok", "and like any file, another");
  t.equal(await link(await make(false), "c"), "not-found", "O_EXCL");
});
