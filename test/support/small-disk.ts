import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmdirSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { errnoName } from "../../common/disk.ts";

interface Test {
  teardown(work: () => unknown): unknown;
}

/** A disk of a few MiB that a test can fill: a tmpfs of its own. */
export class SmallDisk {
  readonly path: string;

  private constructor(where: string) {
    this.path = where;
  }

  /** Undefined where this user must not mount: the caller skips what needs it, and says so. */
  static mount(test: Test, mib: number): SmallDisk | undefined {
    const where = mkdtempSync(path.join(tmpdir(), "gfs-small-disk-"));
    const options = `size=${mib}m,mode=700`;
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", options, "gfs-test", where]);
    if (mounted.status !== 0) {
      rmdirSync(where);
      return undefined;
    }
    const disk = new SmallDisk(where);
    process.once("exit", () => disk.#unmount());
    test.teardown(() => disk.#unmount());
    return disk;
  }

  /** Leaves not a byte. */
  fill(): void {
    const fd = openSync(this.#filler, "a");
    try {
      for (let bytes = 1 << 20; bytes >= 512; bytes /= 2) {
        while (takes(fd, Buffer.alloc(bytes))) continue;
      }
    } finally {
      closeSync(fd);
    }
  }

  free(): void {
    rmSync(this.#filler, { force: true });
  }

  get #filler(): string {
    return path.join(this.path, "filler");
  }

  #unmount(): void {
    if (spawnSync("umount", ["-l", this.path]).status === 0) rmdirSync(this.path);
  }
}

function takes(fd: number, bytes: Buffer): boolean {
  try {
    return writeSync(fd, bytes) === bytes.length;
  } catch (error) {
    if (errnoName(error) === "ENOSPC") return false;
    throw error;
  }
}
