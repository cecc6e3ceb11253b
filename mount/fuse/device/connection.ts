import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import type { Clock } from "../../../common/clock.ts";
import { runCommand } from "../command.ts";
import { mountAt, readMountTable } from "../mount-table.ts";

/** A forced umount(8) asks nobody; this is for the start of the process. */
const abortMsMax = 10_000;

/**
 * The kernel's side of a mount, as something to break off: all requests fail then, and nobody waits
 * for an answer any more.
 *
 * A driver that dies is no end of it while its notifying thread stands in line for a lock: the
 * thread cannot be killed there, it has the connection open, and those before it in the line send
 * requests that nobody reads. So a shell waits for the driver's end, which is the end of its input,
 * and then writes into the connection's abort file. That file is opened now: it will never be
 * another connection's, as its name may, once this one is gone. Without fusectl (mounted at
 * /sys/fs/fuse/connections by systemd) there is no such file and no such shell.
 */
export class Connection {
  readonly #mountpoint: string;
  /** st_dev on the mount. */
  readonly #device: string | undefined;
  readonly #clock: Clock;
  #abortFile: number | undefined;
  #guard: ChildProcess | undefined;

  /** Of the mount that has just been made at `mountpoint`. */
  static async at(mountpoint: string, clock: Clock): Promise<Connection> {
    const device = mountAt(await readMountTable(), mountpoint)?.device;
    return new Connection(mountpoint, device, clock);
  }

  private constructor(mountpoint: string, device: string | undefined, clock: Clock) {
    this.#mountpoint = mountpoint;
    this.#device = device;
    this.#clock = clock;
    const number = device?.split(":")[1];
    if (number === undefined) return;
    try {
      this.#abortFile = openSync(`/sys/fs/fuse/connections/${number}/abort`, "r+");
    } catch {
      return;
    }
    const guard = spawn("/bin/sh", ["-c", "read -r _; echo 1"], {
      stdio: ["pipe", this.#abortFile, "ignore"],
      detached: true, // What ^C ends is not this.
      cwd: "/",
    });
    guard.on("error", () => undefined); // No shell: then there is no guard.
    guard.unref();
    this.#guard = guard;
  }

  /** Best effort: there is nothing else to try. */
  async abort(): Promise<void> {
    if (this.#abortFile !== undefined) {
      writeSync(this.#abortFile, "1");
      return;
    }
    // A forced umount(8) aborts before it finds that the mount is in use. Only for root.
    if (mountAt(await readMountTable(), this.#mountpoint)?.device !== this.#device) return;
    const command = ["umount", "-f", this.#mountpoint] as const;
    await runCommand(command, { clock: this.#clock, limitMs: abortMsMax });
  }

  /** The channel is closed: there is nothing left to guard. Idempotent. */
  release(): void {
    this.#guard?.kill("SIGKILL");
    this.#guard?.stdin?.destroy();
    this.#guard = undefined;
    if (this.#abortFile !== undefined) closeSync(this.#abortFile);
    this.#abortFile = undefined;
  }
}
