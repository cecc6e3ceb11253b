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

/** What the session with the kernel is asked to do; each is absent unless it was given. */
export interface SessionOptions {
  /** Show every file as owned by these, whoever owns it. */
  uid?: number;
  gid?: number;
  /** Permission bits that no file shows. */
  umask?: number;
  /** Background requests (readahead, asynchronous writes) that the kernel has in flight at most. */
  maxBackground?: number;
  congestionThreshold?: number;
  /** Bytes. */
  maxReadahead?: number;
}

/** The highest user id; the number above it means "none" (chown(2)). */
const idMax = 0xffff_fffe;

const sessionOptions = new Map<string, { key: keyof SessionOptions; max: number; octal?: true }>([
  ["uid", { key: "uid", max: idMax }],
  ["gid", { key: "gid", max: idMax }],
  ["umask", { key: "umask", max: 0o777, octal: true }],
  ["max_background", { key: "maxBackground", max: 65_535 }], // 16 bits in FUSE_INIT's reply.
  ["congestion_threshold", { key: "congestionThreshold", max: 65_535 }],
  ["max_readahead", { key: "maxReadahead", max: 1 << 30 }],
]);

export interface DeviceOptions {
  /** Flags of mount(2). */
  flags: number;
  source: string;
  /** The kernel's own options, for the end of mount(2)'s data. */
  data: readonly string[];
  session: SessionOptions;
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
  const parsed = { source, data: new Array<string>(), session: {} as SessionOptions };
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
  parsed: { source: string; data: string[]; session: SessionOptions },
  name: string,
  value: string | undefined,
): void {
  const known = sessionOptions.get(name);
  if (!known && !labels.has(name) && name !== "fsname")
    throw new UserError(`unknown mount option '${name}'`);
  if (value === undefined) throw new UserError(`mount option '${name}' needs a value`);
  const digits = known?.octal ? /^[0-7]{1,4}$/ : /^\d{1,10}$/;
  const number = Number.parseInt(value, known?.octal ? 8 : 10);
  if (known ? !digits.test(value) || number > known.max : !text.test(value))
    throw new UserError(`mount option '${name}=${value}' has a wrong value`);
  if (known) parsed.session[known.key] = number;
  else if (name === "fsname") parsed.source = value;
  else parsed.data.push(`${name}=${value}`);
}
