/**
 * A driver to test the bindings with: mounts an in-memory filesystem in a process of its
 * own. A line of JSON with the state of the filesystem goes to standard output on SIGUSR2 and at
 * the end.
 *
 *   fuse-native-driver MOUNTPOINT [--binding NAME] [--seconds CACHE] [--background LOGFILE]
 *     [EXTRA OPTION ...]
 *
 * Looking up `fail.STATUS` fails with that status, `fail.bug` with an assertion, `fail.crash` with
 * a TypeError. Looking up `slow.*` takes 100 ms.
 */

import path from "node:path";
import { parseArgs } from "node:util";
import { assert } from "../../common/assert.ts";
import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { runMain, terminationSignal } from "../../common/program.ts";
import {
  createLogOn,
  inBackground,
  reportFailure,
  reportMounted,
  serveUntilUnmounted,
  startInBackground,
} from "../../mount/daemon.ts";
import { type Caller, type Entry, type Node, rootNode } from "../../mount/fuse/filesystem.ts";
import { mountDevice } from "../../mount/fuse/device/mount.ts";
import { mountFuseNative } from "../../mount/fuse/fuse-native.ts";
import { takeStandardError } from "../../mount/fuse/standard-error.ts";
import { type Status, StatusError } from "../../protocol/status.ts";
import { MemoryFileSystem } from "../support/memory-filesystem.ts";

class FailingFileSystem extends MemoryFileSystem {
  override async lookup(parent: Node, name: Buffer, caller?: Caller): Promise<Entry> {
    if (name.toString().startsWith("slow.")) await sleep(systemClock, 100);
    const wanted = /^fail\.(.+)$/.exec(name.toString())?.[1];
    if (wanted === undefined) return super.lookup(parent, name, caller);
    assert(wanted !== "bug", "the test wants no bug");
    if (wanted === "crash") throw new TypeError("the test wants a crash");
    throw new StatusError(wanted as Status, "the test wants it");
  }
}

/** Removes `d/x` as another mount would: behind the kernel's and libfuse's back. */
async function removeElsewhere(fileSystem: MemoryFileSystem): Promise<void> {
  const { node } = await fileSystem.lookup(rootNode, Buffer.from("d"));
  await fileSystem.unlink(node, Buffer.from("x"));
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
  const log = createLogOn(standardError.descriptor, "fuse-native-driver", "debug");
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
    const { references, openFiles, inodes } = fileSystem;
    process.stdout.write(`${JSON.stringify({ state, references, openFiles, inodes })}\n`);
  };
  process.on("SIGUSR2", () => tell("asked"));
  process.on("SIGWINCH", () => void removeElsewhere(fileSystem));
  await reportMounted();
  tell("mounted");
  const close = (): Promise<void> => Promise.resolve(tell("closed"));
  const given = { mounted, mountpoint, terminated, standardError, close };
  await serveUntilUnmounted({ ...given, ...environment });
  process.exit(0);
}

await runMain("fuse-native-driver", main);
