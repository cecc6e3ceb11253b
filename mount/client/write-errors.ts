import { lastUsed } from "../../common/lru.ts";
import type { Ino } from "../../protocol/id.ts";

/** Files with errors that somebody may still have to be told of (P8). */
const filesMax = 10_000;

/** What one open file has been told of: write(2) and fsync(2) report each error once. */
export interface ErrorCursor {
  written: number;
  synced: number;
}

interface Failure {
  /** Counts the errors of the mount, so it grows for every file. */
  seq: number;
  cause: unknown;
  /** An open file has been told by fsync or close. */
  reported: boolean;
}

/**
 * Errors of writes behind. Each is told to every open file of the inode that there is, once, by
 * whichever comes first: not only to the first one who asks, who may not be the writer (what Linux
 * calls errseq_t).
 */
export class WriteErrors {
  readonly #failures = lastUsed<Ino, Failure>(filesMax);
  #last = 0;

  /** Errors added so far. */
  get count(): number {
    return this.#last;
  }

  add(ino: Ino, cause: unknown): void {
    this.#last += 1;
    const known = this.#failures.get(ino);
    const first = known && !known.reported ? known.cause : cause;
    this.#failures.set(ino, { seq: this.#last, cause: first, reported: false });
  }

  /** For a file that is being opened: it is told of what nobody has been told of yet. */
  cursor(ino: Ino): ErrorCursor {
    const failure = this.#failures.get(ino);
    const seen = failure && !failure.reported ? failure.seq - 1 : this.#last;
    return { written: this.#last, synced: seen };
  }

  /** Throws what the open file has not been told of by such calls before. */
  report(ino: Ino, cursor: ErrorCursor, by: keyof ErrorCursor): void {
    const failure = this.#failures.get(ino);
    if (!failure || failure.seq <= cursor[by]) return;
    cursor[by] = failure.seq;
    if (by === "synced") failure.reported = true;
    throw failure.cause;
  }

  /** Nobody has the file open any more. */
  forget(ino: Ino): void {
    this.#failures.delete(ino);
  }
}
