import { Type } from "typebox";
import { lockOffsetMax, locksPerPageMax } from "../limits.ts";
import { method } from "../method.ts";
import { Count, EpochShape, InoShape, List, Opt, Uint32 } from "../shapes.ts";

/**
 * Locks of files: flock(2) and fcntl(2). The master keeps them, for the session of the mount and
 * the owner that the mount's kernel names. Asking for a lock that one has changes nothing, so a
 * request whose answer was lost is simply sent again: no reply is remembered (P7 by idempotence).
 */

function uint64(most: bigint): ReturnType<typeof Type.Unsafe<bigint>> {
  return Type.Refine(
    Type.Unsafe<bigint>({ ...Type.BigInt(), "~most": most.toString() }),
    (value) => value >= 0n && value <= most,
    () => `must be from 0 to ${most}`,
  );
}

const Offset = uint64(lockOffsetMax);
const Owner = uint64(2n ** 64n - 1n);
const LockTypeShape = Type.Union([Type.Literal("read"), Type.Literal("write")]);

/** `at`: the file as it was in a snapshot. `flock`: the two kinds do not see each other. */
const file = { ino: InoShape, at: Opt(EpochShape), flock: Type.Boolean() };
const range = { start: Offset, end: Offset };

/**
 * mount → master. Takes, changes or ends (`unlock`) a lock on the bytes from `start` to `end`, both
 * included. `would-block` if it cannot be had and `wait` is false; `deadlock` if waiting could
 * never end; `no-locks` if the session has too many; `unavailable` while the master waits for
 * mounts to tell it their locks after its restart. `waiting`: the request stands in line under
 * `ticket`, which the mount numbers; when its turn has come the master says so (`lock.ready`), and
 * the mount asks again. Asking again keeps the place.
 */
export const setLock = method({
  code: 110,
  name: "lock.set",
  request: {
    ...file,
    ...range,
    owner: Owner,
    type: Type.Union([LockTypeShape, Type.Literal("unlock")]),
    /** The process, for F_GETLK of others on the same mount. */
    pid: Uint32,
    wait: Type.Boolean(),
    ticket: Count,
  },
  reply: { outcome: Type.Union([Type.Literal("done"), Type.Literal("waiting")]) },
});

/** mount → master. F_GETLK: the first lock that is in the way. `pid` is 0 for another mount's. */
export const getLock = method({
  code: 111,
  name: "lock.get",
  request: { ...file, ...range, owner: Owner, type: LockTypeShape },
  reply: { lock: Opt(Type.Object({ ...range, type: LockTypeShape, pid: Uint32 })) },
});

/** mount → master. Nobody waits any more. `waited` false: the lock may have been granted before. */
export const cancelLock = method({
  code: 112,
  name: "lock.cancel",
  request: { ticket: Count },
  reply: { waited: Type.Boolean() },
});

/**
 * mount → master, right after its session goes on and before anything else: what the mount holds,
 * page by page. `wanted` false: the master knows. `refused`: which of the page (counted from 0)
 * somebody else holds; the mount has lost those.
 */
export const reclaimLocks = method({
  code: 113,
  name: "lock.reclaim",
  request: {
    locks: List(
      Type.Object(
        { ...file, ...range, owner: Owner, type: LockTypeShape, pid: Uint32 },
        { additionalProperties: false },
      ),
      locksPerPageMax,
    ),
    last: Type.Boolean(),
  },
  reply: { wanted: Type.Boolean(), refused: List(Count, locksPerPageMax) },
});

/** master → mount. Those who wait under these tickets should ask again. */
export const lockReady = method({
  code: 114,
  name: "lock.ready",
  request: { tickets: List(Count, locksPerPageMax) },
  reply: {},
});
