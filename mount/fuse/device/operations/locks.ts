import { StatusError } from "../../../../protocol/status.ts";
import type { LockRequest, OpenFile } from "../../filesystem.ts";
import { FUSE_LK_FLOCK, lockTypes } from "../flags.ts";
import type { Request } from "../request.ts";
import { operation, plain, type Session } from "../session.ts";
import * as s from "../structures.ts";

/** fcntl(2) and flock(2) locks. */
export function lockOperations(session: Session) {
  const { fileSystem, replies } = session;
  return {
    GETLK: operation({
      start(request) {
        const { file, asked } = lockRequest(session, request, false);
        return fileSystem.getLock(file, asked, request);
      },
      finish: (request, lock) => replies.lock(request, lock),
    }),
    SETLK: plain(session, (request) => {
      const { file, asked } = lockRequest(session, request, false);
      return fileSystem.setLock(file, asked, request);
    }),
    SETLKW: plain(session, (request) => {
      const { file, asked } = lockRequest(session, request, true);
      return fileSystem.setLock(file, asked, request);
    }),
  };
}

function lockRequest(
  { open }: Session,
  { message, body }: Request,
  wait: boolean,
): { file: OpenFile; asked: LockRequest } {
  const { lkIn } = s;
  const type = lockTypes[lkIn.lk.type.get(message, body)];
  if (type === undefined) throw new StatusError("invalid", "unknown type of lock");
  const lock = {
    type,
    start: lkIn.lk.start.get(message, body),
    end: lkIn.lk.end.get(message, body),
    pid: lkIn.lk.pid.get(message, body),
  };
  const flock = (lkIn.lkFlags.get(message, body) & FUSE_LK_FLOCK) !== 0;
  const owner = lkIn.owner.get(message, body);
  return { file: open.file(lkIn.fh.get(message, body)), asked: { owner, lock, flock, wait } };
}
