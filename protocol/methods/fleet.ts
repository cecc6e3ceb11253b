import { Type } from "typebox";
import { chunksPerPageMax } from "../limits.ts";
import { method } from "../method.ts";
import {
  Count,
  EpochShape,
  HandleShape,
  List,
  Opt,
  HostPort,
  RackName,
  ServerShape,
  Text,
  VersionShape,
} from "../shapes.ts";

/** chunk server → master, over the connection on which the master also sends its orders. */

/**
 * `full` takes nothing new; `read-only` and `failing` (reads or writes end with EIO) besides want
 * to be emptied.
 */
export const DiskHealth = Type.Union([
  Type.Literal("ok"),
  Type.Literal("full"),
  Type.Literal("read-only"),
  Type.Literal("failing"),
]);

/** How far the reading of everything for its checksums is (GFS §5.2). */
export const Scrub = Type.Object({
  /** The round under way, or the next one; the first is 1. 0 if scrubbing is off. */
  round: Count,
  /** Verified in this round, and what all chunks together have. */
  doneBytes: Count,
  totalBytes: Count,
  /** Blocks that rounds have found bad, since the data directory was made. */
  badBlocks: Count,
  /** When the last round was complete, in seconds since 1970. */
  finishedAt: Opt(Count),
});

const usage = {
  usedBytes: Count,
  freeBytes: Count,
  chunks: Count,
  /** Blocks whose CRC did not match, since the server's data directory was made. */
  corruptBlocks: Count,
  disk: DiskHealth,
  /** A sentence when `disk` is not `ok`. */
  diskTrouble: Opt(Text),
  scrub: Opt(Scrub),
};

/** `server` absent: a new data directory, which becomes part of the cluster and gets an id. */
export const register = method({
  code: 80,
  name: "fleet.register",
  request: { server: Opt(ServerShape), address: HostPort, rack: RackName, ...usage },
  reply: { server: ServerShape, epoch: EpochShape, heartbeatMs: Count, leaseMs: Count },
});

/**
 * After registering: everything the server holds, in pages; `last` ends it. The answer lists what
 * the server must delete: replicas that are out of date, chunks that nobody refers to.
 */
export const inventory = method({
  code: 81,
  name: "fleet.inventory",
  request: {
    chunks: List(
      Type.Object({
        handle: HandleShape,
        version: VersionShape,
        /** Written to when the server stopped: its peers may differ. */
        dirty: Type.Boolean(),
      }),
      chunksPerPageMax,
    ),
    last: Type.Boolean(),
  },
  reply: { remove: List(HandleShape, chunksPerPageMax) },
});

/**
 * "I am alive", and in the answer what to delete. `removed`: what was deleted since the last beat.
 */
export const heartbeat = method({
  code: 82,
  name: "fleet.heartbeat",
  request: { ...usage, removed: List(HandleShape, chunksPerPageMax) },
  reply: { remove: List(HandleShape, chunksPerPageMax), epoch: EpochShape },
});

/** Blocks of 64 KiB in a chunk of 1 GiB, the largest. */
const blocksMax = 16_384;

/**
 * A replica here turned out bad or missing: the master looks for a good one to copy. `blocks`:
 * those that are known to be bad, if it is not the chunk as a whole; said again when there are
 * more.
 */
export const replicaBad = method({
  code: 83,
  name: "fleet.bad",
  request: {
    handle: HandleShape,
    version: VersionShape,
    reason: Text,
    blocks: Opt(List(Count, blocksMax)),
  },
  reply: {},
});

/**
 * A write under `version` has not reached every replica, and no client had the version raised
 * since: it may have died. `servers` did not take part, as far as this one knows.
 */
export const writeFailed = method({
  code: 84,
  name: "fleet.write-failed",
  request: { handle: HandleShape, version: VersionShape, servers: List(ServerShape, 32) },
  reply: {},
});

/**
 * A part of what the server holds, told again and again in the background: an order that ended
 * after the inventory, or a write that came late, may have left what nobody knows of. What is not
 * wanted is in the answer of a later heartbeat.
 */
export const holdings = method({
  code: 85,
  name: "fleet.holdings",
  request: { handles: List(HandleShape, chunksPerPageMax) },
  reply: {},
});
