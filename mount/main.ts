#!/usr/bin/env node
/** gfs-mount: mounts the filesystem of a master. See `usage`. */

import { randomUUID } from "node:crypto";
import path from "node:path";
import yargs from "yargs";
import { type Address, masterAddressDefault, parseAddress } from "../common/address.ts";
import { createLog, expectLogLevel, type Log } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import {
  addressFrom,
  runMain,
  terminationSignal,
  usageError,
  UserError,
} from "../common/program.ts";
import {
  defaultLogFile,
  inBackground,
  reportFailure,
  reportMounted,
  serveUntilUnmounted,
  startInBackground,
} from "./daemon.ts";
import { connectFileSystem } from "./filesystem.ts";
import type { MountOptions } from "./fuse/filesystem.ts";
import { mountDevice } from "./fuse/device/mount.ts";
import { parseDeviceOptions } from "./fuse/device/options.ts";
import { mountFuseNative } from "./fuse/fuse-native.ts";
import { prepareMountpoint } from "./fuse/mountpoint.ts";
import { checkNativeOptions } from "./fuse/native-options.ts";
import { type OptionList, parseOptionList } from "./fuse/option-list.ts";
import { takeStandardError } from "./fuse/standard-error.ts";

const usage = `gfs-mount MOUNTPOINT [options]

Mounts the filesystem of a master on the directory MOUNTPOINT, and goes to the background once
it answers. Unmount it with umount (root) or fusermount -u.`;

const optionsHelp = `Mount options, after -o: ro, soft, hard, timeout=S, master=HOST:PORT, log=FILE,
show_snapshots, allow_other, binding=NAME, fsname=TEXT, those of mount(8), and with --binding
fuse-native entry_timeout=S, attr_timeout=S and others of libfuse.
Also as: mount -t fuse.gfs HOST:PORT MOUNTPOINT -o ..., and in /etc/fstab.`;

const bindings = ["device", "fuse-native"] as const;
type Binding = (typeof bindings)[number];
/** Only Linux has the device whose protocol is spoken; libfuse is also elsewhere. */
const bindingDefault: Binding = process.platform === "linux" ? "device" : "fuse-native";

/**
 * Seconds that the kernel may believe names and attributes without asking: none, because
 * fuse-native cannot tell the kernel when another mount changes them.
 */
const cacheSecondsDefault = 0;
/**
 * Seconds that an operation of a soft mount waits for the servers unless --timeout says otherwise.
 */
const softSecondsDefault = 30;

interface Settings {
  binding: Binding;
  mount: MountOptions;
  master: Address;
  soft: boolean;
  timeoutMs: number;
  showSnapshots: boolean;
  rack: string;
  foreground: boolean;
  logFile: string | undefined;
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (isMountHelper() && args.includes("-f")) return; // `mount --fake`: all but the mount itself.
  const settings = readSettings(await readArguments(args));
  if (settings.foreground || inBackground()) {
    await serve(settings);
    process.exit(0); // fuse-native keeps the event loop alive for ever.
  }
  // What the user can mend is said before anything is started.
  expectLogLevel(logLevel());
  const { mountpoint } = settings.mount;
  const { deadRemoved } = await prepareMountpoint(mountpoint, systemClock);
  if (deadRemoved)
    process.stderr.write(`gfs-mount: ${mountpoint}: took away the mount of a driver that died\n`);
  const logFile = settings.logFile ?? defaultLogFile(mountpoint);
  await startInBackground({ program: scriptPath(), args, logFile, clock: systemClock });
  process.exit(0);
}

function logLevel(): string {
  return process.env["GFS_LOG"] ?? "info";
}

async function serve(settings: Settings): Promise<void> {
  process.chdir("/"); // Else the driver would keep the filesystem busy that it was started from.
  const clock = systemClock;
  const standardError = takeStandardError();
  const log = createLog("gfs-mount", logLevel(), standardError.descriptor);
  const { mount } = settings;
  const { mountpoint } = mount;
  const terminated = terminationSignal();
  const { mounted, close } = await connectAndMount(settings, terminated, log).catch(reportFailure);
  await reportMounted();
  const given = { mounted, mountpoint, terminated, standardError, close };
  await serveUntilUnmounted({ ...given, clock, log });
}

async function connectAndMount(settings: Settings, terminated: Promise<string>, log: Log) {
  const { binding, mount, master, soft, timeoutMs, showSnapshots, rack } = settings;
  const clock = systemClock;
  const { mountpoint } = mount;
  const injected = { clock, log, random: Math.random, uuid: randomUUID };
  const { extra, readOnly } = mount;
  const accessTimes = !readOnly && extra.lastIndexOf("atime") >= extra.lastIndexOf("noatime");
  const given = { master, soft, timeoutMs, showSnapshots, accessTimes, mountpoint, rack };
  const options = { ...given, ...injected };
  const ended = terminated.then((signal): never => {
    throw new UserError(`${signal} before the mount`);
  });
  ended.catch(() => undefined); // Later signals are the matter of serveUntilUnmounted.
  const connected = await Promise.race([connectFileSystem(options), ended]);
  const close = (): Promise<void> => connected.close();
  const mountBy = { device: mountDevice, "fuse-native": mountFuseNative }[binding];
  try {
    return { mounted: await mountBy(connected.fileSystem, mount, { log, clock }), close };
  } catch (error) {
    await close();
    throw error;
  }
}

function readArguments(args: readonly string[]) {
  return yargs(args)
    .scriptName("gfs-mount")
    .usage(usage)
    .epilogue(optionsHelp)
    .parserConfiguration({ "parse-positional-numbers": false })
    .options({
      master: { type: "string", describe: "HOST:PORT, or GFS_MASTER", requiresArg: true },
      foreground: { alias: "f", type: "boolean", default: false, describe: "Do not detach" },
      options: { alias: "o", type: "string", describe: "Mount options", requiresArg: true },
      binding: { type: "string", choices: bindings, describe: `By default ${bindingDefault}` },
      timeout: { type: "number", describe: "Soft mount: fail after S seconds", requiresArg: true },
      rack: { type: "string", describe: "This machine's rack, or GFS_RACK", requiresArg: true },
      log: { type: "string", describe: "Log file in the background", requiresArg: true },
      "show-snapshots": { type: "boolean", default: false, describe: "List .snapshots" },
      // What mount(8) gives its helpers.
      n: { type: "boolean", hidden: true },
      s: { type: "boolean", hidden: true },
      v: { type: "boolean", hidden: true },
      t: { type: "string", hidden: true },
      N: { type: "string", hidden: true },
    })
    .strictOptions()
    .fail((message, error) => {
      throw usageError("gfs-mount", message, error);
    })
    .parseAsync();
}

type Arguments = Awaited<ReturnType<typeof readArguments>>;

function readSettings(args: Arguments): Settings {
  const list = parseOptionList([args.options ?? []].flat());
  const { source, mountpoint } = places(args._.map(String));
  const master = only("master", [args.master, list.master, source]);
  const timeout = only("timeout", [args.timeout, list.timeout]);
  if (timeout !== undefined && !(timeout > 0 && timeout <= 86_400))
    throw new UserError("--timeout is a number of seconds above 0 and at most 86400");
  const binding = only("binding", [args.binding, list.binding]) ?? bindingDefault;
  if (!isBinding(binding))
    throw new UserError(`binding is ${bindings.join(" or ")}, not '${binding}'`);
  checkOptions(binding, list);
  const log = only("log", [args.log, list.log]);
  if (log !== undefined && args.foreground)
    throw new UserError("--log is for the background; with -f the log is on standard error");
  const soft = list.soft ?? timeout !== undefined;
  if (timeout !== undefined && !soft)
    throw new UserError("--timeout is for soft mounts, not 'hard'");
  return {
    binding,
    mount: {
      mountpoint: path.resolve(mountpoint),
      allowOther: list.allowOther ?? process.getuid?.() === 0,
      readOnly: list.readOnly,
      entryTimeout: list.entryTimeout ?? cacheSecondsDefault,
      attrTimeout: list.attrTimeout ?? cacheSecondsDefault,
      // What mount(8) looks for when it asks whether a line of /etc/fstab is mounted.
      extra: [...(source === undefined ? [] : [`fsname=${source}`]), ...list.extra],
    },
    master:
      master === undefined
        ? addressFrom(process.env["GFS_MASTER"] ?? masterAddressDefault, "GFS_MASTER")
        : addressFrom(master, "--master"),
    soft,
    timeoutMs: (timeout ?? softSecondsDefault) * 1000,
    showSnapshots: args["show-snapshots"] || list.showSnapshots,
    rack: args.rack ?? process.env["GFS_RACK"] ?? "",
    foreground: args.foreground,
    logFile: log === undefined ? undefined : path.resolve(log),
  };
}

function isBinding(name: string): name is Binding {
  return (bindings as readonly string[]).includes(name);
}

/** What is wrong with the options is said before anything is started. */
function checkOptions(binding: Binding, list: OptionList): void {
  if (binding === "fuse-native") return checkNativeOptions(list.extra);
  parseDeviceOptions(list.extra, { source: "gfs", privileged: process.geteuid?.() === 0 });
  if (list.entryTimeout !== undefined || list.attrTimeout !== undefined)
    throw new UserError(
      "entry_timeout and attr_timeout are for --binding fuse-native; here the kernel is told",
    );
}

/** mount(8) runs /sbin/mount.fuse.gfs, which scripts/up makes a link to this program. */
function isMountHelper(): boolean {
  return path.basename(scriptPath()).startsWith("mount.");
}

/**
 * `MOUNTPOINT`, or `SOURCE MOUNTPOINT` as mount(8) has it, where a source may be the master's
 * address.
 */
function places(given: readonly string[]): { source: string | undefined; mountpoint: string } {
  const [first, second] = given;
  if (first === undefined) throw new UserError("which MOUNTPOINT? See gfs-mount --help");
  if (given.length > 2) throw new UserError(`one MOUNTPOINT, not ${given.length}`);
  if (second === undefined) return { source: undefined, mountpoint: first };
  const address = typeof parseAddress(first) !== "string";
  if (!address && first !== "gfs" && first !== "none")
    throw new UserError(`'${first}' is not a master's HOST:PORT, nor 'gfs' or 'none'`);
  return { source: address ? first : undefined, mountpoint: second };
}

/** The one value that was given; a `UserError` when two places differ. */
function only<T>(name: string, values: readonly (T | undefined)[]): T | undefined {
  const given = [...new Set(values.filter((value) => value !== undefined))];
  if (given.length > 1)
    throw new UserError(`${name} is given twice: ${given.join(" and ")}; leave one out`);
  return given[0];
}

function scriptPath(): string {
  return path.resolve(process.argv[1] ?? "");
}

await runMain("gfs-mount", main);
