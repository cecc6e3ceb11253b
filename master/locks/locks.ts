import type { SessionId } from "../../protocol/id.ts";
import { type Limits, LockSpace, type Ready } from "./space.ts";

/**
 * All locks of a filesystem. They are kept in memory only, and no lock waits for the disk: after a
 * restart each mount tells what it holds (`reclaim`), and nothing new is granted until all sessions
 * from before have done so or have ended. Their list is on disk, so no lock can be forgotten: a
 * session that held one is on the list, and a lock of a session that has ended was given to others
 * only after its end was on disk.
 */
export class Locks {
  readonly posix: LockSpace;
  readonly flock: LockSpace;
  readonly #expected = new Set<SessionId>();

  constructor(limits?: Limits) {
    this.posix = new LockSpace("posix", limits);
    this.flock = new LockSpace("flock", limits);
  }

  space(flock: boolean): LockSpace {
    return flock ? this.flock : this.posix;
  }

  takeReady(): Ready[] {
    return [...this.posix.takeReady(), ...this.flock.takeReady()];
  }

  /** After a restart: these may hold locks. */
  expect(sessions: readonly SessionId[]): void {
    for (const session of sessions) this.#expected.add(session);
    if (this.#expected.size === 0) return;
    this.posix.close();
    this.flock.close();
  }

  expects(session: SessionId): boolean {
    return this.#expected.has(session);
  }

  /** The session has told all of its locks. */
  told(session: SessionId): void {
    if (!this.#expected.delete(session) || this.#expected.size > 0) return;
    this.posix.open();
    this.flock.open();
  }

  /** The session is over, and that is on disk. */
  end(session: SessionId): void {
    this.posix.end(session);
    this.flock.end(session);
    this.told(session);
  }
}
