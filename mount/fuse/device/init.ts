/** FUSE_INIT: what the kernel offers, what is wanted of it, and the answer. */

import { UserError } from "../../../common/program.ts";
import { type InitFlag, initFlags } from "./flags.ts";
import type { SessionOptions } from "./options.ts";
import { inHeader, initExtIn, initIn, initOut } from "./structures.ts";

/** The version that is spoken; with an older kernel, the kernel's. */
const major = 7;
const minorMax = 45;
/** Linux 5.4, the oldest kernel with long-term support when this was written. */
const minorMin = 31;
/** FUSE_NOTIFY_INC_EPOCH. */
export const minorWithEpoch = 44;

const pageBytes = 4096;
/** The largest READ and WRITE. The kernel allows 256 pages (/proc/sys/fs/fuse/max_pages_limit). */
export const requestBytesMax = 1 << 20;
/** Readahead and the like under way: as many as keep a few chunk servers busy. */
const maxBackgroundDefault = 64;
/** From this share on the kernel takes its writeback for congested and starts no readahead. */
const congestionShare = 0.75;

/**
 * What is asked for, where the kernel has it.
 *
 * - DONT_MASK with POSIX_ACL: the filesystem applies the umask, unless there is a default ACL.
 * - EXPLICIT_INVAL_DATA, not AUTO_INVAL_DATA: a change of mtime or size alone drops no pages; the
 *   filesystem says which are out of date.
 * - HANDLE_KILLPRIV_V2: with each write, truncation and change of owner the kernel says whether
 *   setuid and setgid are to go, instead of asking for a change of mode of its own.
 * - NO_EXPORT_SUPPORT: a file handle (open_by_handle_at(2), NFS) could only be found again as long
 *   as the inode happens to be cached.
 *
 * Left out: WRITEBACK_CACHE (other mounts would learn sizes late); HANDLE_KILLPRIV, the first
 * version of the above; splicing, which a read into one buffer does not need; ASYNC_DIO, with which
 * no signal would end a process that waits for its O_DIRECT read or write.
 */
const wanted: readonly InitFlag[] = [
  ...(["ASYNC_READ", "POSIX_LOCKS", "ATOMIC_O_TRUNC", "BIG_WRITES", "DONT_MASK"] as const),
  ...(["FLOCK_LOCKS", "DO_READDIRPLUS", "READDIRPLUS_AUTO"] as const),
  ...(["PARALLEL_DIROPS", "POSIX_ACL", "MAX_PAGES", "CACHE_SYMLINKS"] as const),
  ...(["EXPLICIT_INVAL_DATA", "HANDLE_KILLPRIV_V2", "SETXATTR_EXT", "INIT_EXT"] as const),
  ...(["DIRECT_IO_ALLOW_MMAP", "NO_EXPORT_SUPPORT"] as const),
];

/** What both sides have agreed on. */
export interface Agreement {
  minor: number;
  flags: ReadonlySet<InitFlag>;
}

type Negotiation =
  /** `reply`: the structure after the header of the answer. */
  | { outcome: "agreed"; agreement: Agreement; reply: Buffer }
  /** The kernel speaks a newer major version: it asks again, in ours. */
  | { outcome: "again"; reply: Buffer }
  | { outcome: "refused"; error: UserError };

/**
 * How far to read ahead of a sequential reader unless an option says otherwise: four of the largest
 * requests, so that the next are on their way while one is being copied. FUSE_INIT can only lower
 * what the kernel begins with, 128 KiB; for more there is `raiseReadAhead`.
 */
const readAheadBytesDefault = 4 << 20;

export function readAheadBytes({ maxReadahead }: SessionOptions): number {
  return maxReadahead ?? readAheadBytesDefault;
}

/** Answers FUSE_INIT, a message whose header has been checked. */
export function negotiate(message: Buffer, options: SessionOptions): Negotiation {
  const at = inHeader.byteLength;
  const theirs = { major: initIn.major.get(message, at), minor: initIn.minor.get(message, at) };
  const reply = Buffer.alloc(initOut.byteLength);
  initOut.major.set(reply, 0, major);
  initOut.minor.set(reply, 0, Math.min(theirs.minor, minorMax));
  if (theirs.major > major) {
    initOut.minor.set(reply, 0, minorMax);
    return { outcome: "again", reply };
  }
  if (theirs.major < major || theirs.minor < minorMin) {
    const version = `${theirs.major}.${theirs.minor}`;
    const text = `the kernel's FUSE protocol ${version} is too old`;
    const needed = `${major}.${minorMin} (Linux 5.4) or newer is needed`;
    return { outcome: "refused", error: new UserError(`${text}: ${needed}`) };
  }
  const flags = new Set(offered(message).filter((flag) => wanted.includes(flag)));
  const [low, high] = flagWords(flags);
  initOut.maxReadahead.set(reply, 0, readAheadBytes(options));
  initOut.flags.set(reply, 0, low);
  initOut.flags2.set(reply, 0, high);
  const maxBackground = options.maxBackground ?? maxBackgroundDefault;
  const congestion = options.congestionThreshold ?? Math.ceil(maxBackground * congestionShare);
  initOut.maxBackground.set(reply, 0, maxBackground);
  initOut.congestionThreshold.set(reply, 0, congestion);
  initOut.maxWrite.set(reply, 0, requestBytesMax);
  initOut.timeGran.set(reply, 0, 1); // Nanoseconds.
  initOut.maxPages.set(reply, 0, requestBytesMax / pageBytes);
  const minor = Math.min(theirs.minor, minorMax);
  return { outcome: "agreed", agreement: { minor, flags }, reply };
}

function offered(message: Buffer): InitFlag[] {
  const at = inHeader.byteLength;
  const low = initIn.flags.get(message, at);
  const extended = bit(low, initFlags.INIT_EXT);
  const more = at + initIn.byteLength;
  const room = message.length >= more + initExtIn.byteLength;
  const high = extended && room ? initExtIn.flags2.get(message, more) : 0;
  const names = Object.keys(initFlags) as InitFlag[];
  return names.filter((name) => {
    const number = initFlags[name];
    return number < 32 ? bit(low, number) : bit(high, number - 32);
  });
}

function flagWords(flags: ReadonlySet<InitFlag>): [low: number, high: number] {
  let [low, high] = [0, 0];
  for (const name of flags) {
    const number = initFlags[name];
    if (number < 32) low += 2 ** number;
    else high += 2 ** (number - 32);
  }
  return [low, high];
}

const bit = (bits: number, number: number): boolean => ((bits >>> number) & 1) === 1;
