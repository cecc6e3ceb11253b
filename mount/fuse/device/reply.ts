import { constants } from "node:os";
import { assert, must } from "../../../common/assert.ts";
import { type Status, statusErrno } from "../../../protocol/status.ts";
import type { Entry, FileLock, NodeAttr, Opened, Statfs } from "../filesystem.ts";
import type { Channel } from "./channel.ts";
import { lockTypes } from "./flags.ts";
import type { Fields, Sized } from "./layout.ts";
import type { SessionOptions } from "./options.ts";
import type { Request } from "./request.ts";
import * as s from "./structures.ts";

const errnos = new Map<string, number>(Object.entries(constants.errno));
const numbers = new Map<Status, number>();

/** The errno of a status, a positive number. */
export function errnoOf(status: Status): number {
  let number = numbers.get(status);
  if (number === undefined) {
    number = must(errnos.get(statusErrno(status)), "errno of every status");
    numbers.set(status, number);
  }
  return number;
}

/** Preferred size of reads and writes (st_blksize): the checksum unit of chunks. */
const preferredBytes = 64 * 1024;

const secondNs = 1e9;

/** Longer is as good as for ever, and these fit whatever they are added to. */
const validMsMax = 2 ** 40;

type AttrFields = Fields<(typeof s.attr)["spec"]>;
type EntryFields = Fields<(typeof s.entryOut)["spec"]>;
type OpenFields = Fields<(typeof s.openOut)["spec"]>;

/** How long in ms the kernel may believe an answer. */
export interface Validity {
  names: number;
  attributes: number;
}

/** One message that is used again for every answer of its kind; what is padding stays 0. */
interface Scratch {
  bytes: Buffer;
  parts: readonly [Buffer];
}

const headerBytes = s.outHeader.byteLength;

function scratch({ byteLength }: Sized): Scratch {
  const bytes = Buffer.alloc(headerBytes + byteLength);
  s.outHeader.len.set(bytes, 0, bytes.length);
  return { bytes, parts: [bytes] };
}

/**
 * Writes answers to the channel. Each method returns what `Channel.reply` did: 0, or the negative
 * errno with which the kernel did not take the answer. Nothing is allocated for those of fixed
 * size.
 */
export class Replies {
  readonly #channel: Pick<Channel, "reply">;
  readonly #empty = scratch(s.nothing);
  readonly #entry = scratch(s.entryOut);
  readonly #attr = scratch(s.attrOut);
  readonly #open = scratch(s.openOut);
  readonly #create = scratch(s.createOut);
  readonly #write = scratch(s.writeOut);
  readonly #statfs = scratch(s.statfsOut);
  readonly #lock = scratch(s.lkOut);
  readonly #number = scratch(s.lseekOut);
  readonly #size = scratch(s.getxattrOut);
  readonly #head = Buffer.alloc(headerBytes);

  readonly #show: (attr: NodeAttr) => NodeAttr;

  constructor(channel: Pick<Channel, "reply">, options: SessionOptions) {
    this.#channel = channel;
    this.#show = shownAs(options);
  }

  /** `errno`: positive. */
  error(request: Unique, errno: number): number {
    assert(errno > 0 && errno < 512, "the kernel takes errno numbers up to 511");
    s.outHeader.error.set(this.#empty.bytes, 0, -errno);
    const result = this.#send(request, this.#empty);
    s.outHeader.error.set(this.#empty.bytes, 0, 0);
    return result;
  }

  empty(request: Request): number {
    return this.#send(request, this.#empty);
  }

  entry(request: Request, entry: Entry, valid: Validity): number {
    this.putEntry(this.#entry.bytes, headerBytes, s.entryOut, entry, valid);
    return this.#send(request, this.#entry);
  }

  /** There is no such name; the kernel may believe that for `validMs`. */
  absent(request: Request, validMs: number): number {
    const { bytes } = this.#entry;
    bytes.fill(0, headerBytes);
    putSeconds(bytes, headerBytes, s.entryOut.entryValid, s.entryOut.entryValidNsec, validMs);
    return this.#send(request, this.#entry);
  }

  attr(request: Request, attr: NodeAttr, validMs: number): number {
    const { bytes } = this.#attr;
    putSeconds(bytes, headerBytes, s.attrOut.attrValid, s.attrOut.attrValidNsec, validMs);
    putAttr(bytes, headerBytes, s.attrOut.attr, this.#show(attr));
    return this.#send(request, this.#attr);
  }

  /** `flags`: FOPEN_*. */
  opened(request: Request, { file }: Opened, flags: number): number {
    putOpened(this.#open.bytes, s.openOut, file, flags);
    return this.#send(request, this.#open);
  }

  created(request: Request, made: Entry & Opened, valid: Validity, flags: number): number {
    this.putEntry(this.#create.bytes, headerBytes, s.createOut.entry, made, valid);
    putOpened(this.#create.bytes, s.createOut.open, made.file, flags);
    return this.#send(request, this.#create);
  }

  written(request: Request, bytes: number): number {
    s.writeOut.size.set(this.#write.bytes, headerBytes, bytes);
    return this.#send(request, this.#write);
  }

  /** One number of 64 bits: an offset or a count. */
  number(request: Request, value: number): number {
    s.lseekOut.offset.set(this.#number.bytes, headerBytes, value);
    return this.#send(request, this.#number);
  }

  /** How long the value of an xattr or the list of them is. */
  size(request: Request, bytes: number): number {
    s.getxattrOut.size.set(this.#size.bytes, headerBytes, bytes);
    return this.#send(request, this.#size);
  }

  lock(request: Request, lock: FileLock | undefined): number {
    const { lk } = s.lkOut;
    const { bytes } = this.#lock;
    lk.start.set(bytes, headerBytes, lock?.start ?? 0n);
    lk.end.set(bytes, headerBytes, lock?.end ?? 0n);
    lk.type.set(bytes, headerBytes, lockTypes.indexOf(lock?.type ?? "unlock"));
    lk.pid.set(bytes, headerBytes, lock?.pid ?? 0);
    return this.#send(request, this.#lock);
  }

  statfs(request: Request, statfs: Statfs): number {
    const { bytes } = this.#statfs;
    const out = s.statfsOut;
    out.blocks.set(bytes, headerBytes, statfs.blocks);
    out.bfree.set(bytes, headerBytes, statfs.blocksFree);
    out.bavail.set(bytes, headerBytes, statfs.blocksFree);
    out.files.set(bytes, headerBytes, statfs.files);
    out.ffree.set(bytes, headerBytes, statfs.filesFree);
    out.bsize.set(bytes, headerBytes, statfs.blockBytes);
    out.namelen.set(bytes, headerBytes, statfs.nameBytesMax);
    out.frsize.set(bytes, headerBytes, statfs.blockBytes);
    return this.#send(request, this.#statfs);
  }

  /** Pieces that follow each other; they are on their way when this returns. */
  data(request: Unique, pieces: readonly Uint8Array[]): number {
    let bytes = headerBytes;
    for (const piece of pieces) bytes += piece.length;
    s.outHeader.len.set(this.#head, 0, bytes);
    s.outHeader.uniqueLow.set(this.#head, 0, request.uniqueLow);
    s.outHeader.uniqueHigh.set(this.#head, 0, request.uniqueHigh);
    return this.#channel.reply([this.#head, ...pieces]);
  }

  /** Node numbers are never used twice (`FileSystem`), so the generation stays 0. */
  putEntry(
    bytes: Buffer,
    base: number,
    fields: EntryFields,
    { node, attr }: Entry,
    valid: Validity,
  ): void {
    fields.nodeid.set(bytes, base, node);
    putSeconds(bytes, base, fields.entryValid, fields.entryValidNsec, valid.names);
    putSeconds(bytes, base, fields.attrValid, fields.attrValidNsec, valid.attributes);
    putAttr(bytes, base, fields.attr, this.#show(attr));
  }

  #send(request: Unique, { bytes, parts }: Scratch): number {
    s.outHeader.uniqueLow.set(bytes, 0, request.uniqueLow);
    s.outHeader.uniqueHigh.set(bytes, 0, request.uniqueHigh);
    return this.#channel.reply(parts);
  }
}

/** The mount options uid, gid and umask: what every file is shown with, whoever owns it. */
function shownAs({ uid, gid, umask }: SessionOptions): (attr: NodeAttr) => NodeAttr {
  if (uid === undefined && gid === undefined && umask === undefined) return (attr) => attr;
  return (attr) => ({
    ...attr,
    uid: uid ?? attr.uid,
    gid: gid ?? attr.gid,
    mode: attr.mode & ~(umask ?? 0),
  });
}

/** Which request is answered. */
export interface Unique {
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
}

function putOpened(bytes: Buffer, fields: OpenFields, file: number, flags: number): void {
  fields.fh.set(bytes, headerBytes, file);
  fields.openFlags.set(bytes, headerBytes, flags);
}

type NumberField = AttrFields["ino"] | AttrFields["atimensec"];

function putSeconds(
  bytes: Buffer,
  base: number,
  seconds: NumberField,
  nanoseconds: NumberField,
  givenMs: number,
): void {
  const ms = Math.max(0, Math.min(givenMs, validMsMax));
  const whole = Math.floor(ms / 1000);
  seconds.set(bytes, base, whole);
  nanoseconds.set(bytes, base, Math.floor((ms - whole * 1000) * 1e6));
}

function putAttr(bytes: Buffer, base: number, fields: AttrFields, attr: NodeAttr): void {
  fields.ino.set(bytes, base, attr.ino);
  fields.size.set(bytes, base, attr.size);
  fields.blocks.set(bytes, base, attr.blocks);
  putTime(bytes, base, fields.atime, fields.atimensec, attr.atime);
  putTime(bytes, base, fields.mtime, fields.mtimensec, attr.mtime);
  putTime(bytes, base, fields.ctime, fields.ctimensec, attr.ctime);
  fields.mode.set(bytes, base, attr.mode);
  fields.nlink.set(bytes, base, attr.nlink);
  fields.uid.set(bytes, base, attr.uid);
  fields.gid.set(bytes, base, attr.gid);
  fields.rdev.set(bytes, base, attr.rdev);
  fields.blksize.set(bytes, base, preferredBytes);
}

/** One bigint, and its halves, without making another: three times are in every answer. */
const time = new BigInt64Array(1);
const timeHalves = new Int32Array(time.buffer);
const word = 2 ** 32;

/**
 * Seconds, rounded down, and the ns above, as struct timespec has it before 1970 too. As a double
 * the time is off by a few hundred ns, so the seconds by one at most; the ns are less than 2^31 in
 * any case, so that the lower halves are enough to find them exactly.
 */
function putTime(
  bytes: Buffer,
  base: number,
  seconds: AttrFields["atime"],
  nanoseconds: AttrFields["atimensec"],
  ns: bigint,
): void {
  time[0] = ns;
  const low = timeHalves[0] ?? 0;
  let whole = Math.floor(((timeHalves[1] ?? 0) * word + (low >>> 0)) / secondNs);
  let rest = (low - Math.imul(whole, secondNs)) | 0;
  if (rest < 0) {
    whole -= 1;
    rest += secondNs;
  } else if (rest >= secondNs) {
    whole += 1;
    rest -= secondNs;
  }
  seconds.set(bytes, base, whole);
  nanoseconds.set(bytes, base, rest);
}
