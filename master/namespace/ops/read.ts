import { type Epoch, type Ino, noIno } from "../../../protocol/id.ts";
import { entriesPerPageMax } from "../../../protocol/limits.ts";
import { isDirectory, isSymlink } from "../../../protocol/mode.ts";
import type { Attr, DirEntry } from "../../../protocol/shapes.ts";
import { StatusError } from "../../../protocol/status.ts";
import { checkXattrName } from "../../../protocol/xattr-names.ts";
import { nameKey, numberKey } from "../../store/bytes.ts";
import { recordAt, rowsAt } from "../../store/history.ts";
import { keyAfter, type StoreReader } from "../../store/store.ts";
import { decodeEntry, decodeInode, decodeXattr, type Inode } from "../../store/tables.ts";
import { attrOf, checkName } from "./common.ts";

/** Finding a name by its inode looks at entries one by one: in a huge directory it gives up. */
const namesLookedAtMax = 10_000;

/**
 * Everything that only reads. `at` is an epoch of a snapshot, or undefined for now; the caller has
 * checked that it is live.
 */
export class NamespaceReader {
  readonly #store: StoreReader;
  readonly #chunkBytes: number;

  constructor(store: StoreReader, chunkBytes: number) {
    this.#store = store;
    this.#chunkBytes = chunkBytes;
  }

  findInode(ino: Ino, at: Epoch | undefined): Inode | undefined {
    const record = recordAt(this.#store, "inode", numberKey(ino), at);
    return record && decodeInode(record);
  }

  inode(ino: Ino, at: Epoch | undefined): Inode {
    const inode = this.findInode(ino, at);
    if (!inode) throw new StatusError("stale", `inode ${ino} does not exist`);
    return inode;
  }

  getattr(ino: Ino, at: Epoch | undefined): Attr {
    return attrOf(ino, this.inode(ino, at), this.#chunkBytes);
  }

  lookup(parent: Ino, name: Buffer, at: Epoch | undefined): Attr {
    const attr = this.find(parent, name, at);
    if (!attr) throw new StatusError("not-found", "no such entry");
    return attr;
  }

  find(parent: Ino, name: Buffer, at: Epoch | undefined): Attr | undefined {
    checkName(name);
    const record = recordAt(this.#store, "entry", nameKey(parent, name), at);
    if (record) {
      const { ino } = decodeEntry(record);
      return this.getattr(ino, at);
    }
    this.#directory(parent, at);
    return undefined;
  }

  /** A directory that has been removed, a moment or a while ago, has no names (as in Linux). */
  #directory(ino: Ino, at: Epoch | undefined): Inode {
    const inode = this.findInode(ino, at);
    if (!inode || inode.nlink === 0) {
      throw new StatusError("not-found", "the directory has been removed");
    }
    if (!isDirectory(inode)) throw new StatusError("not-directory", "not a directory");
    return inode;
  }

  /** Looks up one name after the other, and stops where one does not exist or is no directory. */
  walk(from: Ino, names: readonly Buffer[], at: Epoch | undefined): Attr[] {
    const attrs: Attr[] = [];
    let parent = from;
    for (const name of names) {
      const last = attrs.at(-1);
      if (last && !isDirectory(last)) break;
      const attr = this.find(parent, name, at);
      if (!attr) break;
      attrs.push(attr);
      parent = attr.ino;
    }
    return attrs;
  }

  readlink(ino: Ino, at: Epoch | undefined): Buffer {
    const inode = this.inode(ino, at);
    if (!isSymlink(inode)) {
      throw new StatusError("invalid", "not a symbolic link");
    }
    return inode.target;
  }

  /**
   * A page of entries with their attributes, in byte order of names; and the directory's parent,
   * as far as that is a directory of the same time.
   */
  readdir(
    ino: Ino,
    at: Epoch | undefined,
    page: { after: Buffer | undefined; limit: number; isTop?: boolean },
  ): { entries: DirEntry[]; more: boolean; parent: Ino } {
    const directory = this.#directory(ino, at);
    const parent = page.isTop ? noIno : directory.parent;
    const limit = Math.min(page.limit, entriesPerPageMax);
    const from = page.after === undefined ? undefined : keyAfter(nameKey(ino, page.after));
    const prefix = numberKey(ino);
    const entries: DirEntry[] = [];
    for (const row of rowsAt(this.#store, "entry", { prefix, at, ...(from ? { from } : {}) })) {
      if (entries.length === limit) return { entries, more: true, parent };
      const child = decodeEntry(row.value).ino;
      const inode = this.findInode(child, at);
      if (!inode) throw new StatusError("io-error", `entry of inode ${child}, which is missing`);
      entries.push({
        name: Buffer.from(row.key.subarray(8)),
        attr: attrOf(child, inode, this.#chunkBytes),
      });
    }
    return { entries, more: false, parent };
  }

  getxattr(ino: Ino, name: Buffer, at: Epoch | undefined): Buffer {
    checkXattrName(name);
    this.inode(ino, at);
    const record = recordAt(this.#store, "xattr", nameKey(ino, name), at);
    if (!record) throw new StatusError("no-attribute", "no such attribute");
    return decodeXattr(record).value;
  }

  listxattr(ino: Ino, at: Epoch | undefined): Buffer[] {
    this.inode(ino, at);
    const names: Buffer[] = [];
    for (const { key } of rowsAt(this.#store, "xattr", { prefix: numberKey(ino), at })) {
      names.push(Buffer.from(key.subarray(8)));
    }
    return names;
  }

  /**
   * A path from the root, by walking up; "?" stands for what cannot be found. `budget` says how
   * many names may be looked at for this path and others; it is counted down.
   */
  pathOf(ino: Ino, budget = { names: Infinity }): Buffer {
    const names: Buffer[] = [];
    let child = ino;
    for (let inode = this.findInode(child, undefined); child !== 1;) {
      if (!inode || inode.parent === 0) return Buffer.from(`(inode ${ino}, unlinked)`);
      names.unshift(this.#nameOf(inode.parent, child, budget));
      child = inode.parent;
      inode = this.findInode(child, undefined);
    }
    return Buffer.concat(names.flatMap((name) => [Buffer.from("/"), name]));
  }

  #nameOf(parent: Ino, child: Ino, budget: { names: number }): Buffer {
    let looked = 0;
    if (budget.names <= 0) return Buffer.from("?");
    for (const row of rowsAt(this.#store, "entry", { prefix: numberKey(parent), at: undefined })) {
      if (decodeEntry(row.value).ino === child) return Buffer.from(row.key.subarray(8));
      looked += 1;
      budget.names -= 1;
      if (looked === namesLookedAtMax || budget.names === 0) break;
    }
    return Buffer.from("?");
  }
}
