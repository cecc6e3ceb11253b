import { writeSync } from "node:fs";

/**
 * Writes lines to a descriptor as far as it takes them. What it does not take (a full disk, a pipe
 * whose reader is gone) is dropped: a program must not end, or wait, because it cannot log.
 */
export class LineWriter {
  readonly #descriptor: number;
  /** The last line got there in part: the next one begins with the newline that it lacks. */
  #torn = false;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** `line` ends with a newline. Returns false if it was dropped, or torn, for an error. */
  write(line: string): boolean {
    const bytes = Buffer.from(this.#torn ? `\n${line}` : line);
    let done = 0;
    try {
      while (done < bytes.length) done += writeSync(this.#descriptor, bytes, done);
    } catch {
      this.#torn ||= done > 0;
      return false;
    }
    this.#torn = false;
    return true;
  }
}
