import type { Disk, OpenFile } from "../../common/disk.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { openFilesMax } from "../limits.ts";

/**
 * Chunk files: `chunks/xx/hhhhhhhhhhhhhh`, the handle in 14 hex digits (53 bits), xx its last two,
 * so that counted handles spread evenly. What is being made is in `staging/` until it has its name.
 */
export class ChunkFiles {
  readonly #disk: Disk;
  readonly root: string;
  /**
   * Files that no record speaks of and that the disk did not let go of: they go with their chunk,
   * or at the next start.
   */
  readonly strays = new Set<ChunkHandle>();
  /** In order of use, the least recent first. */
  readonly #open = new Map<ChunkHandle, Opened>();

  constructor(options: { disk: Disk; root: string }) {
    this.#disk = options.disk;
    this.root = options.root;
  }

  path(handle: ChunkHandle): string {
    return `${this.directory(handle)}/${chunkFileName(handle)}`;
  }

  directory(handle: ChunkHandle): string {
    return `${this.root}/chunks/${chunkFileName(handle).slice(-2)}`;
  }

  get stagingDirectory(): string {
    return `${this.root}/staging`;
  }

  /** Files that no record speaks of, for somebody to look at. */
  get lostDirectory(): string {
    return `${this.root}/lost`;
  }

  staging(handle: ChunkHandle, purpose: string): string {
    return `${this.stagingDirectory}/${chunkFileName(handle)}.${purpose}`;
  }

  /** Runs `work` with the chunk's file, which stays open for the next one. */
  async use<T>(
    handle: ChunkHandle,
    mode: "write" | "create",
    work: (file: OpenFile) => Promise<T>,
  ): Promise<T> {
    const opened = this.#acquire(handle, mode);
    try {
      return await work(await opened.file);
    } finally {
      opened.users -= 1;
      this.#settle(opened);
    }
  }

  /** The name means another file, or none, from now on. */
  forget(handle: ChunkHandle): void {
    const opened = this.#open.get(handle);
    if (!opened) return;
    this.#open.delete(handle);
    opened.stale = true;
    this.#settle(opened);
  }

  closeAll(): void {
    for (const handle of this.#open.keys()) this.forget(handle);
  }

  #acquire(handle: ChunkHandle, mode: "write" | "create"): Opened {
    let opened = this.#open.get(handle);
    if (opened) this.#open.delete(handle);
    else opened = this.#start(handle, mode);
    this.#open.set(handle, opened);
    opened.users += 1;
    this.#evict();
    return opened;
  }

  #start(handle: ChunkHandle, mode: "write" | "create"): Opened {
    const file = this.#disk.open("chunk.open", this.path(handle), mode);
    const opened: Opened = { file, users: 0, stale: false };
    file.catch(() => {
      if (this.#open.get(handle) === opened) this.#open.delete(handle);
    });
    return opened;
  }

  #evict(): void {
    if (this.#open.size <= openFilesMax) return;
    for (const [handle, opened] of this.#open) {
      if (opened.users === 0) return this.forget(handle);
    }
  }

  /**
   * Closes a file that nobody uses and nobody will. A failing close loses nothing: see clean.ts.
   */
  #settle(opened: Opened): void {
    if (!opened.stale || opened.users > 0) return;
    opened.file.then((file) => file.close()).catch(() => undefined);
  }
}

interface Opened {
  readonly file: Promise<OpenFile>;
  users: number;
  stale: boolean;
}

export function chunkFileName(handle: ChunkHandle): string {
  return handle.toString(16).padStart(14, "0");
}
