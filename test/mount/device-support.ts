/** The null filesystem of device-null.ts in a child process, for tests. */

import { type ChildProcess, fork } from "node:child_process";
import { mkdtemp, readdir, readFile, readlink, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "./device-null.ts";
import { run, type Test } from "./fuse-native-support.ts";

const programPath = fileURLToPath(new URL("device-null.js", import.meta.url));

type Message = { id: number; answer: unknown } | { mounted: string } | { ended: string };

export class NullMount {
  readonly directory: string;
  readonly child: ChildProcess;
  readonly exited: Promise<number | NodeJS.Signals | null>;
  /** Why reading ended: "unmounted" or an error. Rejects if the process ends before. */
  readonly ended: Promise<string>;
  errors = "";
  readonly #answers = new Map<number, (answer: unknown) => void>();
  #last = 0;
  #mounted: () => void = () => undefined;
  #end: (why: string) => void = () => undefined;

  constructor(directory: string, options: readonly string[], uid?: number) {
    this.directory = directory;
    const child = fork(programPath, [directory, options.join(",")], {
      stdio: ["ignore", "inherit", "pipe", "ipc"],
      cwd: "/",
      // Without what the test runner preloads: it writes files that another user may not write.
      execPath: "/usr/bin/env",
      execArgv: ["-u", "NODE_OPTIONS", process.execPath, "--expose-gc"],
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    this.child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.errors += text));
    this.ended = new Promise((resolve) => (this.#end = resolve));
    this.exited = new Promise((resolve) => {
      child.once("close", (code, signal) => resolve(code ?? signal));
    });
    child.on("message", (message: Message) => {
      if ("mounted" in message) this.#mounted();
      else if ("ended" in message) this.#end(message.ended);
      else this.#answers.get(message.id)?.(message.answer);
    });
  }

  /** Rejects with what the process printed when it ends instead. */
  async mounted(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#mounted = resolve;
      void this.exited.then(() => reject(new Error(this.errors)));
    });
  }

  /** Rejects when the process ends without an answer. */
  ask(command: Command): Promise<unknown> {
    const id = ++this.#last;
    this.child.send({ id, command });
    return new Promise((resolve, reject) => {
      this.#answers.set(id, resolve);
      void this.exited.then((how) => reject(new Error(`ended: ${how} ${this.errors}`)));
    });
  }

  async end(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.exited;
    await run("umount", ["-l", this.directory]);
  }
}

/** A mounted null filesystem for the length of a test. */
export async function mountNull(
  test: Test,
  options: { extra?: readonly string[]; uid?: number; directory?: string } = {},
): Promise<NullMount> {
  const directory = options.directory ?? (await emptyDirectory(test, options.uid));
  const mount = new NullMount(directory, options.extra ?? [], options.uid);
  test.teardown(() => mount.end());
  await mount.mounted();
  return mount;
}

/** An empty directory that belongs to `uid`; it goes when the test ends. */
export async function emptyDirectory(test: Test, uid?: number): Promise<string> {
  const directory = await realpath(await mkdtemp(path.join(tmpdir(), "gfs-device-")));
  if (uid !== undefined) await run("chown", [`${uid}:${uid}`, directory]);
  test.teardown(async () => {
    await run("umount", ["-l", directory]);
    await rm(directory, { recursive: true, force: true });
  });
  return directory;
}

/** What each thread of a process has open, as the links in /proc say; threads share tables. */
export async function descriptorTables(pid: number): Promise<string[][]> {
  const tables: string[][] = [];
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    const root = `/proc/${pid}/task/${thread}/fd`;
    const links = (await readdir(root)).map((fd) => readlink(`${root}/${fd}`).catch(() => ""));
    tables.push((await Promise.all(links)).filter((link) => link !== "").toSorted());
  }
  return tables;
}

/** True when the table of mounts has the directory. Touches no mount. */
export async function isMounted(directory: string): Promise<boolean> {
  const table = await readFile("/proc/self/mountinfo", "utf8");
  return table.split("\n").some((line) => line.split(" ")[4] === directory);
}
