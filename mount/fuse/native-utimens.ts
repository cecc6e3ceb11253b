import type Fuse from "fuse-native";
import type { Log } from "../../common/log.ts";
import type { Times } from "./native-handlers.ts";

type NativeHandlers = Fuse["_handlers"];

/** op_utimens in fuse-native.c. */
const opcodeUtimens = 12;

/**
 * Offsets in `fuse_thread_locals_t` of fuse-native.c 2.2.6 where pointers and size_t have 8 bytes,
 * which is what x64 and arm64 have in common. Checked with offsetof, and at every call (see below).
 */
const offsets = { opcode: 8, atime: 104, mtime: 112 };

/**
 * fuse-native hands the access time over twice and loses the modification time (fuse-native.c,
 * FUSE_METHOD_VOID(utimens): `FUSE_UINT64_TO_INTS_ARGV(l->atime, 5)`). But C's own copy of both
 * lies in the memory of the first argument. So `utimens` is wrapped to read them there, as signed
 * milliseconds: through the arguments, times before 1970 would come out wrong too.
 *
 * If the opcode or the access time found there is not the one passed, the layout is another one:
 * then the modification time is the access time, as fuse-native has it, and the log says so once.
 */
export function restoreMtime(handlers: NativeHandlers, log: Log): void {
  const original = handlers[opcodeUtimens];
  if (!original) return;
  let warned = false;
  handlers[opcodeUtimens] = (locals, opcode, path, ...words) => {
    const [low, high] = words as number[];
    let times = readTimes(locals, opcode, low, high);
    if (!times) {
      if (!warned) log.warn("fuse-native.mtime-lost", { opcode, bytes: locals.length });
      warned = true;
      const atime = BigInt((low ?? 0) + (high ?? 0) * 2 ** 32) * 1_000_000n;
      times = { atime, mtime: atime };
    }
    original(locals, opcode, path, times);
  };
}

function readTimes(
  locals: Buffer,
  opcode: number,
  low: number | undefined,
  high: number | undefined,
): Times | undefined {
  if (locals.length < offsets.mtime + 8) return undefined;
  if (locals.readUInt32LE(offsets.opcode) !== opcode) return undefined;
  if (locals.readUInt32LE(offsets.atime) !== low) return undefined;
  if (locals.readUInt32LE(offsets.atime + 4) !== high) return undefined;
  return {
    atime: locals.readBigInt64LE(offsets.atime) * 1_000_000n,
    mtime: locals.readBigInt64LE(offsets.mtime) * 1_000_000n,
  };
}
