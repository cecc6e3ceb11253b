import type { Log } from "../../common/log.ts";
import { StatusError } from "../../protocol/status.ts";
import type { NativeOperations } from "./native-operations.ts";
import { errnoOf, statWords, statfsWords } from "./native-replies.ts";

/**
 * The methods that replace fuse-native's own `_op_*`: each turns C's arguments into a call of
 * `NativeOperations` and its outcome into a signal to C. The first argument of a signal is what the
 * operation returns in C (a negative errno, or a count); the rest differs by operation:
 *
 *   read, write, *xattr   the ArrayBuffer over C's memory, on errors too: C detaches it, and aborts
 *                         the process if it is missing
 *   *getattr, statfs,     what is to be copied; on errors fuse-native fills in something
 *   readdir, readlink
 *   open                  the open file's number
 */
type Signal = (result: number, ...rest: readonly unknown[]) => void;

/** Two 32-bit halves of a 64-bit number: exact below 2^53. */
const double = (low: number, high: number): number => low + high * 2 ** 32;

/** Times as the wrapped `utimens` hands them over, in ns. */
export interface Times {
  atime: bigint;
  mtime: bigint;
}

/** An operation may answer with more than its result. */
type Outcome = readonly [result: number, ...rest: readonly unknown[]];
const done: Outcome = [0];

/** By operation, as fuse-native names them; the keys are what the kernel is told is implemented. */
export function nativeHandlers(operations: NativeOperations, log: Log) {
  const serve = server(log);
  return {
    ...metadata(operations, serve),
    ...data(operations, serve),
    ...xattrs(operations, serve),
  };
}

type Serve = (
  operation: string,
  signal: Signal,
  work: () => Promise<Outcome>,
  /** What C needs on errors, after the errno. */
  onError?: readonly unknown[],
) => void;

/** Runs an operation and always signals once: C's thread and the application wait for it. */
function server(log: Log): Serve {
  return (operation, signal, work, onError = []) => {
    work().then(
      (outcome) => signal(...outcome),
      (error: unknown) => {
        if (!(error instanceof StatusError)) log.error("fuse.bug", { operation, error });
        signal(errnoOf(error), ...onError);
      },
    );
  };
}

function metadata(ops: NativeOperations, serve: Serve) {
  return {
    getattr: (signal: Signal, path: string) =>
      serve("getattr", signal, async () => [0, statWords(await ops.getattr(path))]),
    fgetattr: (signal: Signal, path: string, file: number) =>
      serve("fgetattr", signal, async () => [0, statWords(await ops.fgetattr(path, file))]),
    statfs: (signal: Signal) =>
      serve("statfs", signal, async () => [0, statfsWords(await ops.statfs())]),
    chmod: (signal: Signal, path: string, mode: number) =>
      serve("chmod", signal, () => ops.setattr(path, { mode: mode & 0o7777 }).then(() => done)),
    chown: (signal: Signal, path: string, uid: number, gid: number) =>
      serve("chown", signal, () => ops.setattr(path, owners(uid, gid)).then(() => done)),
    utimens: (signal: Signal, path: string, times: Times) =>
      serve("utimens", signal, () => ops.setattr(path, { ...times }).then(() => done)),
    truncate: (signal: Signal, path: string, low: number, high: number) =>
      serve("truncate", signal, () =>
        ops.setattr(path, { size: double(low, high) }).then(() => done),
      ),
    readlink: (signal: Signal, path: string) =>
      serve("readlink", signal, async () => [0, await ops.readlink(path)]),
    mknod: (signal: Signal, path: string, mode: number, rdev: number) =>
      serve("mknod", signal, () => ops.mknod(path, mode, rdev).then(() => done)),
    mkdir: (signal: Signal, path: string, mode: number) =>
      serve("mkdir", signal, () => ops.mkdir(path, mode).then(() => done)),
    symlink: (signal: Signal, target: string, path: string) =>
      serve("symlink", signal, () => ops.symlink(target, path).then(() => done)),
    link: (signal: Signal, source: string, target: string) =>
      serve("link", signal, () => ops.link(source, target).then(() => done)),
    unlink: (signal: Signal, path: string) =>
      serve("unlink", signal, () => ops.unlink(path).then(() => done)),
    rmdir: (signal: Signal, path: string) =>
      serve("rmdir", signal, () => ops.rmdir(path).then(() => done)),
    rename: (signal: Signal, source: string, target: string) =>
      serve("rename", signal, () => ops.rename(source, target).then(() => done)),
    readdir: (signal: Signal, path: string) =>
      serve("readdir", signal, async () => {
        const listed = await ops.readdir(path);
        // libfuse takes the type and st_ino of each from its attributes.
        return [0, listed.map(({ name }) => name), listed.map(({ attr }) => statWords(attr))];
      }),
    fsyncdir: (signal: Signal, path: string) =>
      serve("fsyncdir", signal, () => ops.fsyncdir(path).then(() => done)),
  };
}

function data(ops: NativeOperations, serve: Serve) {
  return {
    open: (signal: Signal, path: string, flags: number) =>
      serve("open", signal, async () => [0, await ops.open(path, flags)]),
    read: (
      signal: Signal,
      _path: string,
      file: number,
      buffer: Buffer,
      _length: number,
      low: number,
      high: number,
    ) => {
      const rest = [0, buffer.buffer];
      const read = async (): Promise<Outcome> => [
        await ops.read(file, double(low, high), buffer),
        ...rest,
      ];
      serve("read", signal, read, rest);
    },
    write: (
      signal: Signal,
      _path: string,
      file: number,
      buffer: Buffer,
      _length: number,
      low: number,
      high: number,
    ) => {
      const rest = [0, buffer.buffer];
      const write = async (): Promise<Outcome> => [
        await ops.write(file, double(low, high), buffer),
        ...rest,
      ];
      serve("write", signal, write, rest);
    },
    flush: (signal: Signal, _path: string, file: number) =>
      serve("flush", signal, () => ops.flush(file).then(() => done)),
    fsync: (signal: Signal, _path: string, dataOnly: number, file: number) =>
      serve("fsync", signal, () => ops.fsync(file, dataOnly !== 0).then(() => done)),
    ftruncate: (signal: Signal, path: string, file: number, low: number, high: number) =>
      serve("ftruncate", signal, () =>
        ops.ftruncate(path, file, double(low, high)).then(() => done),
      ),
    release: (signal: Signal, _path: string, file: number) =>
      serve("release", signal, () => ops.release(file).then(() => done)),
  };
}

function xattrs(ops: NativeOperations, serve: Serve) {
  return {
    getxattr: (signal: Signal, path: string, name: string, target: Buffer) =>
      serve("getxattr", signal, async () => sized(await ops.getxattr(path, name), target), [
        target.buffer,
      ]),
    listxattr: (signal: Signal, path: string, target: Buffer) =>
      serve("listxattr", signal, async () => sized(await ops.listxattr(path), target), [
        target.buffer,
      ]),
    setxattr: (
      signal: Signal,
      path: string,
      name: string,
      value: Buffer,
      _position: number,
      flags: number,
    ) => {
      const set = (): Promise<Outcome> =>
        ops.setxattr(path, name, value, flags).then(() => [0, value.buffer]);
      serve("setxattr", signal, set, [value.buffer]);
    },
    removexattr: (signal: Signal, path: string, name: string) =>
      serve("removexattr", signal, () => ops.removexattr(path, name).then(() => done)),
  };
}

/**
 * getxattr(2): an empty buffer asks for the size; one that is too small is ERANGE, never half
 * filled.
 */
function sized(value: Buffer, target: Buffer): Outcome {
  if (target.length > 0 && value.length > target.length)
    throw new StatusError("range", `${value.length} bytes into ${target.length}`);
  value.copy(target);
  return [value.length, target.buffer];
}

/** chown(2): -1 leaves the owner or the group as it is. */
function owners(uid: number, gid: number): { uid?: number; gid?: number } {
  const none = 0xffff_ffff;
  return { ...(uid === none ? {} : { uid }), ...(gid === none ? {} : { gid }) };
}
