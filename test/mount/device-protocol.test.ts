import { readFileSync } from "node:fs";
import t from "tap";
import { UserError } from "../../common/program.ts";
import { negotiate } from "../../mount/fuse/device/init.ts";
import { struct } from "../../mount/fuse/device/layout.ts";
import { opcodes } from "../../mount/fuse/device/opcodes.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { initQuestion, requestMessage } from "../support/fake-kernel.ts";

await t.test("structures have the sizes and offsets of the kernel's header", async (tt) => {
  // sizeof of each, as a C compiler gives them for include/uapi/linux/fuse.h of Linux 6.18.
  const sizes = {
    ...{ inHeader: 40, outHeader: 16, attr: 88, entryOut: 128, attrOut: 104, forgetIn: 8 },
    ...{ forgetOne: 16, batchForgetIn: 8, getattrIn: 16, setattrIn: 88, mknodIn: 16, mkdirIn: 8 },
    ...{ renameIn: 8, rename2In: 16, linkIn: 8, openIn: 8, createIn: 16, openOut: 16 },
    ...{ createOut: 144, releaseIn: 24, flushIn: 24, readIn: 40, writeIn: 40, writeOut: 8 },
    ...{ fsyncIn: 16, statfsOut: 80, setxattrCompatIn: 8, setxattrIn: 16, getxattrIn: 8 },
    ...{ getxattrOut: 8, lkIn: 48, lkOut: 24, initOut: 64, interruptIn: 8, ioctlIn: 32 },
    ...{ fallocateIn: 32, lseekIn: 24, lseekOut: 8, copyFileRangeIn: 56, copyFileRangeOut: 8 },
    ...{ syncfsIn: 8, dirent: 24, direntplus: 152, notifyInvalInodeOut: 24 },
    ...{ notifyInvalEntryOut: 16, nothing: 0 },
  } as const;
  const layouts = new Map<string, { byteLength: number }>(Object.entries(s));
  for (const [name, bytes] of Object.entries(sizes))
    tt.equal(layouts.get(name)?.byteLength, bytes, name);
  tt.equal(s.attr.mode.offset, 60);
  tt.equal(s.createOut.open.fh.offset, 128);
  tt.equal(s.lkIn.lk.type.offset, 32);
  tt.equal(s.setattrIn.mode.offset, 68);
  tt.equal(s.initOut.flags2.offset, 32);
  tt.equal(s.direntplus.dirent.namelen.offset, 144);
  const padded = struct({ small: "u16", large: "u64", end: "u16" });
  tt.equal(padded.large.offset, 8, "aligned as in C");
  tt.equal(padded.byteLength, 24, "and so is the end");
});

await t.test("opcodes have the numbers of the kernel's header", async (tt) => {
  const header = "/usr/include/linux/fuse.h";
  let text = "";
  try {
    text = readFileSync(header, "utf8");
  } catch {
    tt.comment(`${header} is not installed: not compared`);
  }
  const known = new Map(Object.entries(opcodes).map(([name, { code }]) => [name, code]));
  for (const [, name = "", number] of text.matchAll(/^\tFUSE_([A-Z0-9_]+)\s*= (\d+),/gm)) {
    if (!known.has(name)) continue;
    tt.equal(known.get(name), Number(number), name);
  }
  const codes = [...known.values()];
  tt.equal(new Set(codes).size, codes.length, "no number is there twice");
});

await t.test("numbers of 64 bits are exact below 2^53, and signed where they are", async (tt) => {
  const both = struct({ unsigned: "u64", signed: "i64", opaque: "big" });
  const bytes = Buffer.alloc(both.byteLength);
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 7, Number.MAX_SAFE_INTEGER]) {
    both.unsigned.set(bytes, 0, value);
    tt.equal(both.unsigned.get(bytes, 0), value);
    tt.equal(bytes.readBigUInt64LE(0), BigInt(value));
  }
  for (const value of [-1, -(2 ** 32), -(2 ** 40) - 3, 5, 2 ** 45]) {
    both.signed.set(bytes, 0, value);
    tt.equal(both.signed.get(bytes, 0), value);
    tt.equal(bytes.readBigInt64LE(8), BigInt(value));
  }
  both.opaque.set(bytes, 0, 2n ** 64n - 1n);
  tt.equal(both.opaque.get(bytes, 0), 2n ** 64n - 1n);
});

function negotiated(given: Parameters<typeof initQuestion>[0]) {
  const message = requestMessage("INIT", initQuestion(given));
  return negotiate(message, {});
}

await t.test("FUSE_INIT is answered to the byte", async (tt) => {
  const { outcome, reply } = negotiated({}) as { outcome: string; reply: Buffer };
  tt.equal(outcome, "agreed");
  const words = [
    ...["07000000", "2d000000"], // 7.45
    "00004000", // 4 MiB of readahead
    "6b64d472", // flags
    "40003000", // 64 in the background, 48 is congestion
    "00001000", // 1 MiB of writes
    "01000000", // ns
    "00010000", // 256 pages
    "50000000", // flags2: DIRECT_IO_ALLOW_MMAP, NO_EXPORT_SUPPORT
  ];
  tt.equal(reply.toString("hex"), words.join("").padEnd(128, "0"));
});

await t.test("an older kernel is asked for what it has", async (tt) => {
  const result = negotiated({ minor: 31, without: ["INIT_EXT", "SETXATTR_EXT"] });
  tt.equal(result.outcome, "agreed");
  if (result.outcome !== "agreed") return;
  tt.equal(result.agreement.minor, 31);
  tt.notOk(result.agreement.flags.has("SETXATTR_EXT"));
  tt.notOk(result.agreement.flags.has("NO_EXPORT_SUPPORT"), "flags2 is not read without INIT_EXT");
  tt.equal(s.initOut.flags2.get(result.reply, 0), 0);
  tt.equal(s.initOut.minor.get(result.reply, 0), 31);
});

await t.test("a kernel before 7.31 is refused in one line", async (tt) => {
  for (const version of [{ minor: 30 }, { major: 6, minor: 99 }]) {
    const result = negotiated(version);
    tt.equal(result.outcome, "refused");
    if (result.outcome !== "refused") continue;
    tt.ok(result.error instanceof UserError);
    tt.match(result.error.message, /^the kernel's FUSE protocol [67]\.\d+ is too old: 7\.31/);
  }
});

await t.test("a kernel with a newer major version is told ours", async (tt) => {
  const result = negotiated({ major: 8, minor: 3 });
  tt.equal(result.outcome, "again");
  if (result.outcome !== "again") return;
  tt.equal(result.reply.readUInt32LE(0), 7);
  tt.ok(
    result.reply.subarray(8).every((byte) => byte === 0),
    "nothing else is said",
  );
});
