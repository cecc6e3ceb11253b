import { LRUCache } from "lru-cache";
import type { Ino } from "../../protocol/id.ts";
import type { Attr } from "../../protocol/shapes.ts";

/** About 300 bytes each: bounded whatever the filesystem's size (P8). */
const attrsMax = 50_000;
const entriesMax = 100_000;
const xattrsMax = 20_000;

/**
 * What this mount knows of inodes and names. It stays valid until the master says that another
 * mount changed it, or the connection to the master is lost. An answer is only kept if nothing was
 * invalidated while it was on its way: take a `ticket` before asking, give it back with the answer.
 */
export class MetaCache {
  readonly #attrs = new LRUCache<Ino, Attr>({ max: attrsMax });
  /** 0: known not to exist. */
  readonly #entries = new LRUCache<string, Ino | 0>({ max: entriesMax });
  readonly #xattrs = new LRUCache<Ino, Map<string, Buffer | undefined>>({ max: xattrsMax });
  #invalidations = 0;

  ticket(): number {
    return this.#invalidations;
  }

  attr(ino: Ino): Attr | undefined {
    return this.#attrs.get(ino);
  }

  putAttr(attr: Attr, ticket: number): void {
    if (ticket === this.#invalidations) this.#attrs.set(attr.ino, attr);
  }

  /** The inode of a name, 0 if there is none, undefined if that is not known. */
  entry(parent: Ino, name: Buffer): Ino | 0 | undefined {
    return this.#entries.get(entryKey(parent, name));
  }

  putEntry(parent: Ino, name: Buffer, ino: Ino | 0, ticket: number): void {
    if (ticket === this.#invalidations) this.#entries.set(entryKey(parent, name), ino);
  }

  xattr(ino: Ino, name: Buffer): { value: Buffer | undefined } | undefined {
    const known = this.#xattrs.get(ino);
    const key = name.toString("latin1");
    return known?.has(key) ? { value: known.get(key) } : undefined;
  }

  putXattr(ino: Ino, name: Buffer, value: Buffer | undefined, ticket: number): void {
    if (ticket !== this.#invalidations) return;
    const known = this.#xattrs.get(ino) ?? new Map<string, Buffer | undefined>();
    if (known.size < 16) known.set(name.toString("latin1"), value);
    this.#xattrs.set(ino, known);
  }

  /** This mount has changed the inode itself, or an entry of it. */
  dropAttr(ino: Ino): void {
    this.#attrs.delete(ino);
    this.#invalidations += 1;
  }

  dropXattrs(ino: Ino): void {
    this.#xattrs.delete(ino);
    this.#invalidations += 1;
  }

  dropEntry(parent: Ino, name: Buffer): void {
    this.#entries.delete(entryKey(parent, name));
    this.#invalidations += 1;
  }

  invalidate(inos: readonly Ino[], entries: readonly { parent: Ino; name: Buffer }[]): void {
    this.#invalidations += 1;
    for (const ino of inos) {
      this.#attrs.delete(ino);
      this.#xattrs.delete(ino);
    }
    for (const { parent, name } of entries) this.#entries.delete(entryKey(parent, name));
  }

  clear(): void {
    this.#invalidations += 1;
    this.#attrs.clear();
    this.#entries.clear();
    this.#xattrs.clear();
  }
}

function entryKey(parent: Ino, name: Buffer): string {
  return `${parent}/${name.toString("latin1")}`;
}
