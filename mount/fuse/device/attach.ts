import { closeSync, openSync } from "node:fs";
import { constants } from "node:os";
import type { Clock } from "../../../common/clock.ts";
import { UserError } from "../../../common/program.ts";
import { type CommandResult, runCommand } from "../command.ts";
import { checkAllowOther, prepareMountpoint, unmountDirectory } from "../mountpoint.ts";
import { loadAddon } from "./addon.ts";
import { Connection } from "./connection.ts";
import { type Channel, DeviceChannel, systemErrorName } from "./channel.ts";
import {
  type DeviceOptions,
  helperOptions,
  parseDeviceOptions,
  type SessionOptions,
} from "./options.ts";

/** The type in /proc/self/mountinfo: `fuse.` and what fstab says after it. */
const mountType = "fuse.gfs";
/** The largest READ; the kernel takes the smaller of this and what INIT's `max_pages` allows. */
const readBytesMax = 1 << 20;
/** fusermount3 answers at once, unless what the mount point lies on hangs. */
const helperMsMax = 30_000;
interface AttachOptions {
  mountpoint: string;
  /** What mount(8) and df(1) show as the source: HOST:PORT of the master, or `gfs`. */
  source: string;
  readOnly: boolean;
  allowOther: boolean;
  /** Further options, as after -o. */
  extra: readonly string[];
}

/** A mount of ours that the kernel has made, and the way to serve it. */
export interface Attachment {
  channel: Channel;
  /** Absolute, without symlinks. */
  mountpoint: string;
  /** A dead driver's mount was there and has been taken away. */
  deadRemoved: boolean;
  /** Of the options that were given: what concerns the session with the kernel. */
  session: SessionOptions;
  /** Unmounts from outside, while the channel is served. `busy` while it is in use, unless lazy. */
  unmount(options: { lazy: boolean }): Promise<void>;
}

/**
 * Mounts and opens the channel to the kernel, on which FUSE_INIT waits to be read. A `UserError`
 * for what is wrong with the mount point, the options, the machine or the user's rights.
 */
export async function attach(options: AttachOptions, clock: Clock): Promise<Attachment> {
  loadAddon();
  const privileged = process.geteuid?.() === 0;
  const parsed = parseDeviceOptions([options.readOnly ? "ro" : "rw", ...options.extra], {
    source: options.source,
    privileged,
  });
  if (options.allowOther) await checkAllowOther();
  const { path: mountpoint, deadRemoved } = await prepareMountpoint(options.mountpoint, clock);
  const kernelOptions = ["default_permissions", `max_read=${readBytesMax}`];
  if (options.allowOther) kernelOptions.push("allow_other");
  const place = { given: options.mountpoint, mountpoint };
  const device = privileged
    ? mountDirectly(parsed, kernelOptions, place)
    : await mountByHelper(parsed, kernelOptions, { ...place, clock });
  const unmount = ({ lazy }: { lazy: boolean }): Promise<void> =>
    unmountDirectory(mountpoint, { lazy, clock });
  try {
    const connection = await Connection.at(mountpoint, clock);
    const channel = new DeviceChannel(device, { clock, connection });
    return { channel, mountpoint, deadRemoved, session: parsed.session, unmount };
  } catch (error) {
    closeSync(device);
    await unmount({ lazy: true });
    throw error;
  }
}

interface Place {
  /** As the user wrote it. */
  given: string;
  mountpoint: string;
}

/** As root: mount(2). Returns the descriptor of the mounted device. */
function mountDirectly(
  { flags, source, data }: DeviceOptions,
  kernelOptions: readonly string[],
  { given, mountpoint }: Place,
): number {
  const device = openDevice();
  const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
  const first = `fd=${device},rootmode=40000,user_id=${uid},group_id=${gid}`;
  const joined = [first, ...kernelOptions, ...data].join(",");
  const result = loadAddon().mount(source, mountpoint, mountType, flags, joined);
  if (result >= 0) return device;
  closeSync(device);
  throw new UserError(mountRefusal(given, -result));
}

/**
 * Without privileges: fusermount3 mounts, checks that the user may, and sends the descriptor over
 * the socket whose number is in _FUSE_COMMFD. fusermount is the same program of libfuse 2.
 */
async function mountByHelper(
  parsed: DeviceOptions,
  kernelOptions: readonly string[],
  { given, mountpoint, clock }: Place & { clock: Clock },
): Promise<number> {
  for (const program of ["fusermount3", "fusermount"] as const) {
    const options = [...helperOptions(parsed), ...kernelOptions];
    if (program === "fusermount") options.push("nonempty"); // What fusermount3 does anyway.
    const { result, device } = await runHelper([program, options.join(","), mountpoint], clock);
    if (device >= 0) return device;
    if (result.missing) continue;
    if (result.timedOut)
      throw new UserError(`${given}: ${program} does not end within ${helperMsMax / 1000} s`);
    const reason = result.errors.trim().split("\n").at(-1) ?? "";
    throw new UserError(`${given}: ${reason || `${program} failed: ${systemErrorName(-device)}`}`);
  }
  throw new UserError(
    "fusermount3, with which users mount, is missing: install it (package fuse3) or mount as root",
  );
}

async function runHelper(
  [program, options, mountpoint]: [string, string, string],
  clock: Clock,
): Promise<{ result: CommandResult; device: number }> {
  const addon = loadAddon();
  const pair = addon.socketPair();
  if (typeof pair === "number") throw new Error(`socketpair: ${systemErrorName(-pair)}`);
  const [ours, theirs] = pair;
  try {
    const result = await runCommand([program, "-o", options, "--", mountpoint], {
      clock,
      limitMs: helperMsMax,
      descriptor: theirs,
      environment: { _FUSE_COMMFD: "3" },
    });
    return { result, device: addon.receiveDescriptor(ours) };
  } finally {
    closeSync(ours);
    closeSync(theirs);
  }
}

function openDevice(): number {
  try {
    return openSync("/dev/fuse", "r+");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "ENOENT" || code === "ENODEV" || code === "ENXIO")
      throw new UserError("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)");
    throw new UserError(`/dev/fuse cannot be opened: ${String(code)}`);
  }
}

function mountRefusal(given: string, errno: number): string {
  const { EPERM, ENODEV, EINVAL } = constants.errno;
  switch (errno) {
    case EPERM:
      return `${given}: this process may not mount (it needs CAP_SYS_ADMIN, also in a container)`;
    case ENODEV:
      return `${given}: this kernel has no FUSE (modprobe fuse)`;
    case EINVAL:
      return `${given}: the kernel refused the mount options`;
    default:
      return `${given}: mounting failed: ${systemErrorName(errno)}`;
  }
}
