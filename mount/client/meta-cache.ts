import { lastUsed } from "../../common/lru.ts";
import type { Epoch, Ino } from "../../protocol/id.ts";
import type { Attr } from "../../protocol/shapes.ts";

/** About 300 bytes each: bounded whatever the filesystem's size (P8). */
const attrsMax = 50_000;
const entriesMax = 100_000;
const directoriesMax = 100_000;
const xattrsMax = 20_000;

/** Changes remembered one by one; an answer asked for before the oldest of them is not kept. */
const changesMax = 20_000;

/**
 * What this mount knows of inodes and names. It stays valid until the master says that another
 * mount changed it, this mount changes it itself, or the master has not answered for too long.
 *
 * An answer is only kept if what it is about did not change while it was on its way: take a
 * `ticket` before asking, also before asking for a change, and give it back with the answer. After
 * the answer is too late: the master's next message, which may take it back, can be handled
 * between its arrival and the code that waits for it.
 */
export class MetaCache {
  readonly #attrs = lastUsed<Ino, Attr>(attrsMax);
  readonly #frozen = lastUsed<string, Attr>(attrsMax);
  /** 0: known not to exist. */
  readonly #entries = lastUsed<string, Ino | 0>(entriesMax);
  /** Directories of which the master tells what changes. */
  readonly #directories = lastUsed<Ino, true>(directoriesMax);
  readonly #xattrs = lastUsed<Ino, Map<string, Buffer | undefined>>(xattrsMax);
  readonly #mayBelieve: () => boolean;
  /** Counts changes. */
  #now = 0;
  /** When an inode or entry was last changed, oldest first. */
  readonly #changes = new Map<string, number>();
  /** Anything may have changed before that. */
  #horizon = 0;

  /** `mayBelieve`: false when the master may have changed things without this mount being told. */
  constructor(mayBelieve: () => boolean = () => true) {
    this.#mayBelieve = mayBelieve;
  }

  ticket(): number {
    return this.#now;
  }

  attr(ino: Ino): Attr | undefined {
    return this.#mayBelieve() ? this.#attrs.get(ino) : undefined;
  }

  /** False, and not kept, if the inode has changed since the ticket. */
  putAttr(attr: Attr, ticket: number): boolean {
    if (!this.#unchanged(inoKey(attr.ino), ticket)) return false;
    this.#attrs.set(attr.ino, attr);
    return true;
  }

  /** As `putAttr`, with the answer to a change that this mount has made. */
  changedAttr(attr: Attr, ticket: number): boolean {
    const known = this.#unchanged(inoKey(attr.ino), ticket);
    // A change of contents can have taken security.capability away.
    if (this.#attrs.get(attr.ino)?.xattrs !== attr.xattrs) this.dropXattrs(attr.ino);
    this.dropAttr(attr.ino);
    return known && this.putAttr(attr, this.#now);
  }

  /** An inode as it was in a snapshot: that does not change. */
  frozen({ ino, at }: { ino: Ino; at: Epoch }): Attr | undefined {
    return this.#frozen.get(`${ino}@${at}`);
  }

  putFrozen({ ino, at }: { ino: Ino; at: Epoch }, attr: Attr): true {
    this.#frozen.set(`${ino}@${at}`, attr);
    return true;
  }

  /** The inode of a name, 0 if there is none, undefined if that is not known. */
  entry(parent: Ino, name: Buffer): Ino | 0 | undefined {
    return this.#mayBelieve() ? this.#entries.get(entryKey(parent, name)) : undefined;
  }

  putEntry(parent: Ino, name: Buffer, ino: Ino | 0, ticket: number): void {
    const key = entryKey(parent, name);
    if (!this.#unchanged(key, ticket)) return;
    this.#entries.set(key, ino);
    this.#directories.set(parent, true);
  }

  /** True if the master tells this mount of changes to the names in `parent`. */
  knowsNames(parent: Ino): boolean {
    return this.#mayBelieve() && this.#directories.has(parent);
  }

  /** As `putEntry`, with the answer to a change that this mount has made. */
  changedEntry(parent: Ino, name: Buffer, ino: Ino | 0, ticket: number): void {
    const known = this.#unchanged(entryKey(parent, name), ticket);
    this.dropEntry(parent, name);
    if (known) this.putEntry(parent, name, ino, this.#now);
  }

  xattr(ino: Ino, name: Buffer): { value: Buffer | undefined } | undefined {
    const known = this.#mayBelieve() ? this.#xattrs.get(ino) : undefined;
    const key = name.toString("latin1");
    return known?.has(key) ? { value: known.get(key) } : undefined;
  }

  putXattr(ino: Ino, name: Buffer, value: Buffer | undefined, ticket: number): void {
    if (!this.#unchanged(xattrKey(ino), ticket)) return;
    const known = this.#xattrs.get(ino) ?? new Map<string, Buffer | undefined>();
    if (known.size < 16) known.set(name.toString("latin1"), value);
    this.#xattrs.set(ino, known);
  }

  /** This mount has changed the inode itself, or an entry of it. */
  dropAttr(ino: Ino): void {
    this.#attrs.delete(ino);
    this.#changed(inoKey(ino));
  }

  dropXattrs(ino: Ino): void {
    this.#xattrs.delete(ino);
    this.#changed(xattrKey(ino));
  }

  dropEntry(parent: Ino, name: Buffer): void {
    const key = entryKey(parent, name);
    this.#entries.delete(key);
    this.#changed(key);
  }

  /** Another mount has changed these. */
  invalidate(inos: readonly Ino[], entries: readonly { parent: Ino; name: Buffer }[]): void {
    for (const ino of inos) {
      this.dropAttr(ino);
      this.dropXattrs(ino);
    }
    for (const { parent, name } of entries) this.dropEntry(parent, name);
  }

  clear(): void {
    this.#now += 1;
    this.#horizon = this.#now;
    this.#changes.clear();
    this.#attrs.clear();
    this.#entries.clear();
    this.#directories.clear();
    this.#xattrs.clear();
  }

  #changed(key: string): void {
    this.#now += 1;
    this.#changes.delete(key);
    this.#changes.set(key, this.#now);
    for (const [oldest, at] of this.#changes) {
      if (this.#changes.size <= changesMax) break;
      this.#changes.delete(oldest);
      this.#horizon = at;
    }
  }

  #unchanged(key: string, ticket: number): boolean {
    return ticket >= this.#horizon && ticket >= (this.#changes.get(key) ?? 0);
  }
}

const inoKey = (ino: Ino): string => `i${ino}`;
const xattrKey = (ino: Ino): string => `x${ino}`;

function entryKey(parent: Ino, name: Buffer): string {
  return `${parent}/${name.toString("latin1")}`;
}
