import { must } from "../../common/assert.ts";
import type { Caller, FileSystem, Node, OpenFile } from "../../mount/fuse/filesystem.ts";
import { rootNode } from "../../mount/fuse/filesystem.ts";
import { statusOf } from "../../protocol/status.ts";

/** Files through the mount's interface, as short as through system calls. */

const caller: Caller = { uid: 0, gid: 0, pid: 1 };
export const openFlags = {
  readOnly: 0,
  readWrite: 2,
  create: 0o100,
  truncate: 0o1000,
  append: 0o2000,
  dsync: 0o10000,
  direct: 0o40000,
} as const;

/** An open file of one mount. */
export class TestFile {
  readonly fs: FileSystem;
  readonly node: Node;
  readonly file: OpenFile;
  readonly directIo: boolean;

  constructor(fs: FileSystem, node: Node, opened: { file: OpenFile; directIo: boolean }) {
    this.fs = fs;
    this.node = node;
    this.file = opened.file;
    this.directIo = opened.directIo;
  }

  static async create(fs: FileSystem, name: string, flags = 0): Promise<TestFile> {
    const making = { mode: 0o100644, umask: 0, flags: openFlags.readWrite | flags };
    const made = await fs.create(rootNode, Buffer.from(name), making, caller);
    return new TestFile(fs, made.node, made);
  }

  /** By a path from the root, through `.snapshots` too. */
  static async open(fs: FileSystem, path: string, flags: number): Promise<TestFile> {
    const node = await find(fs, path);
    return new TestFile(fs, node, await fs.open(node, flags, caller));
  }

  async write(offset: number, data: Buffer): Promise<void> {
    const writing = { offset, data, append: false, killSuidGid: true };
    const written = await this.fs.write(this.file, writing, caller);
    must(written === data.length ? true : undefined, "everything was written");
  }

  /** O_APPEND; the kernel's idea of where the file ends is made to be wrong. */
  async append(data: Buffer): Promise<void> {
    const writing = { offset: 0, data, append: true, killSuidGid: true };
    await this.fs.write(this.file, writing, caller);
  }

  async read(offset: number, length: number): Promise<Buffer> {
    return Buffer.concat(await this.fs.read(this.file, offset, length, caller));
  }

  /** All of it, by its size and in large pieces. */
  async contents(): Promise<Buffer> {
    const size = await this.size();
    const parts: Buffer[] = [];
    for (let at = 0; at < size; at += 1024 * 1024) {
      parts.push(await this.read(at, Math.min(1024 * 1024, size - at)));
    }
    return Buffer.concat(parts);
  }

  async size(): Promise<number> {
    return (await this.fs.getattr(this.node, this.file, caller)).size;
  }

  async truncate(size: number): Promise<void> {
    await this.fs.setattr(this.node, { size }, this.file, caller);
  }

  fallocate(flags: number, offset: number, length: number): Promise<void> {
    return this.fs.fallocate(this.file, { offset, length }, flags, caller);
  }

  /** lseek(2): the offset, or the status with which it fails. */
  seek(offset: number, what: "data" | "hole"): Promise<number | string> {
    return this.fs.seek(this.file, offset, what, caller).catch(statusOf);
  }

  /** As cp does it: until everything is copied, or nothing more is there. */
  async copyTo(target: TestFile, from: number, to: number, length: number): Promise<number> {
    let copied = 0;
    while (copied < length) {
      const count = await this.fs.copyFileRange(
        { file: this.file, offset: from + copied },
        { file: target.file, offset: to + copied },
        length - copied,
        caller,
      );
      if (count === 0) break;
      copied += count;
    }
    return copied;
  }

  flush(): Promise<void> {
    return this.fs.flush(this.file, undefined, caller);
  }

  fsync(): Promise<void> {
    return this.fs.fsync(this.file, false, caller);
  }

  /** close(2): flush and release. */
  async close(): Promise<void> {
    await this.flush();
    await this.fs.release(this.file);
  }
}

async function find(fs: FileSystem, path: string): Promise<Node> {
  let node = rootNode;
  for (const name of path.split("/").filter((part) => part !== "")) {
    ({ node } = await fs.lookup(node, Buffer.from(name), caller));
  }
  return node;
}

/** A snapshot of the root, as mkdir in `.snapshots` takes it. */
export async function takeSnapshot(fs: FileSystem, name: string): Promise<void> {
  const snapshots = await find(fs, ".snapshots");
  await fs.mkdir(snapshots, Buffer.from(name), { mode: 0o755, umask: 0 }, caller);
}

export async function dropSnapshot(fs: FileSystem, name: string): Promise<void> {
  const snapshots = await find(fs, ".snapshots");
  await fs.rmdir(snapshots, Buffer.from(name), caller);
}
