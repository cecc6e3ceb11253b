import { UserError } from "../../common/program.ts";

/** What `-o a,b=c` may say, as mount(8) and /etc/fstab write it. */
export interface OptionList {
  master?: string;
  log?: string;
  soft?: boolean;
  /** Seconds. */
  timeout?: number;
  /** Seconds. */
  entryTimeout?: number;
  /** Seconds. */
  attrTimeout?: number;
  readOnly: boolean;
  allowOther?: boolean;
  showSnapshots: boolean;
  binding?: string;
  /** For the binding and the kernel; which of them there are is the binding's to say. */
  extra: string[];
}

/** Options that are mount(8)'s own business, or that say what is so anyway. */
const ignored = new Set([
  ...[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
  ],
  ...["iversion", "noiversion", "silent", "loud"],
]);

const pairs: readonly (readonly [string, string])[] = [
  ["ro", "rw"],
  ["soft", "hard"],
  ["suid", "nosuid"],
  ["dev", "nodev"],
  ["exec", "noexec"],
  ["sync", "async"],
];

/**
 * Parses all `-o` arguments together; a `UserError` for what is unknown, malformed or
 * contradictory.
 */
export function parseOptionList(lists: readonly string[]): OptionList {
  const given = lists.flatMap((list) => list.split(",")).filter((option) => option !== "");
  const names = new Map<string, string | undefined>();
  for (const option of given) {
    const [name, value] = splitOption(option);
    if (names.has(name) && names.get(name) !== value)
      throw new UserError(`mount option '${name}' is given twice, with different values`);
    names.set(name, value);
  }
  for (const [one, other] of pairs) {
    if (names.has(one) && names.has(other))
      throw new UserError(`mount options '${one}' and '${other}' contradict each other`);
  }
  if (names.has("hard") && names.has("timeout"))
    throw new UserError("mount options 'hard' and 'timeout' contradict each other");
  const options: OptionList = { readOnly: false, showSnapshots: false, extra: [] };
  for (const [name, value] of names) takeOption(options, name, value);
  return options;
}

/** `a=b` into name and value; `a` alone has no value. */
export function splitOption(option: string): [name: string, value: string | undefined] {
  const equals = option.indexOf("=");
  if (equals < 0) return [option, undefined];
  return [option.slice(0, equals), option.slice(equals + 1)];
}

function takeOption(options: OptionList, name: string, value: string | undefined): void {
  switch (name) {
    case "ro":
    case "rw":
      options.readOnly = bare(name, value) === "ro";
      return;
    case "soft":
    case "hard":
      options.soft = bare(name, value) === "soft";
      return;
    case "allow_other":
      options.allowOther = bare(name, value) === name;
      return;
    case "show_snapshots":
      options.showSnapshots = bare(name, value) === name;
      return;
    case "master":
      options.master = valued(name, value);
      return;
    case "log":
      options.log = valued(name, value);
      return;
    case "binding":
      options.binding = valued(name, value);
      return;
    case "timeout":
      options.timeout = seconds(name, value);
      return;
    case "entry_timeout":
      options.entryTimeout = seconds(name, value);
      return;
    case "attr_timeout":
      options.attrTimeout = seconds(name, value);
      return;
    default:
      takeFurther(options, name, value);
  }
}

function takeFurther(options: OptionList, name: string, value: string | undefined): void {
  if (name === "remount")
    throw new UserError("to change flags like ro: mount -i -o remount,…; else unmount and mount");
  if (ignored.has(name) || name.startsWith("x-") || name === "comment") return;
  options.extra.push(value === undefined ? name : `${name}=${value}`);
}

function bare(name: string, value: string | undefined): string {
  if (value !== undefined) throw new UserError(`mount option '${name}' takes no value`);
  return name;
}

function valued(name: string, value: string | undefined): string {
  if (value === undefined || value === "")
    throw new UserError(`mount option '${name}' needs a value`);
  return value;
}

function seconds(name: string, value: string | undefined): number {
  const text = valued(name, value);
  if (!/^\d{1,6}(\.\d{1,3})?$/.test(text))
    throw new UserError(`mount option '${name}=${text}' is not a number of seconds`);
  return Number(text);
}
