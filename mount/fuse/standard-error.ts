import { closeSync, openSync } from "node:fs";
import { Writable } from "node:stream";
import { assert } from "../../common/assert.ts";
import { LineWriter } from "../../common/os/line-writer.ts";

/**
 * Takes standard error away from the C libraries in this process, which would fill it
 * (native-threads.ts), and leaves it to this program: `process.stderr` and whoever writes to
 * `descriptor`.
 */
export interface StandardError {
  /** Where standard error led at the start. */
  readonly descriptor: number;
  /** From now on what C prints leads nowhere. */
  silence(): void;
}

/** To be called first in a program, before anything uses `process.stderr`. */
export function takeStandardError(): StandardError {
  let descriptor: number;
  try {
    descriptor = openSync("/proc/self/fd/2", "a");
  } catch {
    // A socket, as systemd's journal gives, cannot be opened again: then it stays as it is.
    return { descriptor: 2, silence: () => undefined };
  }
  const writer = new LineWriter(descriptor);
  const stream = new Writable({
    decodeStrings: true,
    write(chunk: Buffer, _encoding, done) {
      writer.write(chunk.toString());
      done();
    },
  });
  Object.defineProperty(process, "stderr", { value: stream, configurable: true });
  return {
    descriptor,
    silence: () => {
      closeSync(2);
      // open(2) takes the lowest free number; descriptors 0 and 1 are open in every program.
      assert(openSync("/dev/null", "r+") === 2, "standard error is open again");
    },
  };
}
