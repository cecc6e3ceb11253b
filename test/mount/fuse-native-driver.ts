/**
 * A driver to test the bindings with: mounts an in-memory filesystem in a process of its
 * own. A line of JSON with the state of the filesystem goes to standard output on SIGUSR2 and at
 * the end.
 *
 *   fuse-native-driver MOUNTPOINT [--binding NAME] [--seconds CACHE] [--background LOGFILE]
 *     [EXTRA OPTION ...]
 *
 * Looking up `fail.STATUS` fails with that status, `fail.bug` with an assertion, `fail.crash` with
 * a TypeError. Looking up `slow.*` takes 100 ms; looking up `block.*`, and reading a file that
 * begins with BLOCK, until it is interrupted. SIGWINCH changes files in `d` as another mount would,
 * SIGURG drops all that the kernel has cached; both end with a line as above.
 */

import path from "node:path";
import { parseArgs } from "node:util";
import { assert } from "../../common/assert.ts";
import { sleep } from "../../common/clock.ts";
import { createLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { runMain, terminationSignal } from "../../common/program.ts";
import {
  inBackground,
  reportFailure,
  reportMounted,
  serveUntilUnmounted,
  startInBackground,
} from "../../mount/daemon.ts";
import {
  type Caller,
  type Entry,
  type Node,
  type OpenFile,
  rootNode,
  type Writing,
} from "../../mount/fuse/filesystem.ts";
import { mountDevice } from "../../mount/fuse/device/mount.ts";
import { mountFuseNative } from "../../mount/fuse/fuse-native.ts";
import { takeStandardError } from "../../mount/fuse/standard-error.ts";
import { type Status, StatusError } from "../../protocol/status.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";

class FailingFileSystem extends MemoryFileSystem {
  /** The largest that were asked for. */
  readBytesMax = 0;
  writeBytesMax = 0;

  override async lookup(parent: Node, name: Buffer, caller?: Caller): Promise<Entry> {
    if (name.toString().startsWith("slow.")) await sleep(systemClock, 100);
    if (name.toString().startsWith("block.")) await interrupted(caller);
    const wanted = /^fail\.(.+)$/.exec(name.toString())?.[1];
    if (wanted === undefined) return super.lookup(parent, name, caller);
    assert(wanted !== "bug", "the test wants no bug");
    if (wanted === "crash") throw new TypeError("the test wants a crash");
    throw new StatusError(wanted as Status, "the test wants it");
  }

  override async read(file: OpenFile, offset: number, length: number, caller?: Caller) {
    this.readBytesMax = Math.max(this.readBytesMax, length);
    const pieces = await super.read(file, offset, length);
    if (pieces[0]?.toString("latin1", 0, 5) === "BLOCK") await interrupted(caller);
    return pieces;
  }

  override write(file: OpenFile, writing: Writing): Promise<number> {
    this.writeBytesMax = Math.max(this.writeBytesMax, writing.data.length);
    return super.write(file, writing);
  }
}

/** Waits until the process that asks is interrupted, and fails. */
async function interrupted(caller: Caller | undefined): Promise<never> {
  const signal = caller?.signal;
  await new Promise<void>((resolve) => {
    if (signal?.aborted) resolve();
    signal?.addEventListener("abort", () => resolve());
  });
  throw new StatusError("interrupted", "the caller was interrupted");
}

/** Removes `d/x` and changes `d/y` as another mount would, and tells the kernel if it can be. */
async function changeElsewhere(fileSystem: MemoryFileSystem): Promise<void> {
  const { node } = await fileSystem.lookup(rootNode, Buffer.from("d"));
  await fileSystem.unlink(node, Buffer.from("x"));
  await fileSystem.kernel?.dropEntry(node, Buffer.from("x"));
  const there = await fileSystem.lookup(node, Buffer.from("y")).catch(() => undefined);
  if (there !== undefined) {
    const { file } = await fileSystem.open(there.node, 0);
    const data = Buffer.from("changed elsewhere");
    await fileSystem.write(file, { offset: 0, data, append: false, killSuidGid: false });
    await fileSystem.release(file);
    await fileSystem.kernel?.dropNode(there.node, { pages: true });
    fileSystem.forget(there.node, 1);
  }
  fileSystem.forget(node, 1);
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    options: {
      binding: { type: "string", default: "fuse-native" },
      seconds: { type: "string", default: "0" },
      background: { type: "string" },
    },
    allowPositionals: true,
  });
  const [mountpoint = "", ...extra] = positionals;
  if (values.background !== undefined && !inBackground()) {
    await startInBackground({
      program: path.resolve(process.argv[1] ?? ""),
      args: process.argv.slice(2),
      logFile: values.background,
      clock: systemClock,
    });
    process.exit(0);
  }
  const terminated = terminationSignal();
  const standardError = takeStandardError();
  const log = createLog("fuse-native-driver", "debug", standardError.descriptor);
  const seconds = Number(values.seconds);
  const fileSystem = new FailingFileSystem(systemClock);
  const environment = { log, clock: systemClock };
  const options = { mountpoint, allowOther: true, readOnly: false, extra };
  const timeouts = { entryTimeout: seconds, attrTimeout: seconds };
  fileSystem.validity = seconds * 1000; // fuse-native does not ask.
  const mount = values.binding === "device" ? mountDevice : mountFuseNative;
  const mounted = await mount(fileSystem, { ...options, ...timeouts }, environment).catch(
    (error: unknown) => reportFailure(error),
  );
  const tell = (state: string): void => {
    const { references, openFiles, inodes, readBytesMax, writeBytesMax } = fileSystem;
    const counts = { references, openFiles, inodes, readBytesMax, writeBytesMax };
    process.stdout.write(`${JSON.stringify({ state, ...counts })}\n`);
  };
  process.on("SIGUSR2", () => tell("asked"));
  process.on("SIGWINCH", () => void changeElsewhere(fileSystem).then(() => tell("changed")));
  process.on("SIGURG", () => void fileSystem.kernel?.dropAll().then(() => tell("dropped")));
  await reportMounted();
  tell("mounted");
  const close = (): Promise<void> => Promise.resolve(tell("closed"));
  const given = { mounted, mountpoint, terminated, standardError, close };
  await serveUntilUnmounted({ ...given, ...environment });
  process.exit(0);
}

await runMain("fuse-native-driver", main);
