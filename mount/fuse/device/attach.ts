import { closeSync, openSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { constants } from "node:os";
import type { Clock } from "../../../common/clock.ts";
import { UserError } from "../../../common/program.ts";
import { runCommand } from "../command.ts";
import { mountAt, readMountTable } from "../mount-table.ts";
import { prepareMountpoint, unmountDirectory } from "../mountpoint.ts";
import { loadAddon } from "./addon.ts";
import { type Channel, DeviceChannel } from "./channel.ts";
import { parseDeviceOptions } from "./options.ts";

/** The type in /proc/self/mountinfo: `fuse.` and what fstab says after it. */
const mountType = "fuse.gfs";
/** The largest READ; the kernel takes the smaller of this and what INIT's `max_pages` allows. */
const readBytesMax = 1 << 20;
/** Aborting is writing a byte, or umount(8) of a mount that answers nothing. */
const abortMsMax = 10_000;

export interface AttachOptions {
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
  /** Unmounts from outside, while the channel is served. `busy` while it is in use, unless lazy. */
  unmount(options: { lazy: boolean }): Promise<void>;
}

/**
 * Mounts and opens the channel to the kernel, on which FUSE_INIT waits to be read. A `UserError`
 * for what is wrong with the mount point, the options, the machine or the user's rights.
 */
export async function attach(options: AttachOptions, clock: Clock): Promise<Attachment> {
  const addon = loadAddon();
  const { path: mountpoint, deadRemoved } = await prepareMountpoint(options.mountpoint, clock);
  const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0];
  const { flags, source } = parseDeviceOptions([options.readOnly ? "ro" : "rw", ...options.extra], {
    source: options.source,
    privileged: uid === 0,
  });
  const device = openDevice();
  const data = [
    `fd=${device},rootmode=40000,user_id=${uid},group_id=${gid}`,
    `default_permissions,max_read=${readBytesMax}`,
    ...(options.allowOther ? ["allow_other"] : []),
  ];
  const result = addon.mount(source, mountpoint, mountType, flags, data.join(","));
  if (result < 0) {
    closeSync(device);
    throw new UserError(mountRefusal(options.mountpoint, -result));
  }
  const connection = await connectionAt(mountpoint);
  const abort = (): Promise<void> => abortConnection({ connection, mountpoint, clock });
  const channel = new DeviceChannel(device, { clock, abort });
  const unmount = ({ lazy }: { lazy: boolean }): Promise<void> =>
    unmountDirectory(mountpoint, { lazy, clock });
  return { channel, mountpoint, deadRemoved, unmount };
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
    default: {
      const found = Object.entries(constants.errno).find(([, number]) => number === errno);
      return `${given}: mounting failed: ${found?.[0] ?? errno}`;
    }
  }
}

/** The number of the FUSE connection in /sys/fs/fuse/connections: the minor number of st_dev. */
async function connectionAt(mountpoint: string): Promise<string | undefined> {
  return mountAt(await readMountTable(), mountpoint)?.device.split(":")[1];
}

/**
 * Ends the connection: by its file, if fusectl is mounted; else by a forced umount(8), which does
 * so before it finds that the mount is in use. Best effort: there is nothing else to try.
 */
async function abortConnection(given: {
  connection: string | undefined;
  mountpoint: string;
  clock: Clock;
}): Promise<void> {
  const { connection, mountpoint, clock } = given;
  if (connection === undefined) return;
  try {
    await writeFile(`/sys/fs/fuse/connections/${connection}/abort`, "1", { flag: "r+" });
  } catch {
    await runCommand(["umount", "-f", mountpoint], { clock, limitMs: abortMsMax });
  }
}
