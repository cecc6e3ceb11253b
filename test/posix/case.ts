import assert from "node:assert/strict";
import { type Bytes, type Place, type Process, type Stat, SyscallError } from "./process.ts";
import { until } from "../support/until.ts";

/**
 * A case: what POSIX or Linux promises of a directory, and a function that finds out. It knows
 * nothing of what filesystem the directory is on.
 */

export interface Who {
  uid: number;
  gid: number;
  /** Supplementary groups. */
  groups?: readonly number[];
}

export const rootUser: Who = { uid: 0, gid: 0 };
export const alice: Who = { uid: 1001, gid: 2001 };
export const bob: Who = { uid: 1002, gid: 2002 };

export interface Context {
  /** The case's own empty directory, which belongs to root with mode 0755. */
  readonly directory: string;
  /** A process in that directory, as the user who runs the cases: root, if `needs` says so. */
  readonly root: Process;
  /** A further process in that directory. */
  process(who?: Who): Promise<Process>;
  /** A process in the same directory seen through another mount, where there is one. */
  other(who?: Who): Promise<Process>;
}

export interface Case {
  /** A promise. */
  name: string;
  /** Where it is promised: POSIX page, man page or kernel header. */
  source: string;
  /** "root": it takes other users' credentials, devices, or trusted attributes. */
  needs?: "root";
  /** Of a test that is known to take long. */
  secondsMax?: number;
  run(context: Context): Promise<void>;
}

export interface Theme {
  theme: string;
  cases: readonly Case[];
}

/** A call is refused with this errno, and no other. */
export async function fails(errno: string | readonly string[], call: Promise<unknown>) {
  const wanted = [errno].flat();
  let value: unknown;
  try {
    value = await call;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    if (!wanted.includes(error.errno)) {
      throw new Error(`${error.message}, expected ${wanted.join(" or ")}`, { cause: error });
    }
    return;
  }
  throw new Error(`succeeded with ${JSON.stringify(value)}, expected ${wanted.join(" or ")}`);
}

/** Attributes are as given; the others do not matter. */
export async function hasAttributes(process: Process, place: Place, wanted: Partial<Stat>) {
  const seen = await process.stat(place);
  const keys = Object.keys(wanted) as (keyof Stat)[];
  const picked = Object.fromEntries(keys.map((key) => [key, seen[key]]));
  assert.deepEqual(picked, wanted, `attributes of ${place}`);
}

export async function hasBytes(process: Process, path: Bytes, wanted: Bytes): Promise<void> {
  assert.equal(await process.get(path), wanted, `bytes of ${path}`);
}

export async function missing(process: Process, path: Bytes): Promise<void> {
  await fails("ENOENT", process.lstat(path));
}

/** Waits until the filesystem's clock has moved on, so that what comes next has later times. */
export async function tick(process: Process): Promise<void> {
  const fd = await process.open("../.clock", "O_CREAT|O_WRONLY");
  const now = async (): Promise<bigint> => {
    await process.utimens(fd, "UTIME_NOW", "UTIME_NOW");
    return (await process.stat(fd)).mtime;
  };
  const before = await now();
  // A jiffy on a local disk; where times are cut to ms or s, until the next of these.
  await until("the clock has moved on", async () => (await now()) > before);
  await process.close(fd);
}

type Times = readonly ("mtime" | "ctime")[];

/** After `change`, these of the two times of `place` are later, and the other is as it was. */
export async function moves(
  process: Process,
  place: Place,
  times: Times,
  change: () => Promise<unknown>,
): Promise<void> {
  const before = await process.stat(place);
  await tick(process);
  await change();
  const after = await process.stat(place);
  for (const time of ["mtime", "ctime"] as const) {
    const moved = after[time] > before[time];
    const said = `${time} of ${place}: ${before[time]} before, ${after[time]} after`;
    if (times.includes(time)) assert.ok(moved, `${said}; it has to move`);
    else assert.equal(after[time], before[time], `${said}; it has to stay`);
  }
}

/** Waits until a process is blocked in a lock call. */
export async function untilItWaits(process: Process, call: "fcntl" | "flock"): Promise<void> {
  await until(`process ${process.pid} waits in ${call}`, () => process.waitsIn(call));
}

/** Bytes that are the same in every run and differ from place to place. */
export function pattern(length: number, seed = 1): Bytes {
  let state = (seed * 2_654_435_761 + 1) >>> 0;
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = (state >>> 24) | 1; // Never 0: zeros are holes.
  }
  return bytes.toString("latin1");
}
