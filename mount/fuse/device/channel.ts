import { constants } from "node:os";
import { assert } from "../../../common/assert.ts";
import { type Clock, sleep } from "../../../common/clock.ts";
import type { Connection } from "./connection.ts";
import { type Addon, type ChannelEvent, channelEvent, loadAddon, partsMax } from "./addon.ts";

/** A connection to the kernel's FUSE client. */
export interface Channel {
  /**
   * Begins to read. `onRequest` gets each message in a pooled buffer that is reused as soon as it
   * returns, so what must outlive the call is copied. All that is readable is read per wake-up, up
   * to 64 messages per turn of the event loop, so that timers live; promises' reactions run between
   * two messages. `onEnd`, called once: the mount is gone, or reading failed.
   */
  start(handlers: ChannelHandlers): void;
  /**
   * Writes header and payload as one message, at once. Returns 0 or the negative errno (-ENOENT:
   * the request was aborted; -ENODEV: the channel is closed; the caller ignores both).
   */
  reply(parts: readonly Uint8Array[]): number;
  /**
   * The same write from a worker thread, in the order of the calls: notifications block in the
   * kernel on the locks of inodes and pages, so they must never run on the event loop. Copies the
   * message. Resolves with 0 or a negative errno: -ENOENT if the kernel does not know the inode,
   * -ENOBUFS at once when 8 MiB are waiting, -ECANCELED or -ENODEV when the channel is closed.
   */
  notify(message: Uint8Array): Promise<number>;
  /** For the notifications that take no lock (FUSE_NOTIFY_INC_EPOCH, POLL): from the event loop. */
  notifyNow(message: Uint8Array): number;
  /**
   * Stops reading, ends the worker thread, closes the descriptor; requests that were read and not
   * answered end with ECONNABORTED. Idempotent. Never waits for ever: see `DeviceChannel`.
   */
  close(): Promise<void>;
}

export interface ChannelHandlers {
  onRequest(message: Buffer): void;
  /** `error` is absent when the filesystem was unmounted (ENODEV). */
  onEnd(error?: Error): void;
}

/** The largest request: `max_write` of 1 MiB of data; a page holds its header and structure. */
const messageBytesMax = (1 << 20) + 4096;

/** Messages shorter than this have a view that is made once. Most are under 100 bytes. */
const viewBytesMax = 1024;

/**
 * How long a close waits for a notification that is blocked in the kernel, before it aborts the
 * connection and after. Closing the device lets go of most locks at once.
 */
const closeMsMax = 1_000;

const { ENODEV } = constants.errno;

interface Environment {
  clock: Clock;
  /** Is aborted when closing takes too long, and released in the end. */
  connection: Pick<Connection, "abort" | "release">;
}

/**
 * A channel on a descriptor of /dev/fuse that belongs to a mount, which it owns from then on.
 *
 * The descriptor is read on the event loop. The worker thread has a clone of it, so that closing
 * releases the device even while a notification is blocked: the kernel then ends the requests that
 * were read, and their locks. Processes that only queue for such a lock can still send requests
 * that nobody reads; so after a second the connection is aborted, and after another `close` leaves
 * the thread to the kernel.
 */
export class DeviceChannel implements Channel {
  readonly #addon: Addon;
  readonly #environment: Environment;
  readonly #channel: number;
  readonly #buffer = Buffer.alloc(messageBytesMax);
  readonly #views: Buffer[] = [];
  readonly #notifying: ((result: number) => void)[] = [];
  readonly #ended: Promise<void>;
  #handlers: ChannelHandlers | undefined;
  #end: () => void = () => undefined;
  #closed: Promise<void> | undefined;

  /** Throws a plain `Error` when the system refuses; the descriptor is the caller's then. */
  constructor(device: number, environment: Environment) {
    this.#addon = loadAddon();
    this.#environment = environment;
    this.#ended = new Promise((resolve) => (this.#end = resolve));
    const listener = (event: ChannelEvent, value: number): void => this.#on(event, value);
    this.#channel = this.#addon.open(device, this.#buffer, listener);
    if (this.#channel < 0) throw systemError("opening a channel", this.#channel);
  }

  start(handlers: ChannelHandlers): void {
    assert(this.#handlers === undefined, "a channel is started once");
    this.#handlers = handlers;
    const result = this.#addon.start(this.#channel);
    if (result < 0) throw systemError("starting a channel", result);
  }

  reply(parts: readonly Uint8Array[]): number {
    if (parts.length <= partsMax) return this.#addon.reply(this.#channel, ...parts);
    const head = parts.slice(0, partsMax - 1);
    return this.#addon.reply(this.#channel, ...head, Buffer.concat(parts.slice(partsMax - 1)));
  }

  notify(message: Uint8Array): Promise<number> {
    const result = this.#addon.notify(this.#channel, message);
    if (result < 0) return Promise.resolve(result);
    return new Promise((resolve) => this.#notifying.push(resolve));
  }

  notifyNow(message: Uint8Array): number {
    return this.#addon.reply(this.#channel, message);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    const { clock, connection } = this.#environment;
    this.#addon.close(this.#channel);
    if (!(await this.#endsWithin(clock))) {
      await connection.abort();
      await this.#endsWithin(clock);
    }
    connection.release();
  }

  async #endsWithin(clock: Clock): Promise<boolean> {
    const late = new AbortController();
    const slow = sleep(clock, closeMsMax, late.signal).then(() => false);
    const ended = await Promise.race([this.#ended.then(() => true), slow]);
    late.abort();
    return ended;
  }

  #on(event: ChannelEvent, value: number): void {
    switch (event) {
      case channelEvent.message:
        return this.#handlers?.onRequest(this.#view(value));
      case channelEvent.end:
        return this.#handlers?.onEnd(
          value === ENODEV ? undefined : systemError("reading /dev/fuse", -value),
        );
      case channelEvent.notified:
        return this.#notifying.shift()?.(value);
      case channelEvent.closed:
        return this.#end();
    }
  }

  #view(bytes: number): Buffer {
    if (bytes >= viewBytesMax) return this.#buffer.subarray(0, bytes);
    return (this.#views[bytes] ??= this.#buffer.subarray(0, bytes));
  }
}

/** An `Error` with the errno's name as its `code`, for a negative errno. */
function systemError(what: string, result: number): Error {
  const code = systemErrorName(-result);
  return Object.assign(new Error(`${what}: ${code}`), { code });
}

/** For example `ENOENT` for 2. */
export function systemErrorName(errno: number): string {
  const found = Object.entries(constants.errno).find(([, number]) => number === errno);
  return found?.[0] ?? `errno ${errno}`;
}
