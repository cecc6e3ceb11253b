import fc from "fast-check";
import t from "tap";
import { systemClock } from "../../common/os/clock.ts";
import type { Caller, Entry, Node, OpenFile } from "../../mount/fuse/filesystem.ts";
import type { Writing } from "../../mount/fuse/filesystem.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { StatusError } from "../../protocol/status.ts";
import { structure } from "../support/fake-kernel.ts";
import * as fake from "../support/fake-mount.ts";
import { FakeMount, fakeMount, initialized } from "../support/fake-mount.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";

await t.test("an entry, its attributes and their validity are answered to the byte", async (tt) => {
  class Fixed extends MemoryFileSystem {
    override async lookup(): Promise<Entry> {
      const times = { atime: 1_500_000_000n, mtime: -1n, ctime: 1_700_000_000_123_456_789n };
      const ids = { ino: 7, uid: 1, gid: 2, rdev: 0x103, nlink: 3 };
      const attr = { ...ids, ...times, mode: 0o100644, size: 2 ** 40 + 1, blocks: 9 };
      return { node: 2 ** 40, attr };
    }

    override forget(): void {}

    override validMs(node?: Node): number {
      return node === 1 ? 1500 : 250;
    }
  }
  const { kernel } = await initialized(new FakeMount(new Fixed(systemClock)));
  const { error, data } = await kernel.ask("LOOKUP", { names: ["x"] });
  tt.equal(error, 0);
  const words = [
    ...["0000000000010000", "0000000000000000"], // nodeid, generation
    ...["0100000000000000", "0000000000000000"], // entry_valid, attr_valid: seconds
    ...["0065cd1d", "80b2e60e"], // and ns: 500 ms, 250 ms
    ...["0700000000000000", "0100000000010000", "0900000000000000"], // ino, size, blocks
    ...["0100000000000000", "ffffffffffffffff", "00f1536500000000"], // seconds
    ...["0065cd1d", "ffc99a3b", "15cd5b07"], // ns
    ...["a4810000", "03000000", "01000000", "02000000", "03010000", "00000100", "00000000"],
  ];
  tt.equal(data.toString("hex"), words.join(""));
});

await t.test("a file lives through its calls", async (tt) => {
  const mount = await fakeMount();
  const { kernel, fileSystem } = mount;
  const { node, file } = await mount.create("x");
  const written = await mount.write(node, file, Buffer.from("hello"), 3);
  tt.equal(s.writeOut.size.get(written.data, 0), 5);
  tt.equal((await mount.read(node, file, 100)).data.toString(), "\0\0\0hello");
  const attr = await mount.fstat(node, file);
  tt.equal(s.attrOut.attr.size.get(attr.data, 0), 8);
  tt.equal(s.attrOut.attr.mode.get(attr.data, 0), 0o100644, "the umask is the filesystem's matter");
  tt.equal(s.attrOut.attr.uid.get(attr.data, 0), 1000, "and so is who asks");
  tt.equal((await kernel.ask("UNLINK", { names: ["x"] })).error, 0);
  tt.equal((await mount.lookup(1, "x")).error, -fake.ENOENT);
  tt.equal((await mount.release(node, file)).error, 0);
  tt.equal(fileSystem.inodes, 2);
  mount.forget(node, 1);
  tt.equal(fileSystem.inodes, 1);
  tt.strictSame(mount.dispatcher.held, { nodes: 0, open: 0, underWay: 0, busy: 0 });
  tt.strictSame(mount.log.events, []);
});

await t.test(
  "an absent name is only said to be so for a time when it may be believed",
  async (tt) => {
    const mount = await fakeMount();
    tt.equal((await mount.lookup(1, "x")).error, -fake.ENOENT);
    mount.fileSystem.validity = 2000;
    const { error, data } = await mount.lookup(1, "x");
    tt.equal(error, 0);
    tt.equal(s.entryOut.nodeid.get(data, 0), 0);
    tt.equal(s.entryOut.entryValid.get(data, 0), 2);
  },
);

await t.test("references are counted exactly and given back", async (tt) => {
  const mount = await fakeMount();
  const { kernel, fileSystem } = mount;
  const directory = await mount.mkdir("d");
  const { node, file } = await mount.create("x", directory);
  for (let i = 0; i < 3; i++) await mount.lookup(directory, "x");
  const body = structure(s.linkIn, { oldnodeid: node });
  tt.equal((await kernel.ask("LINK", { node: directory, body, names: ["y"] })).error, 0);
  const listing = { file: await mount.opendir(directory), offset: 0, node: directory };
  const listed = await mount.list({ ...listing, plus: true });
  tt.strictSame(
    listed.map(({ name, node: given }) => [name, given]),
    [
      [".", 0],
      ["..", 0],
      ["x", node],
      ["y", node],
    ],
    "the directory itself and its parent are no references",
  );
  tt.equal(fileSystem.references, 1 + 1 + 3 + 1 + 2);
  await mount.release(node, file);
  const one = structure(s.forgetOne, { nodeid: node, nlookup: 6 });
  const other = structure(s.forgetOne, { nodeid: directory, nlookup: 1 });
  kernel.tell("BATCH_FORGET", {
    body: structure(s.batchForgetIn, { count: 2 }),
    data: Buffer.concat([one, other]),
  });
  tt.equal(fileSystem.references, 1);
  tt.equal((await mount.fstat(node, file)).error, -fake.EBADF);
  mount.forget(node, 1);
  tt.equal(fileSystem.references, 0);
  tt.equal(mount.dispatcher.held.nodes, 0);
  tt.equal((await kernel.ask("GETATTR", { node })).error, -fake.ESTALE, "it is not known now");
  mount.forget(node, 1);
  tt.strictSame(mount.log.events, ["fuse.malformed"], "what was not given is not taken back");
});

await t.test("what an interrupted process did not get is taken back", async (tt) => {
  const mount = await fakeMount();
  const { kernel, fileSystem } = mount;
  const directory = await mount.mkdir("d");
  kernel.replyResult = -fake.ENOENT;
  const body = structure(s.createIn, { flags: 2, mode: 0o100644 });
  kernel.tell("CREATE", { node: directory, body, names: ["x"] });
  kernel.tell("LOOKUP", { names: ["d"] });
  kernel.tell("OPENDIR", { node: directory });
  await new Promise(setImmediate);
  kernel.replyResult = 0;
  const file = await mount.opendir(directory);
  kernel.replyResult = -fake.ENOENT;
  const readIn = structure(s.readIn, { fh: file, size: 4096 });
  kernel.tell("READDIRPLUS", { node: directory, body: readIn });
  await new Promise(setImmediate);
  tt.equal(fileSystem.references, 1, "only that of the directory");
  tt.equal(fileSystem.openFiles, 1, "only the directory");
  tt.strictSame(mount.dispatcher.held, { nodes: 1, open: 1, underWay: 0, busy: 0 });
  tt.strictSame(mount.log.events, [], "and it is nothing to talk about");
});

class Slow extends MemoryFileSystem {
  signals: (AbortSignal | undefined)[] = [];
  go: () => void = () => undefined;

  override async read(_file: OpenFile, _at: number, _length: number, caller?: Caller) {
    const signal = caller?.signal;
    this.signals.push(signal);
    await new Promise<void>((resolve) => {
      this.go = resolve;
      signal?.addEventListener("abort", () => resolve());
      if (signal?.aborted) resolve();
    });
    if (signal?.aborted) throw new StatusError("interrupted", "the caller was interrupted");
    return [Buffer.from("done")];
  }
}

await t.test("an interrupt reaches the request that it is for, and no other", async (tt) => {
  const mount = await initialized(new FakeMount(new Slow(systemClock)));
  const { kernel } = mount;
  const { node, file } = await mount.create("x");
  const reading = mount.read(node, file, 10);
  const unique = kernel.lastUnique;
  const other = kernel.ask("GETATTR", { node });
  kernel.tell("INTERRUPT", { body: uniqueBody(unique), unique: unique | 1n });
  tt.equal((await reading).error, -fake.EINTR);
  tt.equal((await other).error, 0);
  tt.notOk(kernel.answers.has(unique | 1n), "the interrupt itself has no answer");
  // It has been answered, or not been read yet: the kernel finds out.
  tt.equal((await kernel.ask("INTERRUPT", { body: uniqueBody(unique) })).error, -fake.EAGAIN);
});

await t.test("an interrupt that came before the filesystem looked is not lost", async (tt) => {
  class Late extends Slow {
    override async read(file: OpenFile, at: number, length: number, caller?: Caller) {
      await new Promise(setImmediate);
      return super.read(file, at, length, caller);
    }
  }
  const mount = await initialized(new FakeMount(new Late(systemClock)));
  const { node, file } = await mount.create("x");
  const reading = mount.read(node, file, 10);
  const unique = mount.kernel.lastUnique;
  mount.kernel.tell("INTERRUPT", { body: uniqueBody(unique) });
  tt.equal((await reading).error, -fake.EINTR);
});

function uniqueBody(unique: bigint): Buffer {
  const body = Buffer.alloc(s.interruptIn.byteLength);
  body.writeBigUInt64LE(unique);
  return body;
}

await t.test("what cannot be served is refused, each in its way", async (tt) => {
  const mount = new FakeMount(new MemoryFileSystem(systemClock));
  const { kernel } = mount;
  tt.equal((await kernel.ask("GETATTR")).error, -fake.EPROTO, "nothing before FUSE_INIT");
  await kernel.initialize();
  tt.equal((await kernel.initialize()).error, -fake.EPROTO, "which comes once");
  for (const name of ["POLL", "BMAP", "ACCESS", "STATX"] as const)
    tt.equal((await kernel.ask(name)).error, -fake.ENOSYS, name);
  tt.equal((await kernel.ask("IOCTL")).error, -25, "ENOTTY");
  tt.equal((await kernel.ask("LOOKUP", { node: 77, names: ["x"] })).error, -fake.ESTALE);
  tt.equal((await kernel.ask("LOOKUP", { data: Buffer.from("no end") })).error, -fake.EPROTO);
  const { node, file } = await mount.create("x");
  const short = structure(s.writeIn, { fh: file, size: 100 });
  const wrong = await kernel.ask("WRITE", { node, body: short, data: Buffer.alloc(99) });
  tt.equal(wrong.error, -fake.EPROTO, "a WRITE with less than it says");
  tt.equal((await mount.read(node, 9999, 1)).error, -fake.EBADF);
});

await t.test("offsets beyond what is exact are the end of any file", async (tt) => {
  const mount = await fakeMount();
  const { kernel } = mount;
  const { node, file } = await mount.create("x");
  const far = 2 ** 62;
  tt.equal((await mount.read(node, file, 10, far)).data.length, 0);
  tt.equal((await mount.write(node, file, Buffer.from("x"), far)).error, -27, "EFBIG");
  const seek = structure(s.lseekIn, { fh: file, offset: far, whence: 3 });
  tt.equal((await kernel.ask("LSEEK", { node, body: seek })).error, -6, "ENXIO");
  const grow = structure(s.fallocateIn, { fh: file, offset: far, length: far });
  tt.equal((await kernel.ask("FALLOCATE", { node, body: grow })).error, -27, "EFBIG");
});

await t.test("times of utimens are exact to the ns, before 1970 too", async (tt) => {
  const mount = await fakeMount();
  const { kernel } = mount;
  const { node } = await mount.create("x");
  const body = structure(s.setattrIn, {
    ...{ valid: (1 << 4) | (1 << 5), atime: -2, atimensec: 999_999_999 },
    ...{ mtime: 4_000_000_000, mtimensec: 1 },
  });
  const { data } = await kernel.ask("SETATTR", { node, body });
  const { attr } = s.attrOut;
  tt.equal(attr.atime.get(data, 0), -2);
  tt.equal(attr.atimensec.get(data, 0), 999_999_999);
  tt.equal(attr.mtime.get(data, 0), 4_000_000_000);
  tt.equal(attr.mtimensec.get(data, 0), 1);
});

const second = 1_000_000_000n;

await t.test("any time is told as it is", async (tt) => {
  const mount = await fakeMount();
  const { node } = await mount.create("x");
  const limit = 2n ** 62n;
  await fc.assert(
    fc.asyncProperty(fc.bigInt({ min: -limit, max: limit }), fc.integer(), async (any, near) => {
      // Just beside whole seconds is where rounding would show.
      for (const mtime of [any, (any / second) * second + BigInt(near % 3)]) {
        await mount.fileSystem.setattr(node, { mtime });
        const { data } = await mount.kernel.ask("GETATTR", { node });
        const seconds = BigInt(s.attrOut.attr.mtime.get(data, 0));
        const nanoseconds = BigInt(s.attrOut.attr.mtimensec.get(data, 0));
        if (nanoseconds >= second || seconds * second + nanoseconds !== mtime)
          throw new Error(`${mtime} is told as ${seconds} s, ${nanoseconds} ns`);
      }
    }),
    { numRuns: 1000 },
  );
  tt.pass("for all of them");
});

await t.test(
  "pages from mmap go to their place though the file was opened to append",
  async (tt) => {
    const seen: boolean[] = [];
    class Watching extends MemoryFileSystem {
      override async write(file: OpenFile, writing: Writing): Promise<number> {
        seen.push(writing.append);
        return super.write(file, writing);
      }
    }
    const mount = await initialized(new FakeMount(new Watching(systemClock)));
    const { node, file } = await mount.create("x");
    for (const writeFlags of [0, 1]) {
      const body = structure(s.writeIn, { fh: file, size: 1, flags: 0o2000, writeFlags });
      await mount.kernel.ask("WRITE", { node, body, data: Buffer.from("x") });
    }
    tt.strictSame(seen, [true, false]);
  },
);

await t.test("mount options say whose every file is shown to be", async (tt) => {
  const session = { uid: 11, gid: 12, umask: 0o77 };
  const mount = await initialized(new FakeMount(new MemoryFileSystem(systemClock), session));
  const { node, file } = await mount.create("x");
  for (const { attr, data } of [
    { attr: s.attrOut.attr, data: (await mount.fstat(node, file)).data },
    { attr: s.entryOut.attr, data: (await mount.lookup(1, "x")).data },
  ]) {
    tt.equal(attr.uid.get(data, 0), 11);
    tt.equal(attr.gid.get(data, 0), 12);
    tt.equal(attr.mode.get(data, 0), 0o100600);
  }
});

await t.test("xattrs: the size, the value, or ERANGE", async (tt) => {
  for (const without of [[], ["SETXATTR_EXT"]]) {
    const mount = new FakeMount(new MemoryFileSystem(systemClock));
    const { kernel } = mount;
    await kernel.initialize({ without });
    const extended = without.length === 0;
    const layout = extended ? s.setxattrIn : s.setxattrCompatIn;
    const body = structure(layout, { size: 5 });
    const set = { body, names: ["user.x"], data: Buffer.from("value") };
    tt.equal((await kernel.ask("SETXATTR", set)).error, 0);
    const get = (size: number) =>
      kernel.ask("GETXATTR", { body: structure(s.getxattrIn, { size }), names: ["user.x"] });
    tt.equal(s.getxattrOut.size.get((await get(0)).data, 0), 5);
    tt.equal((await get(5)).data.toString(), "value");
    tt.equal((await get(4)).error, -34, "ERANGE");
    const list = structure(s.getxattrIn, { size: 100 });
    tt.equal((await kernel.ask("LISTXATTR", { body: list })).data.toString(), "user.x\0");
  }
});

await t.test("at the end everything is released and forgotten, late answers too", async (tt) => {
  const mount = await initialized(new FakeMount(new Slow(systemClock)));
  const { kernel, fileSystem } = mount;
  const { node, file } = await mount.create("x");
  const directory = await mount.mkdir("d");
  await mount.opendir(directory);
  void mount.read(node, file, 10);
  const createIn = structure(s.createIn, { flags: 2, mode: 0o100644 });
  kernel.tell("CREATE", { body: createIn, names: ["late"] });
  kernel.end();
  await mount.dispatcher.ended;
  tt.ok(fileSystem.signals[0]?.aborted, "what was under way is asked to end");
  tt.equal(fileSystem.openFiles, 0);
  tt.equal(fileSystem.references, 0);
  tt.ok(kernel.closed);
  tt.equal(mount.dispatcher.held.open, 0);
});

await t.test("a message without a header ends the mount with a line in the log", async (tt) => {
  const mount = await fakeMount();
  mount.kernel.receive(Buffer.alloc(39));
  await mount.dispatcher.ended;
  tt.strictSame(mount.log.events, ["fuse.ended"]);
});

await t.test("an old kernel makes the mount fail, not hang", async (tt) => {
  const mount = new FakeMount(new MemoryFileSystem(systemClock));
  tt.equal((await mount.kernel.initialize({ minor: 12 })).error, -fake.EPROTO);
  await tt.rejects(mount.dispatcher.ready, /too old/);
  await mount.dispatcher.ended;
});

await t.test("a failure of the filesystem is answered, a bug of it as EIO", async (tt) => {
  class Broken extends MemoryFileSystem {
    override getattr(): Promise<never> {
      throw new TypeError("thrown, not rejected");
    }
  }
  const mount = await initialized(new FakeMount(new Broken(systemClock)));
  tt.equal((await mount.kernel.ask("GETATTR")).error, -fake.EIO);
  tt.strictSame(mount.log.events, ["fuse.bug"]);
});
