import fs from "node:fs";
import net from "node:net";
import type { DirectoryLock, Disk, DiskSpace, OpenFile, OpenMode } from "../disk.ts";
import { errnoName } from "../disk.ts";

/** The machine's disk. Calls go to libuv's threads: a slow disk never stops the event loop. */

const openFlags: Record<OpenMode, number> = {
  read: fs.constants.O_RDONLY,
  write: fs.constants.O_RDWR,
  create: fs.constants.O_RDWR | fs.constants.O_CREAT,
};

type Done<T> = (error: NodeJS.ErrnoException | null, value?: T) => void;

/** A callback-style call as a promise; half the cost of `fs.promises` for short calls. */
function step<T>(start: (done: Done<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    start((error, value) => (error ? reject(error) : resolve(value as T)));
  });
}

class SystemFile implements OpenFile {
  readonly #fd: number;
  #closed = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  async read(_site: string, into: Buffer, position: number): Promise<number> {
    let done = 0;
    while (done < into.length) {
      const at = done;
      const count = await step<number>((cb) =>
        fs.read(this.#fd, into, at, into.length - at, position + at, cb),
      );
      if (count === 0) break;
      done += count;
    }
    return done;
  }

  async write(_site: string, bytes: Buffer, position: number): Promise<void> {
    let done = 0;
    while (done < bytes.length) {
      const at = done;
      done += await step<number>((cb) =>
        fs.write(this.#fd, bytes, at, bytes.length - at, position + at, cb),
      );
    }
  }

  truncate(_site: string, bytes: number): Promise<void> {
    return step((cb) => fs.ftruncate(this.#fd, bytes, cb));
  }

  datasync(_site: string): Promise<void> {
    return step((cb) => fs.fdatasync(this.#fd, cb));
  }

  async size(_site: string): Promise<number> {
    return (await step<fs.Stats>((cb) => fs.fstat(this.#fd, cb))).size;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await step<void>((cb) => fs.close(this.#fd, cb));
  }
}

/** `action`, or undefined when it fails with ENOENT. */
async function unlessMissing<T>(action: Promise<T>): Promise<T | undefined> {
  try {
    return await action;
  } catch (error) {
    if (errnoName(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** What FICLONE answers where the filesystem, or this pair of files, cannot share blocks. */
const cannotShare = new Set(["ENOTSUP", "EOPNOTSUPP", "EXDEV", "EINVAL", "ENOSYS", "ENOTTY"]);

export const systemDisk: Disk = {
  async open(_site, path, mode) {
    return new SystemFile(await step<number>((cb) => fs.open(path, openFlags[mode], 0o600, cb)));
  },

  readFile: (_site, path) => unlessMissing(fs.promises.readFile(path)),

  writeFile: (_site, path, bytes) => fs.promises.writeFile(path, bytes, { mode: 0o600 }),

  async makeDirectory(_site, path) {
    await fs.promises.mkdir(path, { recursive: true, mode: 0o700 });
  },

  list: (_site, path) => unlessMissing(fs.promises.readdir(path)),

  rename: (_site, source, target) => step((cb) => fs.rename(source, target, cb)),

  async remove(_site, path) {
    const removed = await unlessMissing(
      step<void>((cb) => fs.unlink(path, cb)).then((): true => true),
    );
    return removed ?? false;
  },

  async reflink(_site, source, target) {
    try {
      await fs.promises.copyFile(source, target, fs.constants.COPYFILE_FICLONE_FORCE);
      return true;
    } catch (error) {
      if (cannotShare.has(errnoName(error) ?? "")) return false;
      throw error;
    }
  },

  async syncDirectory(_site, path) {
    const fd = await step<number>((cb) => fs.open(path, fs.constants.O_RDONLY, cb));
    try {
      await step<void>((cb) => fs.fsync(fd, cb));
    } finally {
      await step<void>((cb) => fs.close(fd, cb));
    }
  },

  async space(_site, path): Promise<DiskSpace> {
    const found = await fs.promises.statfs(path);
    return { totalBytes: found.blocks * found.bsize, freeBytes: found.bavail * found.bsize };
  },

  lockDirectory: (_site, path) => lockDirectory(path),
};

/**
 * A socket in Linux's abstract namespace (unix(7)), named after the directory's device and inode:
 * the kernel gives the name to one holder and takes it back when the process ends, so there is no
 * file to clean up after kill -9. It does not reach across network namespaces.
 */
async function lockDirectory(path: string): Promise<DirectoryLock | undefined> {
  const { dev, ino } = await fs.promises.stat(path, { bigint: true });
  const server = net.createServer((socket) => socket.destroy());
  const taken = await new Promise<boolean>((resolve, reject) => {
    server.once("error", (error) => {
      if (errnoName(error) === "EADDRINUSE") resolve(true);
      else reject(error);
    });
    server.listen({ path: `\0gfs-directory-${dev}-${ino}` }, () => resolve(false));
  });
  if (taken) return undefined;
  server.unref();
  return {
    release: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
