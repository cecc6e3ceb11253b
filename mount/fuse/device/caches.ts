import { constants } from "node:os";
import { type Clock, sleep, type Timer } from "../../../common/clock.ts";
import type { Log } from "../../../common/log.ts";
import type { KernelCaches, Node } from "../filesystem.ts";
import type { Channel } from "./channel.ts";
import { NOTIFY_INC_EPOCH, NOTIFY_INVAL_ENTRY, NOTIFY_INVAL_INODE } from "./flags.ts";
import { minorWithEpoch } from "./init.ts";
import type { OpenTable } from "./open-table.ts";
import type { Busy, References } from "./references.ts";
import { notifyInvalEntryOut, notifyInvalInodeOut, outHeader } from "./structures.ts";

const { ENOENT, ENOBUFS, ENODEV, ENOTCONN, ECANCELED, ECONNABORTED } = constants.errno;

/** Notifications of `dropAll` under way: enough to keep the thread busy, few enough to queue. */
const dropAllWindow = 128;
/** `ENOBUFS`: megabytes of notifications wait for a lock. Tried again so often. */
const retryMs = 10;
/** So often an inode is dropped of which the kernel says that it does not have it. */
const unknownMax = 20;
/**
 * With a kernel that has no FUSE_NOTIFY_INC_EPOCH (before 7.44, Linux 6.16) a name may be believed
 * no longer than this, whatever the filesystem allows: there are moments when such a kernel cannot
 * be told to drop one (see `KernelCacheControl`).
 */
const namesMsMaxWithoutEpoch = 1000;

/** So long a file may be read and written before the notification about its pages has to wait. */
const postponedMsMax = 100;

interface Environment {
  channel: Channel;
  references: References;
  /** Requests under way by the directory whose lock the asking process holds. */
  names: Busy;
  /** Requests under way by the file that they read pages of, or write. */
  pages: Busy;
  clock: Clock;
  log: Log;
  /** Whose listings are out of date. */
  open: Pick<OpenTable, "dropListings">;
}

/**
 * Tells the kernel what it must not believe any more.
 *
 * A notification waits in the kernel for locks: FUSE_NOTIFY_INVAL_ENTRY for the directory's, which
 * a process holds while it waits for our answer to its LOOKUP, CREATE or READDIR there, and
 * FUSE_NOTIFY_INVAL_INODE with pages for those that a READ or WRITE under way has locked. Such an
 * answer may in turn wait for another mount to drop something, and that mount's for us. So:
 *
 * - All that may wait goes through a thread of the channel, and no answer waits for it.
 * - A name in a directory that is busy is dropped by raising the connection's epoch
 *   (FUSE_NOTIFY_INC_EPOCH): every name that the kernel has, or is being told by an answer under
 *   way, is looked up again at its next use. That takes no lock and is done when it returns, at the
 *   price of a LOOKUP for each name in use. The same is done when a directory becomes busy while a
 *   notification is on its way.
 * - Kernels without the epoch get the notification, but it is not waited for when the directory is
 *   busy; they believe names for a second at most, so an old one may still be seen for so long.
 * - Pages of a file that is being read or written are dropped as soon as that is done, which is not
 *   waited for: what such a READ was told may be seen until then, as if it had come a little
 *   earlier. Attributes are dropped at once. Of a file that is never idle the notification is sent
 *   after a while all the same, and waits in the kernel; until it is done it holds up those behind
 *   it.
 */
export class KernelCacheControl implements KernelCaches {
  readonly #environment: Environment;
  readonly #hasEpoch: boolean;
  /** Who waits for a notification about a name in the directory. */
  readonly #waiting = new Map<Node, Set<() => void>>();
  /** Files whose pages are dropped once nobody reads or writes them. */
  readonly #postponed = new Map<Node, Timer>();
  #ended = false;

  constructor(environment: Environment, { minor }: { minor: number }) {
    this.#environment = environment;
    this.#hasEpoch = minor >= minorWithEpoch;
  }

  /** The kernel has no more than this time in ms to believe a name. */
  get namesMsMax(): number {
    return this.#hasEpoch ? Infinity : namesMsMaxWithoutEpoch;
  }

  async dropEntry(parent: Node, name: Buffer): Promise<void> {
    const { references, names, open } = this.#environment;
    open.dropListings(parent);
    if (this.#ended || !references.has(parent)) return;
    if (names.has(parent) && this.#hasEpoch) return this.#raiseEpoch();
    const dropped = this.#send(invalEntry(parent, name));
    if (names.has(parent)) return;
    await this.#unlessBusy(parent, dropped);
  }

  async dropNode(node: Node, { pages }: { pages: boolean }): Promise<void> {
    const { references, pages: busyPages, open } = this.#environment;
    if (pages) open.dropListings(node);
    if (this.#ended || !references.has(node)) return;
    if (!pages || !busyPages.has(node)) return this.#dropInode(node, pages);
    this.#postpone(node);
    await this.#dropInode(node, false);
  }

  async dropAll(): Promise<void> {
    const { references, clock, open } = this.#environment;
    open.dropListings();
    if (this.#ended) return;
    if (this.#hasEpoch) this.#raiseEpoch();
    const nodes = references.nodes();
    const work = async (): Promise<void> => {
      for (let node = nodes.pop(); node !== undefined; node = nodes.pop())
        await this.dropNode(node, { pages: true });
    };
    const windows = Array.from({ length: dropAllWindow }, work);
    if (!this.#hasEpoch) windows.push(sleep(clock, namesMsMaxWithoutEpoch));
    await Promise.all(windows);
  }

  /** A request has begun whose process holds the lock of this directory. */
  becameBusy(directory: Node): void {
    const waiting = this.#waiting.get(directory);
    if (waiting === undefined) return;
    if (this.#hasEpoch) this.#raiseEpoch();
    for (const resolve of waiting) resolve();
  }

  /** The last request has ended that read or wrote this file. */
  becameIdle(file: Node): void {
    const timer = this.#postponed.get(file);
    if (timer === undefined) return;
    timer.cancel();
    this.#postponed.delete(file);
    void this.#send(invalInode(file, true));
  }

  /** The mount is gone: there is nothing to drop any more. */
  end(): void {
    this.#ended = true;
    for (const timer of this.#postponed.values()) timer.cancel();
    this.#postponed.clear();
    for (const waiting of this.#waiting.values()) for (const resolve of waiting) resolve();
  }

  #postpone(file: Node): void {
    if (this.#postponed.has(file)) return;
    const fire = (): void => this.becameIdle(file);
    this.#postponed.set(file, this.#environment.clock.timer(postponedMsMax, fire));
  }

  #raiseEpoch(): void {
    const { channel, log } = this.#environment;
    const result = channel.notifyNow(epochMessage);
    if (result < 0 && !gone(result)) log.warn("fuse.epoch-failed", { errno: -result });
  }

  /** Resolves when `dropped` does, or a request is under way that it may have to wait for. */
  async #unlessBusy(directory: Node, dropped: Promise<unknown>): Promise<void> {
    const waiting = this.#waiting.get(directory) ?? new Set();
    this.#waiting.set(directory, waiting);
    let wake: () => void = () => undefined;
    const busy = new Promise<void>((resolve) => (wake = resolve));
    waiting.add(wake);
    try {
      await Promise.race([dropped, busy]);
    } finally {
      waiting.delete(wake);
      if (waiting.size === 0) this.#waiting.delete(directory);
    }
  }

  /**
   * ENOENT: the kernel has no such inode. It may have been given it a moment ago, by an answer that
   * the asking process has not taken up yet, with the attributes that are to be dropped.
   */
  async #dropInode(node: Node, pages: boolean): Promise<void> {
    const { references, clock } = this.#environment;
    for (let attempt = 1; ; attempt += 1) {
      const result = await this.#send(invalInode(node, pages));
      if (result !== -ENOENT || !references.has(node) || attempt === unknownMax) return;
      await sleep(clock, retryMs);
    }
  }

  /** Resolves with 0 or a negative errno; if that is no reason to worry, nobody needs to look. */
  async #send(message: Buffer): Promise<number> {
    const { channel, clock, log } = this.#environment;
    while (!this.#ended) {
      const result = await channel.notify(message);
      if (result >= 0 || result === -ENOENT || gone(result)) return result;
      if (result !== -ENOBUFS) {
        log.warn("fuse.notify-failed", { errno: -result });
        return result;
      }
      await sleep(clock, retryMs);
    }
    return 0;
  }
}

/** The mount has ended, so it believes nothing. */
function gone(result: number): boolean {
  return [-ENODEV, -ENOTCONN, -ECANCELED, -ECONNABORTED].includes(result);
}

/** A notification is an answer to no request, with its code in the place of an errno. */
function notification(code: number, bytes: number): Buffer {
  const message = Buffer.alloc(outHeader.byteLength + bytes);
  outHeader.len.set(message, 0, message.length);
  outHeader.error.set(message, 0, code);
  return message;
}

const epochMessage = notification(NOTIFY_INC_EPOCH, 0);

function invalEntry(parent: Node, name: Buffer): Buffer {
  const nameAt = outHeader.byteLength + notifyInvalEntryOut.byteLength;
  const message = notification(
    NOTIFY_INVAL_ENTRY,
    notifyInvalEntryOut.byteLength + name.length + 1,
  );
  notifyInvalEntryOut.parent.set(message, outHeader.byteLength, parent);
  notifyInvalEntryOut.namelen.set(message, outHeader.byteLength, name.length);
  name.copy(message, nameAt);
  return message;
}

/** A negative offset: attributes, xattrs and ACLs only. A length of 0: to the end. */
function invalInode(node: Node, pages: boolean): Buffer {
  const message = notification(NOTIFY_INVAL_INODE, notifyInvalInodeOut.byteLength);
  notifyInvalInodeOut.ino.set(message, outHeader.byteLength, node);
  notifyInvalInodeOut.off.set(message, outHeader.byteLength, pages ? 0 : -1);
  return message;
}
