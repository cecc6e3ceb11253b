import type { Ino } from "../../protocol/id.ts";
import type { Touched } from "../namespace/committer.ts";

/** What a mount may believe of an inode until it is told otherwise. */
export const lease = {
  /** Its attributes and extended attributes. */
  attributes: 1,
  /** The entries in it: which names there are, which there are not, and what they stand for. */
  names: 2,
  /** Its contents. */
  contents: 4,
} as const;

/**
 * Inodes that one mount may have leases on. Each costs about 50 bytes here. A mount that reaches
 * this is told to drop everything, and begins anew.
 */
const leasesMax = 400_000;

/** What of a change a mount has to be told. */
export interface Told {
  inos: Ino[];
  /** Those of `inos` whose contents have changed. */
  contents: Ino[];
  entries: { parent: Ino; name: Buffer }[];
}

/**
 * What one mount may have cached. A lease begins when the mount is told something, in the same step
 * in which that is read, and ends when the mount is told that it is not so any more.
 *
 * Attributes are asked for again after each change; names and contents are leased for as long as
 * the mount does not begin anew, since it drops only the name that has changed.
 */
export class Leases {
  readonly #bits = new Map<Ino, number>();
  readonly #most: number;
  /** More has been leased than is remembered: the mount has to drop everything. */
  overflowed = false;

  constructor(most = leasesMax) {
    this.#most = most;
  }

  get size(): number {
    return this.#bits.size;
  }

  grant(ino: Ino, bits: number): void {
    const had = this.#bits.get(ino) ?? 0;
    if ((had | bits) === had) return;
    if (this.#bits.size >= this.#most && had === 0) {
      this.#bits.clear();
      this.overflowed = true;
    }
    this.#bits.set(ino, had | bits);
  }

  /** What of `touched` the mount may have cached, and has no lease on any more. */
  take(touched: Touched): Told {
    const told: Told = { inos: [], contents: [], entries: [] };
    for (const ino of touched.gone) this.#bits.delete(ino);
    for (const ino of touched.inos) {
      const had = this.#bits.get(ino) ?? 0;
      const changed = touched.contents.has(ino);
      if ((had & lease.attributes) === 0 && !(changed && (had & lease.contents) !== 0)) continue;
      told.inos.push(ino);
      if (changed) told.contents.push(ino);
      this.#keep(ino, had & ~(lease.attributes | (changed ? lease.contents : 0)));
    }
    for (const entry of touched.entries) {
      if (((this.#bits.get(entry.parent) ?? 0) & lease.names) !== 0) told.entries.push(entry);
    }
    return told;
  }

  #keep(ino: Ino, bits: number): void {
    if (bits === 0) this.#bits.delete(ino);
    else this.#bits.set(ino, bits);
  }

  /** The mount has dropped everything. */
  clear(): void {
    this.#bits.clear();
    this.overflowed = false;
  }
}
