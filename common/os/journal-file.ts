import fs from "node:fs";
import path from "node:path";
import type { JournalDirectory, JournalFile } from "../journal-file.ts";

/** Journals on the machine's disk. Appends are system calls made at once: about 10 µs each. */
export function systemJournalDirectory(directory: string): JournalDirectory {
  const at = (name: string): string => path.join(directory, name);
  return {
    list: () => fs.readdirSync(directory),
    read: (_site, name) => fs.readFileSync(at(name)),
    create: async (_site, name, head) => {
      const staging = at(`${name}.new`);
      const handle = await fs.promises.open(staging, "w", 0o600);
      try {
        await handle.writeFile(head);
        await handle.datasync();
      } finally {
        await handle.close();
      }
      await fs.promises.rename(staging, at(name));
      await syncDirectory(directory);
      return new SystemJournalFile(fs.openSync(at(name), "r+"), head.length);
    },
    cut: (_site, name, bytes) => {
      const fd = fs.openSync(at(name), "r+");
      try {
        if (fs.fstatSync(fd).size > bytes) fs.ftruncateSync(fd, bytes);
        fs.fsyncSync(fd);
      } finally {
        fs.closeSync(fd);
      }
    },
    remove: (_site, name) => fs.promises.rm(at(name), { force: true }),
  };
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await fs.promises.open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

class SystemJournalFile implements JournalFile {
  readonly #fd: number;
  readonly #syncing = new Set<Promise<void>>();
  #bytes: number;
  #closed = false;

  constructor(fd: number, bytes: number) {
    this.#fd = fd;
    this.#bytes = bytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  append(_site: string, bytes: Buffer): void {
    let done = 0;
    try {
      while (done < bytes.length) {
        const left = bytes.length - done;
        done += fs.writeSync(this.#fd, bytes, done, left, this.#bytes + done);
      }
    } catch (error) {
      // What is there of the record is written over by the next one, if it cannot be cut off.
      if (done > 0) tryTruncate(this.#fd, this.#bytes);
      throw error;
    }
    this.#bytes += bytes.length;
  }

  sync(_site: string): Promise<void> {
    const syncing = new Promise<void>((resolve, reject) => {
      fs.fdatasync(this.#fd, (error) => (error ? reject(error) : resolve()));
    }).finally(() => this.#syncing.delete(syncing));
    this.#syncing.add(syncing);
    return syncing;
  }

  syncNow(_site: string): void {
    fs.fdatasyncSync(this.#fd);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await Promise.allSettled(this.#syncing);
    fs.closeSync(this.#fd);
  }
}

function tryTruncate(fd: number, bytes: number): void {
  try {
    fs.ftruncateSync(fd, bytes);
  } catch {
    // The record is not whole: its CRC tells.
  }
}
