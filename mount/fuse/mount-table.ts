import { readFile } from "node:fs/promises";

/** A line of /proc/self/mountinfo (proc(5)), as far as it matters here. */
interface MountEntry {
  mountpoint: string;
  /** For example `ext4` or `fuse.gfs`. */
  type: string;
  source: string;
  /** st_dev of what lies on it, as MAJOR:MINOR. */
  device: string;
}

/**
 * What this process sees mounted, in the order of mounting: of two at one place the later is on
 * top.
 */
export async function readMountTable(): Promise<MountEntry[]> {
  return parseMountTable(await readFile("/proc/self/mountinfo", "utf8"));
}

/** `36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue` */
export function parseMountTable(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    const separator = fields.indexOf("-", 6);
    const [mountpoint, type, source] = [fields[4], fields[separator + 1], fields[separator + 2]];
    if (separator < 0 || mountpoint === undefined || type === undefined) continue;
    entries.push({
      mountpoint: unescapeField(mountpoint),
      type,
      source: unescapeField(source ?? ""),
      device: fields[2] ?? "",
    });
  }
  return entries;
}

/** The mount on top at `mountpoint`, an absolute path without symlinks. */
export function mountAt(
  entries: readonly MountEntry[],
  mountpoint: string,
): MountEntry | undefined {
  return entries.findLast((entry) => entry.mountpoint === mountpoint);
}

/** Space, tab, newline and backslash are written as three octal digits; the bytes may be UTF-8. */
function unescapeField(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
