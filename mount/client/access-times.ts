import type { Clock } from "../../common/clock.ts";
import type { Ino } from "../../protocol/id.ts";
import { accessesMax } from "../../protocol/limits.ts";
import { access } from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import type { MasterClient } from "./master-client.ts";
import type { MetaCache } from "./meta-cache.ts";

/** As with relatime: an atime after mtime and ctime moves once a day. */
const staleNs = 24n * 3_600n * 1_000_000_000n;
/** Noted and not told yet. More than a mount opens in a second; beyond it, reading leaves none. */
const notedMax = 16 * accessesMax;

interface Access {
  atime: bigint;
  /** The inode's when it was read: what has changed since keeps its own atime. */
  ctime: bigint;
}

/**
 * When files, directories and symlinks were last read through this mount. The kernel leaves that to
 * the filesystem. As with relatime (mount(8)) most reading leaves no trace. What does is noted
 * here, shown at once, and told to the master in batches, so that no read waits for it. Should the
 * mount die before, it is lost.
 */
export class AccessTimes {
  readonly #noted = new Map<Ino, Access>();
  readonly #clock: Clock;
  readonly #cache: MetaCache;
  readonly #master: Pick<MasterClient, "read">;
  readonly #enabled: boolean;

  /** `enabled` false: nothing is noted (noatime). */
  constructor(options: {
    clock: Clock;
    cache: MetaCache;
    master: Pick<MasterClient, "read">;
    enabled: boolean;
  }) {
    this.#enabled = options.enabled;
    this.#clock = options.clock;
    this.#cache = options.cache;
    this.#master = options.master;
  }

  /** The inode, which has these attributes, is being read. */
  note({ ino, atime, mtime, ctime }: Attr): void {
    if (!this.#enabled || this.#noted.size >= notedMax) return;
    const now = this.#clock.wallNs();
    const known = this.#noted.get(ino)?.atime ?? atime;
    if (known > mtime && known > ctime && now - known < staleNs) return;
    this.#noted.set(ino, { atime: now, ctime });
  }

  /** The attributes with what the master has not been told. */
  shown(attr: Attr): Attr {
    const noted = this.#noted.size === 0 ? undefined : this.#noted.get(attr.ino);
    if (!noted || noted.ctime !== attr.ctime || noted.atime <= attr.atime) return attr;
    return { ...attr, atime: noted.atime };
  }

  /** Tells the master. */
  async tell(): Promise<void> {
    while (this.#noted.size > 0) {
      const batch = [...this.#noted].slice(0, accessesMax);
      const accesses = batch.map(([ino, noted]) => ({ ino, ...noted }));
      await this.#master.read(access, { accesses });
      for (const [ino, noted] of batch) this.#told(ino, noted);
    }
  }

  #told(ino: Ino, told: Access): void {
    const attr = this.#cache.attr(ino);
    // The master tells nobody of it: what is cached here has to be brought in line.
    if (attr) this.#cache.putAttr(this.shown(attr), this.#cache.ticket());
    if (this.#noted.get(ino) === told) this.#noted.delete(ino);
  }
}
