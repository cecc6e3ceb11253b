import fc from "fast-check";
import t from "tap";
import { systemClock } from "../../common/os/clock.ts";
import { Cursor } from "../../mount/fuse/device/cursor.ts";
import type { Caller, DirectoryPage, OpenFile } from "../../mount/fuse/filesystem.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { structure } from "../support/fake-kernel.ts";
import { FakeMount, fakeMount, initialized, type Listed } from "../support/fake-mount.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";

const nobody: Caller = { uid: 0, gid: 0, pid: 0 };

async function readAll(mount: FakeMount, file: number, from = 0, size = 4096): Promise<Listed[]> {
  const all: Listed[] = [];
  let offset = from;
  for (;;) {
    const part = await mount.list({ file, offset, size });
    all.push(...part);
    const last = part.at(-1);
    if (last === undefined) return all;
    ({ offset } = last);
  }
}

const named = (listed: readonly Listed[]): string[] => listed.map(({ name }) => name);

async function filled(count: number): Promise<FakeMount> {
  const mount = await fakeMount();
  const mknodIn = structure(s.mknodIn, { mode: 0o100644 });
  for (let i = 0; i < count; i++)
    await mount.kernel.ask("MKNOD", { body: mknodIn, names: [numbered(i)] });
  return mount;
}

const numbered = (i: number): string => `n${String(i).padStart(7, "0")}`;

await t.test("a directory is listed whole, in answers of any size", async (tt) => {
  const mount = await filled(1500);
  const file = await mount.opendir();
  const expected = [".", "..", ...Array.from({ length: 1500 }, (_, i) => numbered(i))];
  for (const size of [80, 4096, 32_768])
    tt.strictSame(named(await readAll(mount, file, 0, size)), expected, `${size} bytes each`);
  const [self, , first] = await mount.list({ file, offset: 0 });
  tt.match(self, { ino: 1, type: 4 });
  tt.match(first, { ino: 2, type: 8 });
  const tiny = structure(s.readIn, { fh: file, size: 24 });
  tt.equal((await mount.kernel.ask("READDIR", { body: tiny })).error, -22, "EINVAL");
});

await t.test("reading goes on behind the same name while others come and go", async (tt) => {
  const mount = await filled(1000);
  const file = await mount.opendir();
  const seen = await mount.list({ file, offset: 0 });
  const here = seen.at(-1);
  const removed = named(seen).slice(2, 12);
  for (const name of [...removed, here?.name ?? "", numbered(900)])
    await mount.kernel.ask("UNLINK", { names: [name] });
  await mount.kernel.ask("MKNOD", {
    body: structure(s.mknodIn, { mode: 0o100644 }),
    names: [`${numbered(500)}-new`],
  });
  const rest = named(await readAll(mount, file, here?.offset));
  const expected = Array.from({ length: 1000 }, (_, i) => numbered(i))
    .concat(`${numbered(500)}-new`)
    .toSorted()
    .filter((name) => !named(seen).includes(name) && name !== numbered(900));
  tt.strictSame(rest, expected);
});

await t.test("an offset stands for its name, wherever reading went since (seekdir)", async (tt) => {
  const mount = await filled(300);
  const file = await mount.opendir();
  const all = await readAll(mount, file);
  for (const index of [0, 1, 2, 150, 299, 17]) {
    const [next] = await mount.list({ file, offset: all[index]?.offset ?? 0 });
    tt.equal(next?.name, all[index + 1]?.name);
  }
  // Read again from the middle with a change: later offsets of the first pass still hold.
  const middle = all[100];
  await mount.kernel.ask("UNLINK", { names: [all[102]?.name ?? ""] });
  await readAll(mount, file, middle?.offset);
  const [behind] = await mount.list({ file, offset: all[200]?.offset ?? 0 });
  tt.equal(behind?.name, all[201]?.name);
});

await t.test("nothing of an earlier answer is left in an entry", async (tt) => {
  const mount = await fakeMount();
  // Names of growing length end at all kinds of places; the next answer's entries begin elsewhere.
  for (let i = 1; i <= 250; i += 1) await mount.create("x".repeat(i));
  const first = await mount.opendir();
  for (let offset = 0; ;) {
    const part = await mount.list({ file: first, offset, plus: true, size: 8192 });
    if (part.length === 0) break;
    offset = part.at(-1)?.offset ?? 0;
    for (const { name, generation } of part) tt.equal(generation, 0, name.slice(0, 8));
  }
});

await t.test("at the end, a later read sees what has been added", async (tt) => {
  const mount = await filled(3);
  const file = await mount.opendir();
  const end = (await readAll(mount, file)).at(-1)?.offset ?? 0;
  tt.strictSame(await mount.list({ file, offset: end }), []);
  await mount.create("zzz");
  tt.strictSame(named(await mount.list({ file, offset: end })), ["zzz"]);
});

await t.test("what was read ahead is not delivered after a change elsewhere", async (tt) => {
  const mount = await filled(400);
  const { fileSystem } = mount;
  const file = await mount.opendir();
  const first = await mount.list({ file, offset: 0, plus: true });
  await fileSystem.unlink(1, Buffer.from(numbered(300)));
  await fileSystem.kernel?.dropEntry(1, Buffer.from(numbered(300)));
  const rest = await readAll(mount, file, first.at(-1)?.offset);
  tt.notOk(named(rest).includes(numbered(300)));
});

await t.test("names that changed while they were being read are not vouched for", async (tt) => {
  class Held extends MemoryFileSystem {
    held = Promise.resolve();

    override async readdir(file: OpenFile, after: Buffer | undefined, limit: number) {
      const page = await super.readdir(file, after, limit);
      await this.held;
      return page;
    }
  }
  const mount = await initialized(new FakeMount(new Held(systemClock)));
  const { fileSystem } = mount;
  await mount.create("x");
  const file = await mount.opendir();
  let go = (): void => undefined;
  fileSystem.held = new Promise((resolve) => (go = resolve));
  const listing = mount.list({ file, offset: 0, plus: true });
  await new Promise(setImmediate);
  await fileSystem.kernel?.dropEntry(1, Buffer.from("x"));
  go();
  tt.equal((await listing).find(({ name }) => name === "x")?.node, 0, "the kernel looks it up");
});

/** A directory of `count` numbered names, which are made as they are asked for. */
function endless(count: number) {
  return {
    async readdir(_file: OpenFile, after: Buffer | undefined, limit: number) {
      const first = after === undefined ? 0 : Number(after.toString()) + 1;
      const length = Math.max(0, Math.min(limit, count - first));
      const attr = {} as DirectoryPage["entries"][number]["attr"];
      const entries = Array.from({ length }, (_, i) => ({
        name: Buffer.from(String(first + i)),
        attr,
        token: undefined,
      }));
      return { entries, self: 1, parent: 1 };
    },
  };
}

async function nextName(cursor: Cursor, offset: number): Promise<string | undefined> {
  return (await cursor.read(offset, nobody)).entries[0]?.name.toString();
}

await t.test("a million names are read in bounded memory, and offsets hold", async (tt) => {
  const count = 1_000_000;
  const cursor = new Cursor(endless(count), 1, 1);
  const offsets: number[] = [];
  let offset = 2;
  for (;;) {
    const { entries } = await cursor.read(offset, nobody);
    if (entries.length === 0) break;
    for (const { name } of entries) offsets.push((offset = cursor.deliver(name)));
    cursor.taken(entries.length);
  }
  tt.equal(offsets.length, count);
  tt.ok(cursor.namesKept < 16_384, `${cursor.namesKept} names are kept`);
  for (const i of [0, 1, 511, 512, 77_777, 500_000, count - 10_000, count - 2])
    tt.equal(await nextName(cursor, offsets[i] ?? 0), String(i + 1), `behind ${i}`);
  tt.equal(await nextName(cursor, offsets[count - 1] ?? 0), undefined);
});

await t.test("an offset from another's listing is counted off", async (tt) => {
  const cursor = new Cursor(endless(5000), 1, 1);
  tt.equal(await nextName(cursor, 2 + 3000), "3000");
  cursor.deliver(Buffer.from("3000"));
  tt.equal(await nextName(cursor, 2 + 10), "10");
  tt.equal(await nextName(cursor, 2 ** 53), undefined);
});

await t.test(
  "any seeks in any changing directory: an offset never changes its name",
  async (tt) => {
    const step = fc.record({
      kind: fc.constantFrom("read", "seek", "create", "unlink"),
      number: fc.nat(60),
      count: fc.integer({ min: 1, max: 20 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const present = new Set(Array.from({ length: 30 }, (_, i) => i * 2));
        const directory = {
          async readdir(_file: OpenFile, after: Buffer | undefined, limit: number) {
            const from = after === undefined ? -1 : Number(after.toString());
            const rest = [...present].filter((n) => n > from).toSorted((a, b) => a - b);
            const attr = {} as DirectoryPage["entries"][number]["attr"];
            const entries = rest
              .slice(0, limit)
              .map((n) => ({ name: Buffer.from(String(n)), attr, token: undefined }));
            return { entries, self: 1, parent: 1 };
          },
        };
        const cursor = new Cursor(directory, 1, 1);
        const meaning = new Map<number, number>();
        let offset = 2;
        for (const { kind, number, count } of steps) {
          if (kind === "create" || kind === "unlink") {
            if (kind === "create") present.add(number);
            else present.delete(number);
            cursor.dropAhead();
          } else if (kind === "seek") {
            offset = [...meaning.keys()][number % (meaning.size || 1)] ?? 2;
          } else {
            const behind = meaning.get(offset) ?? -1;
            const { entries } = await cursor.read(offset, nobody);
            const expected = [...present].filter((n) => n > behind).toSorted((a, b) => a - b);
            const got = entries.map(({ name }) => Number(name.toString()));
            if (String(got) !== String(expected))
              throw new Error(`${String(got)} instead of ${String(expected)}`);
            const taken = got.slice(0, count);
            for (const n of taken) {
              offset = cursor.deliver(Buffer.from(String(n)));
              if ((meaning.get(offset) ?? n) !== n) throw new Error(`${offset} meant another name`);
              meaning.set(offset, n);
            }
            cursor.taken(taken.length);
          }
        }
      }),
      { numRuns: 500 },
    );
    tt.pass("for all of them");
  },
);
