import fc from "fast-check";
import t from "tap";
import { parseMountTable, mountAt } from "../../mount/fuse/mount-table.ts";
import { bytesFromText, textFromBytes } from "../../mount/fuse/native-names.ts";
import { checkNativeOptions, fsnameWithOptions } from "../../mount/fuse/native-options.ts";
import { errnoOf, statfsWords, statWords } from "../../mount/fuse/native-replies.ts";
import { restoreMtime } from "../../mount/fuse/native-utimens.ts";
import { parseOptionList } from "../../mount/fuse/option-list.ts";
import { silentLog } from "../../common/log.ts";
import { StatusError } from "../../protocol/status.ts";

/** Bytes in which UTF-8, broken UTF-8 and the special characters are all frequent. */
const nameBytes = fc
  .array(
    fc.oneof(
      fc.uint8Array({ maxLength: 4 }),
      fc.string({ unit: "binary", maxLength: 4 }).map((text) => Buffer.from(text)),
      fc
        .constantFrom("\uf780", "\uf7ff", "\uf77f", "\ufffd", "é", "😀")
        .map((text) => Buffer.from(text)),
    ),
    { maxLength: 8 },
  )
  .map((pieces) => Buffer.concat(pieces));

await t.test("every name comes back from its text, which is valid UTF-8", async (tt) => {
  fc.assert(
    fc.property(nameBytes, (bytes) => {
      const text = textFromBytes(bytes);
      const travelled = Buffer.from(text, "utf8").toString("utf8");
      return travelled === text && bytesFromText(text).equals(bytes);
    }),
    { numRuns: 2000 },
  );
  tt.equal(textFromBytes(Buffer.from([0x61, 0xff, 0x62])), "a\uf7ffb");
});

await t.test("no two texts are the same name: a text is refused or comes back", async () => {
  const texts = fc.string({
    unit: fc.constantFrom("a", "é", "\uf7c3", "\uf7a9", "\uf7ff", "\ufffd"),
  });
  fc.assert(
    fc.property(texts, (text) => {
      try {
        return textFromBytes(bytesFromText(text)) === text;
      } catch (error) {
        return error instanceof StatusError && error.status === "bad-name";
      }
    }),
    { numRuns: 2000 },
  );
});

await t.test("attributes fit the words of C", async (tt) => {
  const attr = { ino: 2 ** 32 + 7, mode: 0o100644, nlink: 0, uid: 1, gid: 2, rdev: 3 };
  const times = { atime: -5n, mtime: 981_173_106_789_999_999n, ctime: 0n };
  const words = statWords({ ...attr, ...times, size: 2 ** 40 + 1, blocks: 9 });
  tt.equal(words[7], 7, "the low 32 bits of ino");
  tt.same([words[3], words[4]], [1, 256], "size");
  tt.equal(words[6], 0, "nlink of an unlinked file");
  tt.same([words[12], words[13]], [0, 0], "before 1970 becomes 1970");
  tt.equal((words[14] ?? 0) + (words[15] ?? 0) * 2 ** 32, 981_173_106_789, "ms");
  tt.not(statWords({ ...attr, ...times, ino: 2 ** 32, size: 0, blocks: 0 })[7], 0);
  const counts = { files: 2 ** 40, filesFree: 1, nameBytesMax: 255 };
  const statfs = statfsWords({ blockBytes: 4096, blocks: 2 ** 40, blocksFree: 3, ...counts });
  tt.equal((statfs[1] ?? 0) * (statfs[2] ?? 0), 4096 * 2 ** 40);
  tt.equal(statfs[5], 2 ** 32 - 1);
  tt.equal(errnoOf(new StatusError("not-found", "")), -2);
  tt.equal(errnoOf(new TypeError("bug")), -5);
});

await t.test("mtime is read from C's memory only if atime is found there too", async (tt) => {
  const locals = Buffer.alloc(256);
  locals.writeUInt32LE(12, 8);
  locals.writeBigInt64LE(-1500n, 104);
  locals.writeBigInt64LE(2500n, 112);
  const calls: unknown[] = [];
  const handlers = new Array(34).fill(undefined);
  handlers[12] = (_locals: Buffer, _opcode: number, ...args: unknown[]) => calls.push(args);
  restoreMtime(handlers, silentLog);
  const low = locals.readUInt32LE(104);
  const high = locals.readUInt32LE(108);
  handlers[12](locals, 12, "/x", low, high, low, high);
  tt.same(calls.pop(), ["/x", { atime: -1_500_000_000n, mtime: 2_500_000_000n }]);
  handlers[12](locals, 12, "/x", 7, 0, 7, 0);
  tt.same(calls.pop(), ["/x", { atime: 7_000_000n, mtime: 7_000_000n }], "another layout");
});

await t.test("-o as mount(8) writes it", async (tt) => {
  const none = { readOnly: false, showSnapshots: false, extra: [] };
  tt.same(parseOptionList(["rw,nofail,_netdev,x-systemd.automount", "defaults"]), none);
  tt.match(parseOptionList(["ro,soft,timeout=5,master=h:1,noexec,uid=7"]), {
    ...{ readOnly: true, soft: true, timeout: 5, master: "h:1" },
    extra: ["noexec", "uid=7"],
  });
  tt.same(parseOptionList(["noatime,made_up=1"]).extra, ["noatime", "made_up=1"], "unchecked");
  for (const [list, message] of [
    ["ro,rw", /contradict/],
    ["hard,timeout=5", /contradict/],
    ["master=a:1,master=b:1", /given twice/],
    ["ro=1", /takes no value/],
    ["timeout", /needs a value/],
    ["timeout=x", /not a number of seconds/],
  ] as const)
    tt.throws(() => parseOptionList([list]), { name: "UserError", message }, list);
  for (const [option, message] of [
    ["bogus", /unknown mount option 'bogus'/],
    ["hard_remove", /unknown/],
    ["uid=root", /wrong value/],
  ] as const)
    tt.throws(() => checkNativeOptions([option]), { name: "UserError", message }, option);
});

await t.test("options travel in fsname, and none can smuggle another", async (tt) => {
  const options = { mountpoint: "/m", allowOther: false, readOnly: false };
  const cache = { entryTimeout: 0, attrTimeout: 0.5 };
  const made = fsnameWithOptions(
    { ...options, ...cache, extra: ["fsname=a b", "noatime", "noexec"] },
    true,
  );
  tt.match(made, /^a b,subtype=gfs,/);
  tt.match(made, /,entry_timeout=0,attr_timeout=0.5,.*,rw,nonempty,noexec$/);
  for (const extra of ["fsname=a,suid", "subtype=a\\,b", "umask=9", `fsname=${"x".repeat(2000)}`])
    tt.throws(() => fsnameWithOptions({ ...options, ...cache, extra: [extra] }, false), {
      name: "UserError",
    });
});

await t.test("/proc/self/mountinfo: escapes, and the mount on top", async (tt) => {
  const table = parseMountTable(
    [
      "36 35 98:0 / /a\\040b rw,noatime shared:1 - ext4 /dev/root rw",
      "37 35 0:40 / /a\\040b rw - fuse.gfs gfs rw,user_id=0",
      "",
    ].join("\n"),
  );
  const mounted = { mountpoint: "/a b", type: "fuse.gfs", source: "gfs", device: "0:40" };
  tt.same(mountAt(table, "/a b"), mounted);
  tt.equal(mountAt(table, "/a"), undefined);
});
