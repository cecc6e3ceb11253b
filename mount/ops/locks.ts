import { statusOf } from "../../protocol/status.ts";
import { interruptible } from "../client/interruptible.ts";
import type { LockTarget } from "../client/lock-client.ts";
import type { Caller, FileSystem, LockOwner, LockRequest, OpenFile } from "../fuse/filesystem.ts";
import type { Context } from "./context.ts";
import type { OpenRegular } from "./open-files.ts";

type Group = Pick<FileSystem, "getLock" | "setLock">;

/**
 * flock(2) and fcntl(2) locks. Between two mounts that take turns under a lock, each sees what the
 * other wrote before: whoever unlocks has sent and committed the file's data first, and before the
 * master answers that commit, all other mounts have dropped what they knew of the file (attributes,
 * places of chunks, what was read ahead). So when a lock is granted, there is nothing here to be
 * asked anew. Only the kernel may still be dropping pages, if it has taken longer than the
 * master is made to wait. That may be waited for here, unlike in other answers: the process that
 * asks for a lock holds none of the kernel's locks meanwhile.
 */
export function lockOps(context: Context): Group {
  return {
    async getLock(file, request, { signal }) {
      const { lock } = request;
      if (lock.type === "unlock") return undefined;
      const wanted = { start: lock.start, end: lock.end, type: lock.type };
      return context.locks.get(targetOf(context, file, request), wanted, signal);
    },

    async setLock(file, request, caller) {
      const target = targetOf(context, file, request);
      const { type } = request.lock;
      // No round trip to end what has not begun.
      if (type === "unlock" && !context.locks.mayHold(target)) return;
      const lowers =
        type === "unlock" || (type === "read" && context.locks.mayWrite(target, request.lock));
      const failure = lowers ? await flushed(context, file, caller) : undefined;
      await setLock(context, { target, file, request }, caller);
      if (failure) throw failure.error;
      // It has the lock, interrupted or not.
      const dropped = context.kernel.pagesDropped(target.ino);
      if (dropped) await interruptible(dropped, caller.signal).catch(() => undefined);
    },
  };
}

async function setLock(
  { locks }: Context,
  { target, file, request }: { target: LockTarget; file: OpenFile; request: LockRequest },
  caller: Caller,
): Promise<void> {
  const { start, end, type } = request.lock;
  const pid = request.lock.pid || caller.pid;
  await locks.set(target, file, { start, end, type, pid, wait: request.wait }, caller.signal);
}

/**
 * What was written under the lock is with the servers, before anybody else can have the lock. What
 * cannot be written is lost with or without it: others need not wait for it, and who unlocks is
 * told.
 */
async function flushed(
  { files, writeBack }: Context,
  file: OpenFile,
  { signal }: Caller,
): Promise<{ error: unknown } | undefined> {
  const opened = files.regular(file);
  if (opened.ref.kind !== "live") return undefined;
  try {
    await writeBack.flush(opened.ref.ino, { cursor: opened.errors, signal });
    return undefined;
  } catch (error) {
    if (statusOf(error) === "interrupted") throw error;
    return { error };
  }
}

function targetOf(
  { files }: Context,
  file: OpenFile,
  { flock, owner }: Pick<LockRequest, "flock" | "owner">,
): LockTarget {
  const { ref } = files.regular(file);
  return { ino: ref.ino, at: ref.kind === "frozen" ? ref.at : undefined, flock, owner };
}

/**
 * close(2) by `owner`, whose fcntl(2) locks end when `write`, which sends what is unwritten, has
 * settled. A process that was killed does not wait for that, but it happens in this order all the
 * same.
 */
export async function closeLocked(
  context: Context,
  file: OpenFile,
  closing: { owner: LockOwner | undefined; write: (signal?: AbortSignal) => Promise<void> },
  { signal }: Caller,
): Promise<void> {
  const { owner, write } = closing;
  const target = owner !== undefined && targetOf(context, file, { flock: false, owner });
  if (!target || !context.locks.mayHold(target)) return write(signal);
  const work = async (): Promise<void> => {
    try {
      await write();
    } finally {
      await context.locks.end(target);
    }
  };
  await interruptible(work(), signal);
}

/** The last close of an open file: flock(2) and F_OFD_SETLK locks through it end. */
export async function releaseLocked(
  { locks, log }: Context,
  file: OpenFile,
  opened: OpenRegular,
): Promise<void> {
  const { ino } = opened.ref;
  for (const target of locks.through(file)) {
    try {
      await locks.end(target);
    } catch (error) {
      log.error("release.unlock-failed", { ino, error });
    }
  }
}
