import { spawn } from "node:child_process";
import { readFileSync, readdirSync, readlinkSync } from "node:fs";

/**
 * What is mounted where. Nothing in this file touches a mount from this process: a mount whose
 * servers are away would hold it. Questions to a mount are asked by a child with a time limit.
 */

interface MountEntry {
  mountpoint: string;
  type: string;
  source: string;
}

/** The mounts of /proc/self/mountinfo (proc_pid_mountinfo(5)), oldest first. */
export function listMounts(text = readFileSync("/proc/self/mountinfo", "utf8")): MountEntry[] {
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [before = "", after = ""] = line.split(" - ");
      const [type = "", source = ""] = after.split(" ");
      const mountpoint = unescapeOctal(before.split(" ")[4] ?? "");
      return { mountpoint, type, source: unescapeOctal(source) };
    });
}

/** Space, tab, newline and backslash are written as \040 and so on, the bytes of the name as is. */
function unescapeOctal(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** The topmost mount at exactly this path. */
export function mountAt(mountpoint: string): MountEntry | undefined {
  return listMounts().findLast((entry) => entry.mountpoint === mountpoint);
}

type Answer = { state: "answers" } | { state: "dead" | "hung" | "fails"; why: string };

/**
 * Asks the filesystem at `path` how full it is, in a child that is given up after `limitMs`. Not
 * for attributes: the kernel may know them, also of a mount whose driver is dead.
 */
export async function probe(path: string, limitMs: number): Promise<Answer> {
  const { code, output } = await runLimited("stat", ["-f", "--", path], limitMs);
  if (code === undefined) return { state: "hung", why: `no answer in ${limitMs / 1000} s` };
  if (code === 0) return { state: "answers" };
  const why = output.trim().split(": ").at(-1) ?? "";
  return { state: /not connected|connection abort/.test(output) ? "dead" : "fails", why };
}

/** Runs a command; `code` is undefined when it did not end in time (it is killed and left). */
export function runLimited(
  command: string,
  args: readonly string[],
  limitMs: number,
): Promise<{ code: number | undefined; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      env: { ...process.env, LC_ALL: "C" },
      stdio: ["ignore", "ignore", "pipe"],
      cwd: "/",
    });
    let output = "";
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      child.stderr.destroy();
      child.unref();
      resolve({ code: undefined, output });
    }, limitMs);
    const settle = (code: number): void => {
      clearTimeout(timer);
      resolve({ code, output });
    };
    child.stderr.setEncoding("utf8").on("data", (text: string) => (output += text));
    child.on("error", (error) => {
      output += error.message;
      settle(127);
    });
    child.on("close", (code) => settle(code ?? 128));
  });
}

/** Unmounts with umount(8), or fusermount for who is not root. Returns why not, or undefined. */
export async function unmount(
  mountpoint: string,
  options: { lazy: boolean; limitMs: number },
): Promise<{ busy: boolean; hung: boolean; why: string } | undefined> {
  const commands =
    process.getuid?.() === 0
      ? [["umount", ...(options.lazy ? ["-l"] : []), "--", mountpoint]]
      : ["fusermount3", "fusermount"].map((name) => [
          name,
          ...(options.lazy ? ["-u", "-z"] : ["-u"]),
          "--",
          mountpoint,
        ]);
  let why = "";
  for (const [command = "", ...args] of commands) {
    const { code, output } = await runLimited(command, args, options.limitMs);
    if (code === 0) return undefined;
    if (code === undefined) return { busy: false, hung: true, why: "it did not finish" };
    why = output.trim().split("\n")[0] ?? "";
    if (code !== 127) break;
  }
  return { busy: /busy/i.test(why), hung: false, why };
}

interface Holder {
  pid: number;
  command: string;
  /** What it holds there: its working directory, an open file, … */
  holds: string;
}

/** The processes that keep `mountpoint` busy, as far as /proc shows them to this user. */
export function holdersOf(mountpoint: string): Holder[] {
  const inside = (path: string | undefined): path is string =>
    path !== undefined && (path === mountpoint || path.startsWith(`${mountpoint}/`));
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const links = ["cwd", "root", "exe", ...namesIn(`/proc/${name}/fd`).map((fd) => `fd/${fd}`)];
      const held = links.map((link) => linkOf(`/proc/${name}/${link}`)).find(inside);
      if (held === undefined) return [];
      return [{ pid: Number(name), command: commandOf(name), holds: held }];
    });
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // Gone, or another user's.
  }
}

/** Reading such a link asks the kernel only, not the filesystem it points into. */
function linkOf(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "?";
  }
}
