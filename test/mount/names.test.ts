import t, { type Test } from "tap";
import { reclaimTrash } from "../../master/background/reclaim.ts";
import { ino } from "../../protocol/id.ts";
import {
  type Caller,
  type FileSystem,
  type NodeAttr,
  renameFlags,
  rootNode,
} from "../../mount/fuse/filesystem.ts";
import { LiveCluster } from "../support/live-cluster.ts";
import { outcome } from "../support/outcome.ts";
import { until } from "../support/until.ts";

const caller: Caller = { uid: 0, gid: 0, pid: 1 };
const user: Caller = { uid: 1000, gid: 1000, pid: 2 };
const accessAcl = Buffer.from("system.posix_acl_access");
const defaultAcl = Buffer.from("system.posix_acl_default");
const readWrite = 0o2;
const writeOnly = 0o1;

async function started(
  t: Test,
): Promise<{ cluster: LiveCluster; one: FileSystem; two: FileSystem }> {
  const cluster = await LiveCluster.start(t, { servers: 1 });
  const [one, two] = [await cluster.mount(), await cluster.mount()];
  return { cluster, one: one.fileSystem, two: two.fileSystem };
}

async function newFile(fs: FileSystem, name: string, contents = "", mode = 0o644) {
  const making = { mode, umask: 0, flags: readWrite };
  const made = await fs.create(rootNode, Buffer.from(name), making, caller);
  if (contents) await write(fs, made.file, contents);
  await fs.flush(made.file, undefined, caller);
  await fs.release(made.file);
  return made.node;
}

async function write(
  fs: FileSystem,
  file: number,
  contents: string,
  killSuidGid = false,
): Promise<void> {
  const data = Buffer.from(contents);
  await fs.write(file, { offset: 0, data, append: false, killSuidGid }, caller);
}

const stat = (fs: FileSystem, node: number): Promise<NodeAttr> => fs.getattr(node, 0, caller);

t.test("reading shows a new atime here at once, and to the other mount in a while", async (t) => {
  const { cluster, one, two } = await started(t);
  const node = await newFile(one, "f", "hello");
  const before = await stat(one, node);
  const { file } = await one.open(node, 0, caller);
  await one.read(file, 0, 5, caller);
  const after = await stat(one, node);
  t.ok(after.atime > before.mtime);
  t.same({ ...after, atime: 0n }, { ...before, atime: 0n }, "and nothing else has moved");
  await one.read(file, 0, 5, caller);
  await one.release(file);
  t.equal((await stat(one, node)).atime, after.atime, "once is enough");
  const told = (): bigint => cluster.master.reader.getattr(ino(node), undefined).atime;
  await until("the master is told", () => told() === after.atime);
  t.equal((await stat(two, node)).atime, after.atime);
});

t.test("setuid and setgid go when a user writes, cuts or opens with O_TRUNC", async (t) => {
  const { one } = await started(t);
  const node = await newFile(one, "f", "", 0o6755);
  const reset = (): Promise<NodeAttr> => one.setattr(node, { mode: 0o6755 }, 0, caller);
  const mode = async (): Promise<number> => (await stat(one, node)).mode & 0o7777;
  await reset();
  const { file } = await one.open(node, writeOnly, user);
  await write(one, file, "x");
  t.equal(await mode(), 0o6755, "not for root");
  await write(one, file, "x", true);
  t.equal(await mode(), 0o755, "write");
  await one.release(file);
  await reset();
  await one.setattr(node, { size: 0, killSuidGid: true }, 0, user);
  t.equal(await mode(), 0o755, "truncate");
  await reset();
  const truncated = await one.open(node, writeOnly | 0o1000, user);
  t.equal(await mode(), 0o755, "O_TRUNC");
  await one.release(truncated.file);
  await reset();
  await one.setattr(node, {}, 0, user);
  t.equal(await mode(), 0o755, "chown of -1 and -1, which changes nothing else");
});

t.test("ACLs are in step with the mode, on the other mount too", async (t) => {
  const { one, two } = await started(t);
  const node = await newFile(one, "f", "", 0o640);
  const absent = async (fs: FileSystem): Promise<string> =>
    outcome(fs.getxattr(node, accessAcl, caller));
  t.equal(await absent(one), "no-attribute");
  t.equal(await absent(two), "no-attribute");
  const head = "0200000001000600ffffffff02000700e803000004000400ffffffff";
  const value = Buffer.from(`${head}10000700ffffffff20000000ffffffff`, "hex");
  await one.setxattr(node, { name: accessAcl, value, flags: 0, killSgid: false }, caller);
  t.equal((await stat(two, node)).mode & 0o777, 0o670);
  t.same(await two.getxattr(node, accessAcl, caller), value);
  await two.setattr(node, { mode: 0o600 }, 0, caller);
  const masked = Buffer.from(`${head}10000000ffffffff20000000ffffffff`, "hex");
  t.same(await one.getxattr(node, accessAcl, caller), masked, "chmod sets the mask");
  t.same(await one.listxattr(node, caller), [accessAcl]);
  await one.removexattr(node, accessAcl, caller);
  t.equal(await absent(two), "no-attribute");
  t.equal(await outcome(two.removexattr(node, accessAcl, caller)), "ok", "nothing to remove");
});

t.test("a default ACL takes the place of the umask, and is handed down", async (t) => {
  const { one } = await started(t);
  const make = (parent: number, name: string): Promise<{ node: number; attr: NodeAttr }> =>
    one.mkdir(parent, Buffer.from(name), { mode: 0o777, umask: 0o27 }, caller);
  const { node, attr } = await make(rootNode, "d");
  t.equal(attr.mode & 0o777, 0o750, "without one the umask counts");
  const value = Buffer.from("0200000001000700ffffffff04000700ffffffff20000500ffffffff", "hex");
  await one.setxattr(node, { name: defaultAcl, value, flags: 0, killSgid: false }, caller);
  const below = await make(node, "e");
  t.equal(below.attr.mode & 0o777, 0o775);
  t.same(await one.getxattr(below.node, defaultAcl, caller), value);
  const making = { mode: 0o640, umask: 0o777, flags: readWrite };
  const file = await one.tmpfile(node, making, caller);
  t.match(file.attr, { mode: 0o100640, nlink: 0 });
  await one.release(file.file);
});

t.test("a file without a name can be written, named, and read by the other mount", async (t) => {
  const { cluster, one, two } = await started(t);
  const making = { mode: 0o600, umask: 0, flags: readWrite };
  const made = await one.tmpfile(rootNode, making, caller);
  await write(one, made.file, "hello");
  const name = Buffer.from("named");
  t.equal((await one.link(made.node, rootNode, name, caller)).attr.nlink, 1);
  await one.flush(made.file, undefined, caller);
  await one.release(made.file);
  const { node } = await two.lookup(rootNode, name, caller);
  const { file } = await two.open(node, 0, caller);
  t.equal(Buffer.concat(await two.read(file, 0, 10, caller)).toString(), "hello");
  await two.release(file);
  const lost = await one.tmpfile(rootNode, making, caller);
  await write(one, lost.file, "lost");
  await one.release(lost.file);
  await until("nothing is open any more", () => cluster.store.count("orphan") === 0);
  while (await reclaimTrash(cluster.master.committer)) continue;
  t.equal(cluster.store.count("inode"), 2, "only the root and the named file are left");
});

t.test("a removed directory shows what it was, for as long as a process is in it", async (t) => {
  const { cluster, one } = await started(t);
  const making = { mode: 0o755, umask: 0 };
  const { node } = await one.mkdir(rootNode, Buffer.from("d"), making, caller);
  await one.rmdir(rootNode, Buffer.from("d"), caller);
  while (await reclaimTrash(cluster.master.committer)) continue;
  t.match(await stat(one, node), { ino: node, nlink: 0 });
  t.equal(await outcome(one.lookup(node, Buffer.from("x"), caller)), "not-found");
  t.equal(await outcome(one.mkdir(node, Buffer.from("x"), making, caller)), "not-found");
});

t.test("renames are seen as they were made, by both mounts", async (t) => {
  const { one, two } = await started(t);
  const [a, b] = [await newFile(one, "a"), await newFile(one, "b")];
  const at = (name: string) => ({ parent: rootNode, name: Buffer.from(name) });
  const seen = async (): Promise<unknown[]> => {
    const shown: unknown[] = [];
    for (const fs of [one, two]) {
      for (const name of ["a", "b", "c"]) {
        const find = fs.lookup(rootNode, Buffer.from(name), caller).then(({ node }) => node);
        shown.push(await find.catch(() => undefined));
      }
    }
    return shown;
  };
  t.same(await seen(), [a, b, undefined, a, b, undefined]);
  await one.rename(at("a"), at("b"), renameFlags.exchange, caller);
  t.same(await seen(), [b, a, undefined, b, a, undefined]);
  await two.rename(at("a"), at("c"), 0, caller);
  t.same(await seen(), [undefined, a, b, undefined, a, b]);
  await one.link(a, rootNode, Buffer.from("a"), caller);
  await two.rename(at("a"), at("b"), 0, caller);
  t.same(await seen(), [a, a, b, a, a, b], "two names of one file: both stay");
  t.equal(await outcome(one.rename(at("a"), at("c"), renameFlags.noReplace, caller)), "exists");
  await one.rename(at("c"), at("b"), renameFlags.whiteout, caller);
  const { attr } = await two.lookup(rootNode, Buffer.from("c"), caller);
  t.match(attr, { mode: 0o020000, rdev: 0, uid: 0, nlink: 1 });
  t.same((await seen()).slice(0, 2), [a, b]);
});

t.test("a listing says what the directory and its parent are", async (t) => {
  const { one } = await started(t);
  const making = { mode: 0o755, umask: 0 };
  const { node } = await one.mkdir(rootNode, Buffer.from("d"), making, caller);
  const { node: below } = await one.mkdir(node, Buffer.from("e"), making, caller);
  const list = async (of: number): Promise<{ self: number; parent: number }> => {
    const { file } = await one.opendir(of, caller);
    const { self, parent } = await one.readdir(file, undefined, 10, caller);
    await one.releasedir(file);
    return { self, parent };
  };
  t.same(await list(rootNode), { self: rootNode, parent: rootNode });
  t.same(await list(below), { self: below, parent: node });
  const snapshots = await one.lookup(node, Buffer.from(".snapshots"), caller);
  const frozen = await one.mkdir(snapshots.node, Buffer.from("s"), making, caller);
  const inside = await one.lookup(frozen.node, Buffer.from("e"), caller);
  t.same(await list(snapshots.node), { self: snapshots.attr.ino, parent: node });
  t.same(await list(frozen.node), { self: frozen.attr.ino, parent: snapshots.attr.ino });
  t.same(await list(inside.node), { self: inside.attr.ino, parent: frozen.attr.ino });
});

t.test("trusted attributes are listed to root only, and names have a namespace", async (t) => {
  const { one } = await started(t);
  const node = await newFile(one, "f");
  const set = (name: string, bytes = 1): Promise<string> => {
    const attribute = { name: Buffer.from(name), value: Buffer.alloc(bytes), flags: 0 };
    return outcome(one.setxattr(node, { ...attribute, killSgid: false }, caller));
  };
  t.equal(await set("trusted.a"), "ok");
  t.equal(await set("user.a", 65_536), "ok");
  t.equal(await set("user.b", 65_537), "too-big");
  t.equal(await set("a"), "not-supported");
  const names = async (of: Caller): Promise<string[]> =>
    (await one.listxattr(node, of)).map(String).toSorted();
  t.same(await names(caller), ["trusted.a", "user.a"]);
  t.same(await names(user), ["user.a"]);
});

t.test("syncfs puts what is unwritten on disk", async (t) => {
  const { one, two } = await started(t);
  const making = { mode: 0o600, umask: 0, flags: readWrite };
  const files: number[] = [];
  for (const name of ["a", "b", "c"]) {
    const { file } = await one.create(rootNode, Buffer.from(name), making, caller);
    await write(one, file, name);
    files.push(file);
  }
  await one.syncfs(caller);
  for (const name of ["a", "b", "c"]) {
    t.equal((await two.lookup(rootNode, Buffer.from(name), caller)).attr.size, 1);
  }
  for (const file of files) await one.release(file);
});
