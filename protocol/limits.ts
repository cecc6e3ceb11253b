import { assert } from "../common/assert.ts";

/** What the wire and the names allow. Each limit says what it guards. */

/** NAME_MAX of Linux: bytes in one name. */
export const nameBytesMax = 255;
/** PATH_MAX of Linux less the NUL: bytes in a symlink's target. */
export const symlinkBytesMax = 4095;
/** XATTR_SIZE_MAX of Linux: one attribute's value, and one file's list of names. */
export const xattrBytesMax = 65_536;
/** LINK_MAX of ext4: an inode's hard links. */
export const linksMax = 65_000;
/** A file's largest size: what a signed 64-bit offset in a JavaScript number can hold exactly. */
export const fileBytesMax = 2 ** 53 - 1;

/** Payload of one read or write. Larger pieces gain nothing and hold the connection longer. */
export const payloadBytesMax = 1024 * 1024;
/** A whole message: the payload and an envelope that lists CRCs, or a full page of entries. */
export const messageBytesMax = 2 * 1024 * 1024;
/** Nesting of the envelope: deeper input would overflow the decoder's stack. */
export const envelopeDepthMax = 16;
/** Requests that one connection may have unanswered at its server; more get `overloaded`. */
export const inFlightMax = 1024;
/**
 * The same for a chunk server, which passes on the writes of many clients, and of other servers, to
 * one next server. Each takes about 2 KiB there besides its payload, which is counted.
 */
export const serverInFlightMax = 16_384;
/** Bytes queued to a peer that does not read; a peer further behind is cut off. */
export const queuedBytesMax = 64 * 1024 * 1024;
/** Entries in one readdir page: with attributes about 300 bytes each, well inside a message. */
export const entriesPerPageMax = 1024;
/** Accesses told in one message. */
export const accessesMax = 4096;
/** Chunks in one locate answer, handles in one page of a chunk server's inventory. */
export const chunksPerPageMax = 4096;
/** Snapshots in `admin.status`: naming the directory of one is a walk up to the root. */
export const statusSnapshotsMax = 100;
/** Problems in one answer to `gfs fsck`, each with up to a thousand blocks. */
export const fsckProblemsMax = 256;
/** Chunks whose files are looked for in one pass over the chunk map, which takes long. */
export const fsckHandlesMax = 4096;
/** Components that one walk resolves: half of PATH_MAX, as each takes a byte and a slash. */
export const walkNamesMax = 2048;

/** The last byte that a lock can cover: offsets in struct flock are signed (OFFSET_MAX). */
export const lockOffsetMax = 2n ** 63n - 1n;
/** Locks in one message: about 80 bytes each, well inside it. */
export const locksPerPageMax = 4096;

assert(payloadBytesMax * 2 <= messageBytesMax, "a payload and its envelope fit in a message");
assert(messageBytesMax * 2 <= queuedBytesMax, "a queue holds more than one message");

/** How long a request waits for its answer unless the caller says otherwise. */
export const deadlineMsDefault = 30_000;
/** A ping goes out this often; after three in a row without a sign of life the peer is gone. */
export const keepAliveMs = 5_000;
/** A mount's session outlives its connection this long. Renewed by any message. */
export const sessionLeaseMs = 30_000;
/**
 * A mount believes what it has cached for this long after it asked the master something that was
 * answered. So a mount that is cut off, and cannot be told of a change, need only be waited out.
 */
export const cacheLeaseMs = 10_000;
/** How much a mount's clock may run slower than the master's in that time, and time to drop it. */
export const cacheMarginMs = 1_000;
/** Chunk servers tell the master they are alive this often. */
export const heartbeatMs = 2_000;
/** A chunk server silent for this long is suspect: not chosen for new chunks, read last. */
export const suspectMs = 3 * heartbeatMs;
/**
 * A chunk server silent for this long is dead, unless `gfs-master --grace` says otherwise: what it
 * held is copied elsewhere.
 */
export const deadMs = 60_000;
/**
 * A chunk server that has not heard from the master for this long takes no more writes from
 * clients, so a snapshot need not wait longer for one that is cut off (GFS §3.1: the lease's
 * time-out).
 */
export const serverLeaseMs = 20_000;

assert(suspectMs < serverLeaseMs, "three heartbeats fit inside the lease");
assert(serverLeaseMs < deadMs, "a dead server's lease has run out");
assert(cacheLeaseMs + cacheMarginMs < sessionLeaseMs, "a session outlives what it has cached");
assert(keepAliveMs * 2 < sessionLeaseMs, "a session is renewed before it ends");
