import { assert } from "../common/assert.ts";
import { blockBytes } from "../common/crc32c.ts";
import { payloadBytesMax, queuedBytesMax, serverInFlightMax } from "../protocol/limits.ts";

/** What a chunk server allows itself. Each limit says what it guards. */

/** Chunks up to one block live in the index: no file, no name, no extra fsync for a small file. */
export const smallBytesMax = blockBytes;
/** No filesystem has larger chunks; guards the CRC list (16,384 entries) against absurd offsets. */
export const chunkBytesMax = 1024 * 1024 * 1024;
/** Bytes per step when a chunk is re-read or copied. */
export const pieceBytes = payloadBytesMax;
/** chunk.read requests a copy has on the way: hides a round trip, holds 4 MiB. */
export const copyPiecesInFlight = 4;
/** Chunks copied from other servers at once: with the pieces above, 16 MiB of memory. */
export const copiesMax = 4;
/**
 * Drafts that wait for the rest of their copy: each takes disk space, up to a whole chunk, that
 * nothing else counts.
 */
export const draftsMax = 16;
/** How long a copy waits for one piece from one source before it turns to the next. */
export const copyPieceMs = 10_000;
/** Clones made at once: each keeps the disk busy, and other requests want it too. */
export const clonesMax = 4;
/**
 * File chunks that may be dirty. Their CRCs are in memory only (8 KiB each), and after a crash each
 * is re-read before the server registers: 256 of 64 MiB are 16 GiB, about a minute.
 */
export const dirtyFilesMax = 256;
/** Small chunks that may be dirty: only a number each, nothing is re-read for them. */
export const dirtySmallMax = 65_536;
/** A chunk is cleaned when nobody has written to it for this long. */
export const cleanAfterMs = 4_000;
/** How often the cleaner looks. */
export const cleanEveryMs = 1_000;
/** Chunks cleaned at once; small ones share one commit of the index. */
export const cleansAtOnce = 64;
/** Open chunk files, well below the usual limit of 1024 descriptors. */
export const openFilesMax = 400;
/** Index records kept in memory, by their bytes: small chunks that are read again and again. */
export const cachedBytesMax = 64 * 1024 * 1024;
/**
 * fdatasync calls at once: libuv has 4 threads, and a read must not wait for a slow disk's fsync.
 */
export const syncsAtOnce = 2;
/**
 * Payload of clients' writes being worked on; more wait their turn. Less than a connection may
 * queue: a slow next server holds clients back, instead of losing its place for not reading fast
 * enough.
 */
export const clientWriteBytesAtOnce = 48 * 1024 * 1024;
/**
 * Clients' writes being worked on, for small ones, of which the bytes above hold thousands. All may
 * have the same next server, and one connection to it; so may all of other servers that this one
 * passes on. A refusal there (`serverInFlightMax`) costs the replica its place in the set.
 */
export const clientWritesAtOnce = 512;
/** Payload of clients' writes in memory, waiting or not; past it they get `overloaded`. */
export const clientWriteBytesMax = 256 * 1024 * 1024;
/**
 * The same for writes passed on by other servers. Larger, as a refusal here costs the replica its
 * place in the set: their clients are held back at their primaries.
 */
export const forwardedWriteBytesMax = 1024 * 1024 * 1024;
/** Memory for the answers of reads, until the system has taken them. */
export const readBytesMax = 256 * 1024 * 1024;
/** The part of it for one connection: one that reads its answers slowly slows only itself. */
export const connectionReadBytesMax = 32 * 1024 * 1024;
/**
 * How long the rest of the chain may take, for each server in it: the server nearest to the fault
 * gives up first and so can name it.
 */
export const hopMs = 5_000;
/** Bad chunks that are remembered. */
export const faultsMax = 4_096;
/** Chunks whose last write failed somewhere, until they are raised: as many as may be dirty. */
export const failedWritesMax = dirtySmallMax;
/** How many of them the master is told with each heartbeat. */
export const failedWritesToldMax = 64;
/** Deletions under way at once; they share a commit of the index. */
export const removalsAtOnce = 64;
/** Disk space that is left alone: the index has to grow to delete, and other programs to log. */
export const reserveBytesDefault = 256 * 1024 * 1024;
/** On a small disk the reserve is this part of it. */
export const reserveShareMax = 0.01;
/** How long a graceful stop waits for requests under way before it goes on without them. */
export const stopWaitMs = 10_000;

assert(smallBytesMax <= payloadBytesMax, "a small chunk is read in one request");
assert(pieceBytes % blockBytes === 0, "pieces are whole blocks");
assert(chunkBytesMax % blockBytes === 0, "a chunk is whole blocks");
assert(hopMs * 3 < 30_000, "a chain of four answers before its client gives up");
assert(clientWriteBytesAtOnce < queuedBytesMax, "what is being worked on fits in a queue");
assert(clientWritesAtOnce * 32 <= serverInFlightMax, "writes of 32 servers may pass through one");
assert(connectionReadBytesMax < queuedBytesMax, "a slow reader waits, and is not cut off");
assert(clientWriteBytesMax < forwardedWriteBytesMax, "forwarded writes go first");
