/** The `-o` string for libfuse 2, and which further options a user may give. */

import { UserError } from "../../common/program.ts";
import type { MountOptions } from "./filesystem.ts";
import { splitOption } from "./option-list.ts";

/** fuse-native copies the option string into a buffer of 1024 bytes and cuts the rest off. */
const optionBytesMax = 1000;

/** What libfuse 2.9 takes per request; asking for more is no error and has no effect. */
const requestBytes = 128 * 1024;

const flag = /^$/;
const seconds = /^\d+(\.\d+)?$/;
const count = /^\d{1,9}$/;
const octal = /^[0-7]{1,4}$/;
/** No comma, which separates options, and no backslash, which libfuse takes as an escape. */
const text = /^[^,\\\0\n]{1,200}$/;

/**
 * Options for libfuse or the kernel that make sense here, and the form of their values. libfuse
 * answers others with several lines on standard error, some only after it has mounted; so they
 * never reach it. Left out on purpose: hard_remove and nopath (an unlinked file's open descriptors
 * would break), max_read, intr (no effect), auto_unmount, modules, noforget, fd, user_id, group_id,
 * blkdev.
 */
const known = new Map<string, RegExp>([
  ...["suid", "nosuid", "dev", "nodev", "exec", "noexec"].map((name) => [name, flag] as const),
  ...["sync", "async", "dirsync", "nonempty", "debug"].map((name) => [name, flag] as const),
  ...["kernel_cache", "auto_cache", "direct_io", "sync_read"].map((name) => [name, flag] as const),
  ["negative_timeout", seconds],
  ["max_background", count],
  ["congestion_threshold", count],
  ["max_readahead", count],
  ["max_write", count],
  ["uid", count],
  ["gid", count],
  ["umask", octal],
  ["fsname", text],
  ["subtype", /^[A-Za-z0-9_.-]{1,32}$/],
]);

/**
 * Access times are the filesystem's matter, as the kernel does not keep them for a FUSE mount, and
 * libfuse 2 does not know all of these.
 */
const ignored = new Set([
  ...["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime", "diratime"],
  ...["nodiratime", "lazytime", "nolazytime"],
]);

/** A `UserError` for a further option that libfuse must not see. */
export function checkNativeOptions(options: readonly string[]): void {
  for (const option of options) {
    const fault = optionFault(option);
    if (fault !== undefined) throw new UserError(fault);
  }
}

function optionFault(option: string): string | undefined {
  const [name, value] = splitOption(option);
  if (value === undefined && ignored.has(name)) return undefined;
  const form = known.get(name);
  if (form === undefined) return `unknown mount option '${name}'`;
  if (form === flag && value !== undefined) return `mount option '${name}' takes no value`;
  if (form !== flag && value === undefined) return `mount option '${name}' needs a value`;
  return form.test(value ?? "") ? undefined : `mount option '${option}' has a wrong value`;
}

/**
 * The value for fuse-native's `fsname`, after which all other options follow: its own option code
 * has no words for most of them, and leaves out those that are 0. A `UserError` for what is not
 * possible.
 */
export function fsnameWithOptions(options: MountOptions, nonEmpty: boolean): string {
  checkNativeOptions(options.extra);
  const given = new Map(options.extra.filter((name) => !ignored.has(name)).map(splitOption));
  const defaults = new Map<string, string | undefined>([
    ["subtype", "gfs"],
    ["default_permissions", undefined],
    ["use_ino", undefined],
    ["big_writes", undefined], // Else each page of a write is a request.
    ["max_write", String(requestBytes)],
    ["max_readahead", String(requestBytes)],
    ["entry_timeout", String(options.entryTimeout)],
    ["attr_timeout", String(options.attrTimeout)],
    ["ac_attr_timeout", String(options.attrTimeout)],
    ["negative_timeout", "0"],
    [options.readOnly ? "ro" : "rw", undefined],
  ]);
  if (options.allowOther) defaults.set("allow_other", undefined);
  if (nonEmpty) defaults.set("nonempty", undefined);
  const all = new Map([...defaults, ...given]);
  const fsname = all.get("fsname") ?? "gfs";
  all.delete("fsname");
  const joined = [fsname, ...[...all].map(joinOption)].join(",");
  if (Buffer.byteLength(joined) > optionBytesMax)
    throw new UserError(`the mount options are longer than ${optionBytesMax} bytes`);
  return joined;
}

function joinOption([name, value]: [string, string | undefined]): string {
  return value === undefined ? name : `${name}=${value}`;
}
