import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { UserError } from "../../../common/program.ts";

/** What a channel's listener is told; the numbers are those of native/addon.h. */
export const channelEvent = {
  /** `value`: bytes of the message, at the start of the channel's buffer. */
  message: 0,
  /** `value`: the errno for which reading ended. The channel stays open. */
  end: 1,
  /** `value`: 0 or the negative errno of the oldest notification that has had no result. */
  notified: 2,
  /** The last event. */
  closed: 3,
} as const;

export type ChannelEvent = (typeof channelEvent)[keyof typeof channelEvent];

/**
 * The native module, native/*.c. A result below 0 is a negative errno; what has a wrong type or
 * size throws a `TypeError` or `RangeError`. A channel is a number, from 1.
 */
export interface Addon {
  /** mount(2). `data` is under a page. */
  mount(source: string, target: string, type: string, flags: number, data: string): number;
  /** socketpair(2) of UNIX stream sockets, closed on exec: two descriptors. */
  socketPair(): [number, number] | number;
  /** A descriptor that came over `socket` (SCM_RIGHTS); -EAGAIN if none has, without waiting. */
  receiveDescriptor(socket: number): number;
  /**
   * A channel over the device of a mount. It owns the descriptor then, reads each message into the
   * start of `buffer` and has a thread that writes notifications.
   */
  open(
    device: number,
    buffer: Uint8Array,
    listener: (event: ChannelEvent, value: number) => void,
  ): number;
  start(channel: number): number;
  /** writev(2) of at most `partsMax` parts. -ENODEV when the channel is closed, as below. */
  reply(channel: number, ...parts: readonly Uint8Array[]): number;
  /** Gives a copy to the thread. -ENOBUFS when 8 MiB are waiting. */
  notify(channel: number, message: Uint8Array): number;
  close(channel: number): number;
}

/** What one `reply` takes. */
export const partsMax = 64;

/** From build/mount/fuse/device/, where tsc puts this file. */
export const modulePath = fileURLToPath(
  new URL("../../../../mount/fuse/device/native/build/Release/gfs_fuse.node", import.meta.url),
);

let loaded: Addon | undefined;

/** Loads the native module at its first use; a `UserError` when it cannot be. */
export function loadAddon(): Addon {
  loaded ??= requireAddon();
  return loaded;
}

function requireAddon(): Addon {
  try {
    return createRequire(import.meta.url)(modulePath) as Addon;
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    const text = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    const reason = code === "MODULE_NOT_FOUND" ? "has not been built" : `cannot be loaded: ${text}`;
    throw new UserError(`the native part of the device binding ${reason}; run: npm run install`);
  }
}
