import { assert } from "../common/assert.ts";
import type { Epoch, Ino } from "../protocol/id.ts";
import {
  copyRange,
  create,
  getxattr,
  link,
  listxattr,
  mkdir,
  mknod,
  readlink,
  release,
  removexattr,
  rmdir,
  setattr,
  setxattr,
  symlink,
  unlink,
} from "../protocol/methods/namespace.ts";
import { fileType, isDirectory, permissionMask, typeMask } from "../protocol/mode.ts";
import type { Attr } from "../protocol/shapes.ts";
import type { NamespaceSession } from "./session.ts";

/**
 * Makes a directory what it was in a snapshot. Files get their old contents by sharing chunks on
 * the master, so nothing is copied; what has not changed since is not touched.
 */

interface RestoreCounts {
  /** Entries looked at. */
  seen: number;
  restored: number;
  removed: number;
}

export class Restore {
  readonly counts: RestoreCounts = { seen: 0, restored: 0, removed: 0 };
  readonly #session: NamespaceSession;
  readonly #at: Epoch;
  readonly #onProgress: (counts: RestoreCounts) => void;
  /** Files with several names: which inode each has become. */
  readonly #linked = new Map<Ino, Ino>();

  constructor(session: NamespaceSession, at: Epoch, onProgress: (counts: RestoreCounts) => void) {
    this.#session = session;
    this.#at = at;
    this.#onProgress = onProgress;
  }

  /** Makes the live directory `target` what `source` was. */
  async directory(source: Attr, target: Ino): Promise<void> {
    const wanted = new Map<string, { name: Buffer; attr: Attr }>();
    for await (const { name, attr } of this.#session.entries(source.ino, this.#at)) {
      wanted.set(name.toString("latin1"), { name: Buffer.from(name), attr });
    }
    const present = new Map<string, Attr>();
    for await (const { name, attr } of this.#session.entries(target, undefined)) {
      const key = name.toString("latin1");
      if (wanted.has(key)) present.set(key, attr);
      else await this.#remove(target, Buffer.from(name), attr);
    }
    for (const [key, { name, attr }] of wanted) {
      await this.#entry(target, name, attr, present.get(key));
    }
    await this.#attributes(source, target);
  }

  async #entry(parent: Ino, name: Buffer, was: Attr, is: Attr | undefined): Promise<void> {
    this.counts.seen += 1;
    this.#onProgress(this.counts);
    if (is && isDirectory(is) && isDirectory(was)) {
      return this.directory(was, is.ino);
    }
    if (is && isSame(was, is)) {
      this.#linked.set(was.ino, is.ino);
      return;
    }
    if (is) await this.#remove(parent, name, is);
    this.counts.restored += 1;
    await this.#make(parent, name, was);
  }

  async #make(parent: Ino, name: Buffer, was: Attr): Promise<void> {
    const owner = { uid: was.uid, gid: was.gid };
    const mode = was.mode & permissionMask;
    switch (was.mode & typeMask) {
      case fileType.directory: {
        const { attr } = await this.#session.mutate(mkdir, { parent, name, mode, ...owner });
        return this.directory(was, attr.ino);
      }
      case fileType.symlink: {
        const request = { ino: was.ino, at: this.#at };
        const { target } = await this.#session.read(readlink, request);
        const { attr } = await this.#session.mutate(symlink, { parent, name, target, ...owner });
        return this.#times(was, attr.ino);
      }
      case fileType.regular:
        return this.#file(parent, name, was);
      default: {
        const request = { parent, name, mode: was.mode, rdev: was.rdev, ...owner };
        const { attr } = await this.#session.mutate(mknod, request);
        return this.#attributes(was, attr.ino);
      }
    }
  }

  async #file(parent: Ino, name: Buffer, was: Attr): Promise<void> {
    const known = was.nlink > 1 ? this.#linked.get(was.ino) : undefined;
    if (known !== undefined) {
      await this.#session.mutate(link, { ino: known, parent, name });
      return;
    }
    const made = await this.#session.mutate(create, {
      parent,
      name,
      mode: was.mode & permissionMask,
      uid: was.uid,
      gid: was.gid,
      exclusive: true,
      write: false,
    });
    const { ino } = made.attr;
    this.#linked.set(was.ino, ino);
    await this.#contents(was, ino);
    await this.#attributes(was, ino);
    await this.#session.read(release, { inos: [ino] });
  }

  /** Gives an empty file the contents of another by sharing its chunks, some at a time. */
  async #contents(was: Attr, ino: Ino): Promise<void> {
    const source = { source: was.ino, at: this.#at };
    for (let offset = 0; offset < was.size;) {
      const range = { offset, targetOffset: offset, length: was.size - offset };
      const { copied } = await this.#session.mutate(copyRange, { ...source, ino, ...range });
      assert(copied > 0, "both files end at the same place");
      offset += copied;
    }
  }

  /** Owner, mode, attributes and, last, times. */
  async #attributes(was: Attr, ino: Ino): Promise<void> {
    await this.#xattrs(was.ino, ino);
    const { uid, gid, atime, mtime } = was;
    const mode = was.mode & permissionMask;
    await this.#session.mutate(setattr, { ino, uid, gid, mode, atime, mtime });
  }

  async #times({ atime, mtime }: Attr, ino: Ino): Promise<void> {
    await this.#session.mutate(setattr, { ino, atime, mtime });
  }

  async #xattrs(source: Ino, ino: Ino): Promise<void> {
    const at = this.#at;
    const { names } = await this.#session.read(listxattr, { ino: source, at });
    const present = await this.#session.read(listxattr, { ino });
    for (const name of present.names) {
      if (names.some((wanted) => wanted.equals(name))) continue;
      await this.#session.mutate(removexattr, { ino, name: Buffer.from(name) });
    }
    for (const name of names.map((n) => Buffer.from(n))) {
      const { value } = await this.#session.read(getxattr, { ino: source, name, at });
      await this.#session.mutate(setxattr, { ino, name, value, mode: "any" });
    }
  }

  async #remove(parent: Ino, name: Buffer, attr: Attr): Promise<void> {
    this.counts.removed += 1;
    if (!isDirectory(attr)) {
      await this.#session.mutate(unlink, { parent, name });
      return;
    }
    const children: { name: Buffer; attr: Attr }[] = [];
    for await (const child of this.#session.entries(attr.ino, undefined)) {
      children.push({ name: Buffer.from(child.name), attr: child.attr });
    }
    for (const child of children) await this.#remove(attr.ino, child.name, child.attr);
    await this.#session.mutate(rmdir, { parent, name });
  }
}

/**
 * ctime moves with every change of an inode: an equal one means the same contents and attributes.
 */
function isSame(was: Attr, is: Attr): boolean {
  return was.ino === is.ino && was.ctime === is.ctime && was.size === is.size;
}
