/** What `-o` may say to the device binding, beside what option-list.ts takes for itself. */

import { UserError } from "../../../common/program.ts";
import { splitOption } from "../option-list.ts";

/** Flags of mount(2), include/uapi/linux/mount.h. */
const flag = {
  ro: 1,
  nosuid: 2,
  nodev: 4,
  noexec: 8,
  sync: 16,
  dirsync: 128,
  nosymfollow: 256,
  noatime: 1024,
  nodiratime: 2048,
  silent: 32_768,
  relatime: 1 << 21,
  strictatime: 1 << 24,
  lazytime: 1 << 25,
} as const;

type Flag = keyof typeof flag;

/** The options that take back a flag, or what the kernel does by itself. */
const opposites = new Map<string, Flag>([
  ["rw", "ro"],
  ["suid", "nosuid"],
  ["dev", "nodev"],
  ["exec", "noexec"],
  ["async", "sync"],
  ["symfollow", "nosymfollow"],
  ["atime", "noatime"],
  ["diratime", "nodiratime"],
  ["loud", "silent"],
  ["norelatime", "relatime"],
  ["nostrictatime", "strictatime"],
  ["nolazytime", "lazytime"],
]);

/** Flags of which fusermount3 knows the names; the others matter little to a mount of a user. */
const helperFlags: readonly Flag[] = ["ro", "noexec", "sync", "dirsync", "noatime"];

/** For the kernel's security modules, as they are. */
const labels = new Set(["context", "fscontext", "defcontext", "rootcontext"]);

/** No comma, which separates options, and no backslash, which fusermount3 takes as an escape. */
const text = /^[^,\\\0\n]{1,200}$/;

/** How far the kernel may be told to read ahead. */
const readAheadBytesMax = 1 << 30;

/** What libfuse does itself: it shows other owners and rights, or says so in FUSE_INIT. */
const ofLibfuse = new Set(["uid", "gid", "umask", "max_background", "congestion_threshold"]);

export interface DeviceOptions {
  /** Flags of mount(2). */
  flags: number;
  source: string;
  /** The kernel's own options, for the end of mount(2)'s data. */
  data: readonly string[];
  /** From `max_readahead`. */
  readAheadBytes?: number;
}

/**
 * Parses the further options; a later one overrides an earlier. A `UserError` for one that is
 * unknown, malformed, or not for this user: without privileges a mount is nosuid and nodev.
 */
export function parseDeviceOptions(
  options: readonly string[],
  { source, privileged }: { source: string; privileged: boolean },
): DeviceOptions {
  let flags = privileged ? 0 : flag.nosuid | flag.nodev;
  const parsed: Omit<DeviceOptions, "flags"> & { data: string[] } = { source, data: [] };
  for (const option of options) {
    const [name, value] = splitOption(option);
    const opposite = opposites.get(name);
    if (isFlag(name) || opposite) {
      if (value !== undefined) throw new UserError(`mount option '${name}' takes no value`);
      if (isFlag(name)) flags |= flag[name];
      else if (opposite) flags &= ~flag[opposite];
      if (!privileged && (name === "suid" || name === "dev"))
        throw new UserError(`mount option '${name}' is for root only`);
    } else {
      takeValue(parsed, name, value);
    }
  }
  return { flags, ...parsed };
}

/** The options for fusermount3 (or fusermount), which sets nosuid and nodev by itself. */
export function helperOptions({ flags, source, data }: DeviceOptions): string[] {
  const names = helperFlags.filter((name) => (flags & flag[name]) !== 0);
  return [`fsname=${source}`, "subtype=gfs", ...names, ...data];
}

function isFlag(name: string): name is Flag {
  return Object.hasOwn(flag, name);
}

function takeValue(
  parsed: Omit<DeviceOptions, "flags"> & { data: string[] },
  name: string,
  value: string | undefined,
): void {
  if (ofLibfuse.has(name))
    throw new UserError(`mount option '${name}' is for --binding fuse-native only`);
  const number = name === "max_readahead";
  if (!number && !labels.has(name) && name !== "fsname")
    throw new UserError(`unknown mount option '${name}'`);
  if (value === undefined) throw new UserError(`mount option '${name}' needs a value`);
  const good = number
    ? /^\d{1,10}$/.test(value) && Number(value) <= readAheadBytesMax
    : text.test(value);
  if (!good) throw new UserError(`mount option '${name}=${value}' has a wrong value`);
  if (number) parsed.readAheadBytes = Number(value);
  else if (name === "fsname") parsed.source = value;
  else parsed.data.push(`${name}=${value}`);
}
