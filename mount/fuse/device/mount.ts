import { writeFile } from "node:fs/promises";
import type { Clock } from "../../../common/clock.ts";
import type { Log } from "../../../common/log.ts";
import type { FileSystem, Mounted, MountOptions } from "../filesystem.ts";
import { mountAt, readMountTable } from "../mount-table.ts";
import { attach } from "./attach.ts";
import { Dispatcher } from "./dispatcher.ts";
import { readAheadBytes } from "./init.ts";

interface Environment {
  log: Log;
  clock: Clock;
}

/**
 * Mounts `fileSystem` by speaking the kernel's FUSE protocol on /dev/fuse. Rejects with a
 * `UserError` when the mount point, the options, the machine or the kernel are to blame. This
 * process must never touch the mount.
 */
export async function mountDevice(
  fileSystem: FileSystem,
  options: MountOptions,
  { log, clock }: Environment,
): Promise<Mounted> {
  const { mountpoint, readOnly, allowOther, extra } = options;
  const given = { mountpoint, source: "gfs", readOnly, allowOther, extra };
  const attachment = await attach(given, clock);
  const { channel, session } = attachment;
  if (attachment.deadRemoved) log.warn("mount.dead-removed", { mountpoint: attachment.mountpoint });
  const dispatcher = new Dispatcher({ fileSystem, channel, clock, log, session });
  dispatcher.start();
  try {
    const { minor, flags } = await dispatcher.ready;
    const facts = { protocol: `7.${minor}`, flags: [...flags].join(" ") };
    log.event("mount.mounted", { mountpoint: attachment.mountpoint, binding: "device", ...facts });
  } catch (error) {
    await attachment.unmount({ lazy: true }).catch(() => undefined);
    await dispatcher.ended;
    throw error;
  }
  await raiseReadAhead(attachment.mountpoint, readAheadBytes(session), log);
  return {
    unmounted: dispatcher.ended,
    unmount: async ({ lazy }) => {
      await attachment.unmount({ lazy });
      if (!lazy) await dispatcher.ended;
    },
  };
}

/**
 * FUSE_INIT can only lower the readahead that the kernel begins with (128 KiB); root can raise it
 * in sysfs. It is no fault where that is not possible, only slower.
 */
async function raiseReadAhead(mountpoint: string, bytes: number, log: Log): Promise<void> {
  const device = mountAt(await readMountTable(), mountpoint)?.device;
  if (device === undefined) return;
  const file = `/sys/class/bdi/${device}/read_ahead_kb`;
  try {
    await writeFile(file, String(Math.floor(bytes / 1024)));
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : String(error);
    log.debug("mount.read-ahead-not-raised", { file, code });
  }
}
