import { StatusError } from "../../../../protocol/status.ts";
import type { Opened } from "../../filesystem.ts";
import {
  FUSE_FSYNC_FDATASYNC,
  FUSE_OPEN_KILL_SUIDGID,
  FUSE_RELEASE_FLOCK_UNLOCK,
  FUSE_WRITE_CACHE,
  FUSE_WRITE_KILL_SUIDGID,
  O_APPEND,
  SEEK_DATA,
  SEEK_HOLE,
} from "../flags.ts";
import { requestBytesMax } from "../init.ts";
import { malformed, type Request } from "../request.ts";
import { checkSize, operation, plain, releaseUndelivered, type Session } from "../session.ts";
import * as s from "../structures.ts";

/** COPY_FILE_RANGE tells the bytes in 32 bits. */
const copyBytesMax32 = 2 ** 32 - 4096;

/** Open files and their contents. */
export function fileOperations(session: Session) {
  const { fileSystem, open, replies } = session;
  return {
    OPEN: operation<Opened>({
      start(request) {
        const flags = s.openIn.flags.get(request.message, request.body);
        const openFlags = s.openIn.openFlags.get(request.message, request.body);
        const killSuidGid = (openFlags & FUSE_OPEN_KILL_SUIDGID) !== 0;
        return fileSystem.open(request.node, flags, request, killSuidGid);
      },
      finish: (request, opened) =>
        replies.opened(request, opened, open.addFile(request.node, opened)),
      undo: (_request, { file }) => releaseUndelivered(session, file),
    }),
    READ: operation<readonly Buffer[]>({
      start(request) {
        const { message, body } = request;
        const file = open.file(s.readIn.fh.get(message, body));
        const offset = s.readIn.offset.get(message, body);
        const size = s.readIn.size.get(message, body);
        if (offset > Number.MAX_SAFE_INTEGER) return [];
        return fileSystem.read(file, offset, Math.min(size, requestBytesMax), request);
      },
      finish: (request, pieces) => replies.data(request, pieces),
    }),
    WRITE: operation<number>({
      start: (request) => write(session, request),
      finish: (request, bytes) => replies.written(request, bytes),
    }),
    FLUSH: plain(session, (request) => {
      const { message, body } = request;
      const file = open.file(s.flushIn.fh.get(message, body));
      return fileSystem.flush(file, s.flushIn.lockOwner.get(message, body), request);
    }),
    FSYNC: plain(session, (request) => {
      const { message, body } = request;
      const file = open.file(s.fsyncIn.fh.get(message, body));
      const dataOnly = (s.fsyncIn.fsyncFlags.get(message, body) & FUSE_FSYNC_FDATASYNC) !== 0;
      return fileSystem.fsync(file, dataOnly, request);
    }),
    RELEASE: plain(session, (request) => release(session, request)),
    FALLOCATE: plain(session, (request) => {
      const { message, body } = request;
      const file = open.file(s.fallocateIn.fh.get(message, body));
      const range = {
        offset: s.fallocateIn.offset.get(message, body),
        length: s.fallocateIn.length.get(message, body),
      };
      checkSize(range.offset + range.length);
      const mode = s.fallocateIn.mode.get(message, body);
      return fileSystem.fallocate(file, range, mode, request);
    }),
    LSEEK: operation<number>({
      start: (request) => seek(session, request),
      finish: (request, offset) => replies.number(request, offset),
    }),
    COPY_FILE_RANGE: operation<number>({
      start: (request) => copy(session, request, copyBytesMax32),
      finish: (request, bytes) => replies.written(request, bytes),
    }),
    COPY_FILE_RANGE_64: operation<number>({
      start: (request) => copy(session, request, Number.MAX_SAFE_INTEGER),
      finish: (request, bytes) => replies.number(request, bytes),
    }),
  };
}

function write({ fileSystem, open }: Session, request: Request): Promise<number> {
  const { message, body } = request;
  const size = s.writeIn.size.get(message, body);
  const start = body + s.writeIn.byteLength;
  if (start + size !== request.length) throw malformed("a WRITE of another length than it says");
  const file = open.file(s.writeIn.fh.get(message, body));
  const offset = s.writeIn.offset.get(message, body);
  checkSize(offset + size);
  const flags = s.writeIn.writeFlags.get(message, body);
  const writing = {
    offset,
    data: message.subarray(start, start + size),
    // Pages that were written through mmap(2) go where they are from, whoever has the file open.
    append:
      (s.writeIn.flags.get(message, body) & O_APPEND) !== 0 && (flags & FUSE_WRITE_CACHE) === 0,
    killSuidGid: (flags & FUSE_WRITE_KILL_SUIDGID) !== 0,
  };
  return fileSystem.write(file, writing, request);
}

function release({ fileSystem, open }: Session, { message, body }: Request): Promise<void> {
  const file = open.file(s.releaseIn.fh.get(message, body));
  const flags = s.releaseIn.releaseFlags.get(message, body);
  open.removeFile(file);
  if ((flags & FUSE_RELEASE_FLOCK_UNLOCK) === 0) return fileSystem.release(file);
  return fileSystem.release(file, s.releaseIn.lockOwner.get(message, body));
}

function seek({ fileSystem, open }: Session, request: Request): Promise<number> {
  const { message, body } = request;
  const file = open.file(s.lseekIn.fh.get(message, body));
  const offset = s.lseekIn.offset.get(message, body);
  const whence = s.lseekIn.whence.get(message, body);
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE)
    throw new StatusError("invalid", `whence ${whence}`);
  if (offset > Number.MAX_SAFE_INTEGER) throw new StatusError("no-such-offset", `${offset}`);
  return fileSystem.seek(file, offset, whence === SEEK_DATA ? "data" : "hole", request);
}

/** Answered with fewer bytes than asked for, the kernel or the application asks for the rest. */
function copy({ fileSystem, open }: Session, request: Request, bytesMax: number): Promise<number> {
  const { message, body } = request;
  const source = {
    file: open.file(s.copyFileRangeIn.fhIn.get(message, body)),
    offset: checkSize(s.copyFileRangeIn.offIn.get(message, body)),
  };
  const target = {
    file: open.file(s.copyFileRangeIn.fhOut.get(message, body)),
    offset: checkSize(s.copyFileRangeIn.offOut.get(message, body)),
  };
  const room = Number.MAX_SAFE_INTEGER - Math.max(source.offset, target.offset);
  const length = Math.min(s.copyFileRangeIn.len.get(message, body), bytesMax, room);
  return fileSystem.copyFileRange(source, target, length, request);
}
