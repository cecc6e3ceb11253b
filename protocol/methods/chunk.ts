import { Type } from "typebox";
import { chunksPerPageMax, payloadBytesMax } from "../limits.ts";
import { method, mutation } from "../method.ts";
import {
  BootShape,
  Count,
  EpochShape,
  GrantShape,
  HandleShape,
  InoShape,
  List,
  LocationShape,
  Opt,
  ReplicaShape,
  ServerShape,
  Text,
  Uint32,
  VersionShape,
} from "../shapes.ts";

/** Block CRCs of one payload: one per 64 KiB, and one more for an unaligned start. */
const Crcs = List(Uint32, payloadBytesMax / 65_536 + 1);
const chunk = { handle: HandleShape, version: VersionShape };

// mount → master

/** Where the chunks `first` … `first + count - 1` of a file are. Holes are left out. */
export const locate = method({
  code: 50,
  name: "chunk.locate",
  request: {
    ino: InoShape,
    at: Opt(EpochShape),
    first: Count,
    count: Type.Integer({ minimum: 1 }),
  },
  reply: { locations: List(LocationShape, chunksPerPageMax) },
});

/**
 * Leave to write chunk `index`: creates it, clones it if it is shared or in a snapshot. `failed`:
 * servers that did not take part in a write under `version`; they leave the set, which raises the
 * version first.
 */
export const grant = mutation({
  code: 51,
  name: "chunk.grant",
  request: {
    ino: InoShape,
    index: Count,
    failed: Opt(Type.Object({ ...chunk, servers: List(ServerShape, 32) })),
  },
  reply: { grant: GrantShape },
});

/** A reader found that a replica's bytes do not match their CRC, or that it lacks the chunk. */
export const reportReplica = method({
  code: 52,
  name: "chunk.report",
  request: { ...chunk, server: ServerShape, reason: Text },
  reply: {},
});

// mount → chunk server, chunk server → chunk server

/**
 * Bytes [offset, offset + length) of a chunk, as the payload. Shorter than asked when the chunk
 * ends before: the rest reads as zeros. `crcs` as from `crcsByBlock(payload, offset)`.
 * `stale-version` if the server has another version, or its replica is in doubt; `corrupt` if a CRC
 * on its disk does not match.
 */
export const readChunk = method({
  code: 60,
  name: "chunk.read",
  request: {
    ...chunk,
    offset: Count,
    length: Type.Integer({ minimum: 0, maximum: payloadBytesMax }),
  },
  reply: { crcs: Crcs },
});

/**
 * Writes the payload at `offset` on this server and along `chain` (the replicas after this one),
 * and answers when all have it. A gap before `offset` becomes zeros. `create`: no replica had the
 * chunk when the grant was made, so it is created where it is missing. Clients write under an
 * `epoch`, which the primary compares with the fence; the servers after it (`forwarded`) do not.
 * `replica-failed` names the servers that could not be reached or refused. `boots`: in which boot
 * of its machine each took it, this server first, then those of the chain: a server that is in
 * another one later may have lost what was not synced.
 */
export const writeChunk = method({
  code: 61,
  name: "chunk.write",
  request: {
    ...chunk,
    epoch: EpochShape,
    offset: Count,
    crcs: Crcs,
    create: Type.Boolean(),
    forwarded: Type.Boolean(),
    chain: Type.Array(ReplicaShape, { maxItems: 32 }),
  },
  reply: { boots: List(BootShape, 33) },
});

/**
 * fsync: data and index of these chunks are on this server's disk when it answers. That is what it
 * still had of them: what it took in another boot than `boot` may have been lost before.
 */
export const syncChunks = method({
  code: 62,
  name: "chunk.sync",
  request: { chunks: List(Type.Object(chunk), chunksPerPageMax) },
  reply: { boot: BootShape },
});

/** A chunk's length and the CRC of each of its blocks (the last may be short), from the index. */
export const checksums = method({
  code: 63,
  name: "chunk.checksums",
  request: { ...chunk },
  reply: { length: Count, crcs: List(Uint32, 65_536) },
});

// master → chunk server

/**
 * The epoch has been raised (a snapshot): writes by clients with an older one are refused from now
 * on. Answered when every write admitted before has ended here and along its chain. `forwarded`:
 * so are writes that other servers pass on. Sent when all that answered have ended theirs, and a
 * server that did not answer may still pass on what it took while its lease ran.
 */
export const fence = method({
  code: 70,
  name: "chunk.fence",
  request: { epoch: EpochShape, forwarded: Type.Boolean() },
  reply: {},
});

/**
 * The chunk goes from `version` to `newVersion`, and is cut to `length` if that is given and
 * smaller. Idempotent: a server that already has `newVersion` answers yes. Waits for writes under
 * way. `uneven`: a write under `version` may not have reached every replica, so this one has to be
 * compared with the others; also when the order is repeated, as nobody knows any more.
 */
export const raiseVersion = method({
  code: 71,
  name: "chunk.raise",
  request: { ...chunk, newVersion: VersionShape, length: Opt(Count) },
  reply: { uneven: Type.Boolean() },
});

/**
 * Copies chunk `handle` to `target` (version 1) on this server's own disk, at most `length` bytes.
 */
export const cloneChunk = method({
  code: 72,
  name: "chunk.clone",
  request: { ...chunk, target: HandleShape, length: Opt(Count) },
  reply: {},
});

/**
 * Fetches a replica, block by block from any of `sources`, less what an older one here has alike;
 * verified and on disk when it answers, it replaces the older one. `draft`: while the chunk is
 * being written to; what was fetched becomes no replica, but the next order needs only what has
 * changed.
 */
export const copyChunk = method({
  code: 73,
  name: "chunk.copy",
  request: {
    ...chunk,
    sources: Type.Array(ReplicaShape, { minItems: 1, maxItems: 32 }),
    draft: Type.Boolean(),
  },
  reply: { length: Count, fetchedBytes: Count },
});
