import { access, readdir, readlink } from "node:fs/promises";
import { promisify } from "node:util";
import type { Clock } from "../../common/clock.ts";
import { sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { UserError } from "../../common/program.ts";
import type { Caller, FileSystem, Mounted, MountOptions } from "./filesystem.ts";
import { mountAt, readMountTable } from "./mount-table.ts";
import { checkAllowOther, prepareMountpoint, unmountDirectory } from "./mountpoint.ts";
import { nativeHandlers } from "./native-handlers.ts";
import { NativeOperations } from "./native-operations.ts";
import { fsnameWithOptions } from "./native-options.ts";
import { allowThreads, limitThreads } from "./native-threads.ts";
import { restoreMtime } from "./native-utimens.ts";

/** How soon an unmount by somebody else is noticed. */
const watchMs = 500;
/**
 * After the kernel has let go, libfuse still removes the files that it had hidden
 * (`.fuse_hidden*`).
 */
const settleMs = 200;

interface Environment {
  log: Log;
  clock: Clock;
}

/**
 * Mounts `fileSystem` by the fuse-native package, whose faults and their cures are in
 * native-notes.md. Rejects with a `UserError` when the mount point, the options or the machine are
 * to blame. This process must never touch the mount.
 */
export async function mountFuseNative(
  fileSystem: FileSystem,
  options: MountOptions,
  { log, clock }: Environment,
): Promise<Mounted> {
  const mountpoint = await prepareMountpoint(options.mountpoint, clock);
  if (mountpoint.deadRemoved) log.warn("mount.dead-removed", { mountpoint: mountpoint.path });
  const fsname = fsnameWithOptions(options, mountpoint.nonEmpty);
  if (options.allowOther) await checkAllowOther();
  const Fuse = await loadFuse();
  // fuse-native does not tell who asks, so everybody is the user who mounted.
  const caller: Caller = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, pid: 0 };
  const operations = new NativeOperations(fileSystem, caller);
  const handlers = nativeHandlers(operations, log);
  const fuse = new Fuse(mountpoint.path, handlers, { fsname, timeout: false });
  for (const [name, handler] of Object.entries(handlers))
    Object.defineProperty(fuse, `_op_${name}`, { value: handler });
  restoreMtime(fuse._handlers, log);
  allowThreads();
  const allocate = fuse._malloc.bind(fuse);
  Object.defineProperty(fuse, "_malloc", { value: limitThreads(allocate, log) });

  const before = await fuseDevices();
  try {
    await promisify(fuse.mount.bind(fuse))();
  } catch (error) {
    // libfuse mounts before it looks at some of its options.
    if (mountAt(await readMountTable(), mountpoint.path))
      await unmountDirectory(mountpoint.path, { lazy: true, clock });
    throw mountFailure(error);
  }
  const device = (await fuseDevices()).find((descriptor) => !before.includes(descriptor));
  log.event("mount.mounted", { mountpoint: mountpoint.path, binding: "fuse-native", fsname });
  const unmounted = watchUnmount(device, mountpoint.path, clock).then(() =>
    operations.releaseAll(),
  );
  return {
    unmounted,
    unmount: async ({ lazy }) => {
      await unmountDirectory(mountpoint.path, { lazy, clock });
      if (!lazy) await unmounted;
    },
  };
}

/** Loads the native module late, so that what it lacks on this machine becomes one clear line. */
async function loadFuse() {
  await access("/dev/fuse").catch(() => {
    throw new UserError("/dev/fuse is missing: load the kernel's fuse module (modprobe fuse)");
  });
  try {
    return (await import("fuse-native")).default;
  } catch (error) {
    const text = error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error);
    const advice = text.includes("libfuse.so.2")
      ? "install libfuse 2 (Debian, Ubuntu: libfuse2; Fedora: fuse-libs; Alpine: fuse)"
      : "run npm rebuild fuse-native";
    throw new UserError(`fuse-native cannot be loaded: ${text}; ${advice}`);
  }
}

function mountFailure(error: unknown): UserError {
  const message = error instanceof Error ? error.message : String(error);
  // libfuse has printed its reason on standard error; all that fuse-native knows is "fuse failed".
  const reason = message === "fuse failed" ? "libfuse refused to mount" : message;
  return new UserError(`${reason} (fuse-native)`);
}

/** This process's descriptors of the FUSE device. */
async function fuseDevices(): Promise<string[]> {
  const found: string[] = [];
  for (const descriptor of await readdir("/proc/self/fd"))
    if (await isFuseDevice(descriptor)) found.push(descriptor);
  return found;
}

async function isFuseDevice(descriptor: string): Promise<boolean> {
  const target = await readlink(`/proc/self/fd/${descriptor}`).catch(() => "");
  return target === "/dev/fuse";
}

/**
 * Resolves when the kernel has ended the mount. fuse-native does not report it, but libfuse then
 * closes its descriptor of the FUSE device. That is later than the entry in /proc/self/mountinfo
 * goes: after a lazy unmount the kernel keeps asking until the last open file is closed, and must
 * be answered.
 */
async function watchUnmount(
  device: string | undefined,
  mountpoint: string,
  clock: Clock,
): Promise<void> {
  const mounted = async (): Promise<boolean> =>
    device === undefined
      ? mountAt(await readMountTable(), mountpoint) !== undefined
      : isFuseDevice(device);
  while (await mounted()) await sleep(clock, watchMs);
  await sleep(clock, settleMs);
}
