import t from "tap";
import { systemClock } from "../../common/os/clock.ts";
import { must } from "../../common/assert.ts";
import type { Caller, Entry, KernelCaches, Node, OpenFile } from "../../mount/fuse/filesystem.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { structure } from "../support/fake-kernel.ts";
import { FakeMount, initialized } from "../support/fake-mount.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";
import { until } from "../support/until.ts";

/** Looks up and reads when it is told to. */
class Held extends MemoryFileSystem {
  go: () => void = () => undefined;

  override async lookup(parent: Node, name: Buffer, caller?: Caller): Promise<Entry> {
    if (name.toString() === "slow") await this.#told();
    return super.lookup(parent, name, caller);
  }

  override async read(file: OpenFile, offset: number, length: number) {
    await this.#told();
    return super.read(file, offset, length);
  }

  #told(): Promise<void> {
    return new Promise((resolve) => (this.go = resolve));
  }
}

async function held(minor = 45): Promise<FakeMount<Held> & { caches: KernelCaches }> {
  const mount = await initialized(new FakeMount(new Held(systemClock)), minor);
  const caches = must(mount.fileSystem.kernel, "what `mounted` was given");
  return Object.assign(mount, { caches });
}

/** What has happened by the time that all that can has. */
async function outcome(promise: Promise<void>): Promise<"done" | "waits"> {
  let done = false;
  void promise.then(() => (done = true));
  for (let i = 0; i < 5; i++) await new Promise(setImmediate);
  return done ? "done" : "waits";
}

await t.test("the notifications, to the byte", async (tt) => {
  const mount = await held();
  const directory = await mount.mkdir("d");
  await mount.caches.dropEntry(directory, Buffer.from("abc"));
  await mount.caches.dropNode(directory, { pages: false });
  await mount.caches.dropNode(directory, { pages: true });
  const hex = mount.kernel.notifications.map(({ message }) => message.toString("hex"));
  tt.strictSame(hex, [
    "24000000" +
      "03000000" +
      "0000000000000000" + // header: 36 bytes, INVAL_ENTRY
      "0200000000000000" +
      "03000000" +
      "00000000" +
      "61626300", // parent, length, name
    "28000000" +
      "02000000" +
      "0000000000000000" + // INVAL_INODE
      "0200000000000000" +
      "ffffffffffffffff" +
      "0000000000000000", // no pages
    "28000000" +
      "02000000" +
      "0000000000000000" +
      "0200000000000000" +
      "0000000000000000" +
      "0000000000000000", // all pages
  ]);
});

await t.test("what the kernel does not know is not dropped", async (tt) => {
  const { caches, kernel } = await held();
  await caches.dropEntry(77, Buffer.from("x"));
  await caches.dropNode(77, { pages: true });
  tt.equal(kernel.notifications.length, 0);
});

await t.test("a name in a quiet directory is dropped when the kernel says so", async (tt) => {
  const { caches, kernel } = await held();
  kernel.notifyAtOnce = false;
  const dropped = caches.dropEntry(1, Buffer.from("x"));
  tt.equal(await outcome(dropped), "waits");
  kernel.notifications[0]?.resolve(-2); // ENOENT: it had none.
  tt.equal(await outcome(dropped), "done");
  tt.equal(kernel.immediate.length, 0);
});

await t.test("a name in a busy directory is dropped at once, through the epoch", async (tt) => {
  const { caches, kernel, fileSystem } = await held();
  kernel.notifyAtOnce = false;
  const asking = kernel.ask("LOOKUP", { names: ["slow"] });
  tt.equal(await outcome(caches.dropEntry(1, Buffer.from("x"))), "done");
  tt.strictSame(
    kernel.immediate.map((message) => message.toString("hex")),
    ["10000000" + "08000000" + "0000000000000000"],
  );
  fileSystem.go();
  await asking;
  tt.equal(await outcome(caches.dropEntry(1, Buffer.from("x"))), "waits", "it is quiet again");
});

await t.test("a directory that becomes busy meanwhile holds nobody up", async (tt) => {
  const { caches, kernel } = await held();
  kernel.notifyAtOnce = false;
  const dropped = caches.dropEntry(1, Buffer.from("x"));
  tt.equal(await outcome(dropped), "waits");
  kernel.tell("LOOKUP", { names: ["slow"] });
  tt.equal(await outcome(dropped), "done");
  tt.equal(kernel.immediate.length, 1, "the epoch was raised");
});

await t.test("both directories of a rename are busy", async (tt) => {
  class Renaming extends Held {
    override rename(): Promise<void> {
      return new Promise(() => undefined);
    }
  }
  const mount = await initialized(new FakeMount(new Renaming(systemClock)));
  const [one, other] = [await mount.mkdir("a"), await mount.mkdir("b")];
  mount.kernel.notifyAtOnce = false;
  const body = structure(s.rename2In, { newdir: other });
  mount.kernel.tell("RENAME2", { node: one, body, names: ["x", "y"] });
  const caches = must(mount.fileSystem.kernel, "caches");
  tt.equal(await outcome(caches.dropEntry(one, Buffer.from("x"))), "done");
  tt.equal(await outcome(caches.dropEntry(other, Buffer.from("x"))), "done");
  tt.equal(await outcome(caches.dropEntry(1, Buffer.from("x"))), "waits");
});

await t.test("a kernel without the epoch believes names for a second at most", async (tt) => {
  const { caches, kernel, fileSystem } = await held(43);
  fileSystem.validity = 3_600_000;
  await kernel.ask("MKDIR", { names: ["d"] });
  const { data } = await kernel.ask("LOOKUP", { names: ["d"] });
  tt.equal(s.entryOut.entryValid.get(data, 0), 1);
  tt.equal(s.entryOut.attrValid.get(data, 0), 3600);
  const { data: absent } = await kernel.ask("LOOKUP", { names: ["none"] });
  tt.equal(s.entryOut.entryValid.get(absent, 0), 1, "absent ones too");
  kernel.notifyAtOnce = false;
  kernel.tell("LOOKUP", { names: ["slow"] });
  tt.equal(await outcome(caches.dropEntry(1, Buffer.from("x"))), "done");
  tt.equal(kernel.notifications.length, 1, "it is told all the same");
  tt.equal(kernel.immediate.length, 0);
});

await t.test("pages that are being read are not waited for, attributes are", async (tt) => {
  const mount = await held();
  const { caches, kernel, fileSystem } = mount;
  const { node, file } = await mount.create("x");
  const reading = mount.read(node, file, 10);
  kernel.notifyAtOnce = false;
  const dropped = caches.dropNode(node, { pages: true });
  tt.equal(await outcome(dropped), "waits");
  kernel.notifications[0]?.resolve(0);
  tt.equal(await outcome(dropped), "done");
  fileSystem.go();
  await reading;
  await outcome(dropped);
  tt.strictSame(
    kernel.notifications.map(({ message }) => message.readBigInt64LE(24)),
    [-1n, 0n],
    "the attributes, and the pages when nobody reads them",
  );
  tt.equal(await outcome(caches.dropNode(node, { pages: true })), "waits");
});

await t.test("pages of a file that is never idle are dropped too", async (tt) => {
  const mount = await held();
  const { caches, kernel } = mount;
  const { node, file } = await mount.create("x");
  void mount.read(node, file, 10);
  await caches.dropNode(node, { pages: true });
  await caches.dropNode(node, { pages: true });
  await until("the pages go", () => kernel.notifications.length >= 3);
  tt.equal(kernel.notifications[2]?.message.readBigInt64LE(24), 0n);
});

await t.test("everything: the epoch, and each node that the kernel knows", async (tt) => {
  const mount = await held();
  const { caches, kernel } = mount;
  for (let i = 0; i < 500; i++) await mount.mkdir(`d${i}`);
  await caches.dropAll();
  tt.equal(kernel.immediate.length, 1);
  tt.equal(kernel.notifications.length, 501, "with the root");
});

await t.test("a full queue is tried again, a gone mount is not", async (tt) => {
  const { caches, kernel } = await held();
  kernel.notifyAtOnce = false;
  const dropped = caches.dropNode(1, { pages: true });
  kernel.notifications[0]?.resolve(-105); // ENOBUFS
  await until("it is tried again", () => kernel.notifications.length >= 2);
  kernel.notifications[1]?.resolve(-19); // ENODEV
  await dropped;
  const waiting = caches.dropEntry(1, Buffer.from("x"));
  kernel.end();
  await waiting;
  await caches.dropAll();
  tt.equal(kernel.notifications.length, 3);
});

await t.test("a listing that changed while it was read is not kept in the kernel", async (tt) => {
  const keepCache = 2;
  const cacheDirectory = 8;
  class Keeping extends MemoryFileSystem {
    override async opendir(node: Node) {
      return { ...(await super.opendir(node)), keepCache: true };
    }
  }
  const mount = await initialized(new FakeMount(new Keeping(systemClock)));
  const { kernel, fileSystem } = mount;
  const open = async () => {
    const { data } = await kernel.ask("OPENDIR");
    return { file: s.openOut.fh.get(data, 0), flags: s.openOut.openFlags.get(data, 0) };
  };
  const close = (file: number) =>
    kernel.ask("RELEASEDIR", { body: structure(s.releaseIn, { fh: file }) });
  const first = await open();
  tt.equal(first.flags, keepCache | cacheDirectory);
  await fileSystem.kernel?.dropNode(1, { pages: true });
  const second = await open();
  tt.equal(second.flags, 0, "the first may still put what it was told into the cache");
  await close(first.file);
  await close(second.file);
  const third = await open();
  tt.equal(third.flags, cacheDirectory, "what is there is dropped");
  await close(third.file);
  tt.equal((await open()).flags, keepCache | cacheDirectory);
});
