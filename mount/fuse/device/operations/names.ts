import { StatusError } from "../../../../protocol/status.ts";
import { FUSE_OPEN_KILL_SUIDGID } from "../flags.ts";
import type { Request } from "../request.ts";
import {
  type AnyOperation,
  checkNode,
  createOperation,
  entryOperation,
  namesValidMs,
  plain,
  type Session,
} from "../session.ts";
import * as s from "../structures.ts";

/** What finds, makes, moves and removes names. `request.node` is the directory. */
export function nameOperations(session: Session) {
  const { fileSystem, replies } = session;
  return {
    LOOKUP: entryOperation(
      session,
      (request) => fileSystem.lookup(request.node, request.takeName(), request),
      (request, error) => {
        if (!(error instanceof StatusError) || error.status !== "not-found") return undefined;
        const validMs = namesValidMs(session, request.node);
        return validMs > 0 ? replies.absent(request, validMs) : undefined;
      },
    ),
    MKNOD: entryOperation(session, (request) => {
      const { message, body } = request;
      const making = {
        mode: s.mknodIn.mode.get(message, body),
        umask: s.mknodIn.umask.get(message, body),
        rdev: s.mknodIn.rdev.get(message, body),
      };
      return fileSystem.mknod(request.node, request.takeName(), making, request);
    }),
    MKDIR: entryOperation(session, (request) => {
      const { message, body } = request;
      const making = {
        mode: s.mkdirIn.mode.get(message, body),
        umask: s.mkdirIn.umask.get(message, body),
      };
      return fileSystem.mkdir(request.node, request.takeName(), making, request);
    }),
    SYMLINK: entryOperation(session, (request) => {
      const [name, target] = request.takeNames();
      return fileSystem.symlink(request.node, name, target, request);
    }),
    LINK: entryOperation(session, (request) => {
      const node = checkNode(session, s.linkIn.oldnodeid.get(request.message, request.body));
      return fileSystem.link(node, request.node, request.takeName(), request);
    }),
    CREATE: createOperation(session, (request) =>
      fileSystem.create(request.node, request.takeName(), creating(request), request),
    ),
    TMPFILE: createOperation(session, (request) =>
      fileSystem.tmpfile(request.node, creating(request), request),
    ),
    UNLINK: plain(session, (request) =>
      fileSystem.unlink(request.node, request.takeName(), request),
    ),
    RMDIR: plain(session, (request) => fileSystem.rmdir(request.node, request.takeName(), request)),
    RENAME: rename(session, s.renameIn.newdir, () => 0),
    RENAME2: rename(session, s.rename2In.newdir, (request) =>
      s.rename2In.flags.get(request.message, request.body),
    ),
  };
}

function creating(request: Request) {
  const { message, body } = request;
  const openFlags = s.createIn.openFlags.get(message, body);
  return {
    mode: s.createIn.mode.get(message, body),
    umask: s.createIn.umask.get(message, body),
    flags: s.createIn.flags.get(message, body),
    killSuidGid: (openFlags & FUSE_OPEN_KILL_SUIDGID) !== 0,
  };
}

function rename(
  session: Session,
  newdir: { get(message: Buffer, body: number): number },
  flagsOf: (request: Request) => number,
): AnyOperation {
  return plain(session, (request) => {
    const parent = checkNode(session, newdir.get(request.message, request.body));
    const [from, to] = request.takeNames();
    request.alsoHolds = parent === request.node ? 0 : parent;
    const source = { parent: request.node, name: from };
    return session.fileSystem.rename(source, { parent, name: to }, flagsOf(request), request);
  });
}
