/** What `-o` may say to the device binding, beside what option-list.ts takes. */

import { UserError } from "../../../common/program.ts";
import { splitOption } from "../native-options.ts";

/** Flags of mount(2), include/uapi/linux/mount.h. */
const nosuid = 2;
const nodev = 4;
const flags = new Map<string, { set: number } | { clear: number }>([
  ["ro", { set: 1 }],
  ["rw", { clear: 1 }],
  ["nosuid", { set: nosuid }],
  ["suid", { clear: nosuid }],
  ["nodev", { set: nodev }],
  ["dev", { clear: nodev }],
  ["noexec", { set: 8 }],
  ["exec", { clear: 8 }],
  ["sync", { set: 16 }],
  ["async", { clear: 16 }],
  ["dirsync", { set: 128 }],
]);

export interface DeviceOptions {
  flags: number;
  source: string;
}

/** Parses the further options; a `UserError` for one that is unknown. */
export function parseDeviceOptions(
  options: readonly string[],
  { source, privileged }: { source: string; privileged: boolean },
): DeviceOptions {
  const parsed: DeviceOptions = { flags: privileged ? 0 : nosuid | nodev, source };
  for (const option of options) {
    const [name, value] = splitOption(option);
    const flag = flags.get(name);
    if (flag && value === undefined) {
      parsed.flags = "set" in flag ? parsed.flags | flag.set : parsed.flags & ~flag.clear;
    } else if (name === "fsname" && value !== undefined) {
      parsed.source = value;
    } else {
      throw new UserError(`unknown mount option '${option}'`);
    }
  }
  return parsed;
}
