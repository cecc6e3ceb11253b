import { StatusError } from "../../../../protocol/status.ts";
import type { AttrChanges, NodeAttr } from "../../filesystem.ts";
import {
  FATTR_ATIME,
  FATTR_ATIME_NOW,
  FATTR_FH,
  FATTR_GID,
  FATTR_KILL_SUIDGID,
  FATTR_MODE,
  FATTR_MTIME,
  FATTR_MTIME_NOW,
  FATTR_SIZE,
  FATTR_UID,
  FUSE_GETATTR_FH,
  FUSE_SETXATTR_ACL_KILL_SGID,
} from "../flags.ts";
import { malformed, type Request } from "../request.ts";
import { type AnyOperation, checkSize, operation, plain, type Session } from "../session.ts";
import * as s from "../structures.ts";

const permissionBits = 0o7777;

/** Attributes, extended attributes, and what else is asked of a node. */
export function attributeOperations(session: Session) {
  const { fileSystem, open } = session;
  return {
    GETATTR: attrOperation(session, (request) => {
      const { message, body } = request;
      const withFile = (s.getattrIn.getattrFlags.get(message, body) & FUSE_GETATTR_FH) !== 0;
      const file = withFile ? open.file(s.getattrIn.fh.get(message, body)) : 0;
      return fileSystem.getattr(request.node, file, request);
    }),
    SETATTR: attrOperation(session, (request) => {
      const { message, body } = request;
      const valid = s.setattrIn.valid.get(message, body);
      const file = (valid & FATTR_FH) === 0 ? 0 : open.file(s.setattrIn.fh.get(message, body));
      return fileSystem.setattr(request.node, changesOf(message, body), file, request);
    }),
    READLINK: operation<Buffer>({
      start: (request) => fileSystem.readlink(request.node, request),
      finish: (request, target) => session.replies.data(request, [target]),
    }),
    STATFS: operation({
      start: (request) => fileSystem.statfs(request),
      finish: (request, statfs) => session.replies.statfs(request, statfs),
    }),
    SYNCFS: plain(session, (request) => fileSystem.syncfs(request)),
    GETXATTR: sized(session, (request) =>
      fileSystem.getxattr(request.node, request.takeName(), request),
    ),
    LISTXATTR: sized(session, async (request) => {
      const names = await fileSystem.listxattr(request.node, request);
      return Buffer.concat(names.flatMap((name) => [name, zero]));
    }),
    SETXATTR: setxattr(session),
    REMOVEXATTR: plain(session, (request) =>
      fileSystem.removexattr(request.node, request.takeName(), request),
    ),
  };
}

const zero = Buffer.alloc(1);

function attrOperation(
  session: Session,
  start: (request: Request) => Promise<NodeAttr>,
): AnyOperation {
  const { fileSystem, replies } = session;
  return operation<NodeAttr>({
    start,
    finish: (request, attr) =>
      replies.attr(request, attr, fileSystem.validMs(request.node, "attributes")),
  });
}

/** FATTR_LOCKOWNER is for mandatory locks, which there are none of. */
function changesOf(message: Buffer, body: number): AttrChanges {
  const { setattrIn } = s;
  const valid = setattrIn.valid.get(message, body);
  const changes: AttrChanges = {};
  if (valid & FATTR_MODE) changes.mode = setattrIn.mode.get(message, body) & permissionBits;
  if (valid & FATTR_UID) changes.uid = setattrIn.uid.get(message, body);
  if (valid & FATTR_GID) changes.gid = setattrIn.gid.get(message, body);
  if (valid & FATTR_SIZE) changes.size = checkSize(setattrIn.size.get(message, body));
  if (valid & FATTR_ATIME_NOW) changes.atime = "now";
  else if (valid & FATTR_ATIME)
    changes.atime = time(
      setattrIn.atime.get(message, body),
      setattrIn.atimensec.get(message, body),
    );
  if (valid & FATTR_MTIME_NOW) changes.mtime = "now";
  else if (valid & FATTR_MTIME)
    changes.mtime = time(
      setattrIn.mtime.get(message, body),
      setattrIn.mtimensec.get(message, body),
    );
  if (valid & FATTR_KILL_SUIDGID) changes.killSuidGid = true;
  return changes;
}

/** struct timespec: the ns count up, before 1970 too. */
function time(seconds: number, nanoseconds: number): bigint {
  return BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
}

interface Value {
  bytes: Buffer;
  /** What the caller has room for; 0 asks for the size. */
  room: number;
}

/** getxattr(2), listxattr(2): the size, the bytes, or ERANGE. */
function sized(session: Session, get: (request: Request) => Promise<Buffer>): AnyOperation {
  return operation<Value>({
    async start(request) {
      const room = s.getxattrIn.size.get(request.message, request.body);
      const bytes = await get(request);
      if (room > 0 && bytes.length > room)
        throw new StatusError("range", `${bytes.length} bytes into ${room}`);
      return { bytes, room };
    },
    finish: (request, { bytes, room }) =>
      room === 0
        ? session.replies.size(request, bytes.length)
        : session.replies.data(request, [bytes]),
  });
}

/** fuse_setxattr_in has two more words if that was agreed on; name and value follow. */
function setxattr(session: Session): AnyOperation {
  const extended = session.agreement.flags.has("SETXATTR_EXT");
  const { byteLength } = extended ? s.setxattrIn : s.setxattrCompatIn;
  return plain(session, (request) => {
    const { message, body } = request;
    if (request.length < body + byteLength) throw malformed("too short");
    const more = extended ? s.setxattrIn.setxattrFlags.get(message, body) : 0;
    const name = request.takeName(body + byteLength);
    const start = body + byteLength + name.length + 1;
    const end = start + s.setxattrIn.size.get(message, body);
    if (end > request.length) throw malformed("a value beyond its end");
    const attribute = {
      name,
      value: Buffer.from(message.subarray(start, end)),
      flags: s.setxattrIn.flags.get(message, body),
      killSgid: (more & FUSE_SETXATTR_ACL_KILL_SGID) !== 0,
    };
    return session.fileSystem.setxattr(request.node, attribute, request);
  });
}
