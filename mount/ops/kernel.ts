import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { lastUsed } from "../../common/lru.ts";
import type { Ino } from "../../protocol/id.ts";
import type { RequestOf } from "../../protocol/method.ts";
import type { invalidate } from "../../protocol/methods/namespace.ts";
import type { FileSystem, KernelCaches, Node } from "../fuse/filesystem.ts";
import type { Context } from "./context.ts";

type Group = Pick<FileSystem, "mounted" | "validMs">;

/** A snapshot does not change: how long the kernel believes what it was told of it. */
const frozenMs = 600_000;
/**
 * The master waits this long at most for the kernel to drop something, well inside what it allows:
 * a page that is being written cannot be dropped before.
 */
const dropMsMax = 1_000;
/** Files of which the kernel may still have true pages when they are opened again. */
const filesMax = 100_000;

type Changes = RequestOf<typeof invalidate>;

/** What the kernel has cached of this mount, as far as this program has a say in it. */
export class Kernel {
  #caches: KernelCaches | undefined;
  /** Files whose contents have been as the kernel may have them since they were last opened. */
  readonly #pages = lastUsed<Ino, true>(filesMax);
  /** Pages that the kernel is dropping. */
  readonly #dropping = new Map<Ino, Promise<unknown>>();
  readonly #clock: Clock;
  readonly #log: Log;

  constructor(options: { clock: Clock; log: Log }) {
    this.#clock = options.clock;
    this.#log = options.log;
  }

  mounted(caches: KernelCaches): void {
    this.#caches = caches;
  }

  /** True if the file's contents have not changed since it was last opened here. */
  knowsContents(ino: Ino): boolean {
    return this.#pages.has(ino);
  }

  /** The file has been opened. True if the pages that the kernel has of it are still true. */
  opened(ino: Ino): boolean {
    const known = this.#pages.has(ino);
    this.#pages.set(ino, true);
    return known;
  }

  /** Others have changed this. Resolves when the kernel has dropped it, or after `dropMsMax`. */
  changed({ inos, contents, entries }: Changes): Promise<void> {
    const changed = new Set(contents);
    for (const ino of contents) this.#pages.delete(ino);
    const caches = this.#caches;
    if (!caches) return Promise.resolve();
    const drops = entries.map(({ parent, name }) => caches.dropEntry(parent, Buffer.from(name)));
    for (const ino of inos) {
      drops.push(changed.has(ino) ? this.#dropPages(ino) : caches.dropNode(ino, { pages: false }));
    }
    return this.#within(drops);
  }

  /** What this mount has of the contents of `ino` may not be what they are. */
  dropContents(ino: Ino): void {
    this.#pages.delete(ino);
    void this.#within([this.#dropPages(ino)]);
  }

  #dropPages(ino: Ino): Promise<void> {
    const drop = this.#caches?.dropNode(ino, { pages: true }) ?? Promise.resolve();
    const before = this.#dropping.get(ino);
    const all: Promise<unknown> = Promise.allSettled([drop, before]).finally(() => {
      if (this.#dropping.get(ino) === all) this.#dropping.delete(ino);
    });
    this.#dropping.set(ino, all);
    return drop;
  }

  /** Resolves when the kernel has dropped what it was told to drop of the file; maybe at once. */
  pagesDropped(ino: Ino): Promise<unknown> | undefined {
    return this.#dropping.get(ino);
  }

  allChanged(): Promise<void> {
    this.#pages.clear();
    return this.#within([this.#caches?.dropAll() ?? Promise.resolve()]);
  }

  async #within(drops: readonly Promise<void>[]): Promise<void> {
    const done = new AbortController();
    const all = Promise.all(drops)
      .catch((error: unknown) => this.#log.warn("kernel.drop-failed", { error }))
      .finally(() => done.abort());
    await Promise.race([all, sleep(this.#clock, dropMsMax, done.signal)]);
    if (!done.signal.aborted) this.#log.warn("kernel.drop-slow", { drops: drops.length });
  }
}

/** What the kernel may keep. */
export function kernelOps(context: Context): Group {
  const { kernel, nodes, cache, master, writeBack } = context;
  const validMs = (node: Node, what: "attributes" | "names"): number => {
    const ref = nodes.find(node);
    if (!ref || ref.kind === "snapshots") return 0;
    if (ref.kind === "frozen") return frozenMs;
    const known =
      what === "names"
        ? cache.knowsNames(ref.ino)
        : cache.attr(ref.ino) !== undefined && writeBack.pending(ref.ino) === undefined;
    // Should this program be stopped, the kernel believes nothing for longer than the master waits.
    return known ? master.believesForMs : 0;
  };
  return {
    mounted: (caches) => kernel.mounted(caches),
    validMs,
  };
}
