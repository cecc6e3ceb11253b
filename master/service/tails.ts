import { type Clock, sleep } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import { lastUsed } from "../../common/lru.ts";
import { KeyedMutex } from "../../common/mutex.ts";
import type { Ino, SessionId } from "../../protocol/id.ts";
import { recallTail } from "../../protocol/methods/namespace.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Session, Sessions } from "./sessions.ts";

/** A mount sends and commits what it has of one file; then it is asked again. */
const recallMs = 10_000;
/** How often a mount that has no connection is looked for. */
const pollMs = 50;
/**
 * After a restart of the master, mounts come back within seconds, and may hold unwritten what
 * belongs at the ends of files.
 */
const returnMsMax = 5_000;
/** Files without a holder of which it is remembered that nothing lies beyond their end. */
const cleanMax = 100_000;

interface Held {
  session: SessionId;
  number: number;
}

/**
 * The tail of a file is the leave to make it longer by writing, and one mount at a time has it. So
 * appending (O_APPEND) is a matter between processes of one mount, records of several mounts never
 * overlap, and only the holder can have bytes on chunk servers beyond the file's end.
 *
 *   unknown ──cut──> held by a mount ──recalled, or released──> clean ──> held by another …
 *      ^                    └── session ended, or the master restarted ──┐
 *      └─────────────────────────────────────────────────────────────────┘
 *
 * A holder that is asked for the tail sends and commits what it has before it answers. If it dies
 * instead, bytes that it never committed may lie beyond the end: they are cut off before somebody
 * else gets the tail.
 */
export class Tails {
  readonly #sessions: Sessions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #cut: (ino: Ino) => Promise<void>;
  readonly #hasChunks: (ino: Ino) => boolean;
  readonly #held = new Map<Ino, Held>();
  readonly #clean = lastUsed<Ino, true>(cleanMax);
  readonly #locks = new KeyedMutex<Ino>();
  readonly #startedMs: number;
  #last = 0;

  constructor(options: {
    sessions: Sessions;
    clock: Clock;
    log: Log;
    /** Cuts off what lies beyond the end of a file, in its last chunk and after it. */
    cut: (ino: Ino) => Promise<void>;
    hasChunks: (ino: Ino) => boolean;
  }) {
    this.#sessions = options.sessions;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#cut = options.cut;
    this.#hasChunks = options.hasChunks;
    this.#startedMs = options.clock.nowMs();
    this.#sessions.onClosed = (session, ino, orderly) => this.#closed(session, ino, orderly);
  }

  /** Gives `session` the tail, after whoever has it. Resolves with the number of the grant. */
  take(session: Session, ino: Ino): Promise<number> {
    return this.#locks.run(ino, async () => {
      this.#checkAllBack(ino);
      await this.#recallFrom(ino, session, true);
      const isClean = this.#held.has(ino) || this.#clean.has(ino) || !this.#hasChunks(ino);
      if (!isClean) await this.#cut(ino);
      session.writes.add(ino);
      return this.#give(session, ino);
    });
  }

  /** Of a file that is being made by `session`: called before anybody else knows of it. */
  takeNew(session: Session, ino: Ino): void {
    this.#give(session, ino);
  }

  /** As `take`, if it costs nothing: for the answers to open and create. */
  tryTake(session: Session, ino: Ino): number | undefined {
    if (this.#locks.busy(ino)) return undefined;
    const held = this.#held.get(ino);
    if (held) return held.session === session.id ? held.number : undefined;
    const free = this.#clean.has(ino) || !this.#hasChunks(ino);
    // Another mount that writes the file may still hold what belongs at its end.
    const alone = this.#clean.has(ino) || !this.#sessions.mayWrite(ino, session);
    return free && alone ? this.#give(session, ino) : undefined;
  }

  /**
   * Runs `work`, which sets the file's size, when no other mount that can be reached has anything
   * that would make it longer, and none can get the tail meanwhile.
   */
  exclusively<T>(ino: Ino, session: Session, work: () => Promise<T>): Promise<T> {
    return this.#locks.run(ino, async () => {
      await this.#recallFrom(ino, session, false);
      return work();
    });
  }

  /** Chunks of another file are at the end: what is beyond it in them is not known. */
  forget(ino: Ino): void {
    this.#held.delete(ino);
    this.#clean.delete(ino);
  }

  #give(session: Session, ino: Ino): number {
    const held = this.#held.get(ino);
    if (held?.session === session.id) return held.number;
    this.#last += 1;
    this.#clean.delete(ino);
    this.#held.set(ino, { session: session.id, number: this.#last });
    return this.#last;
  }

  #checkAllBack(ino: Ino): void {
    if (this.#held.has(ino) || this.#clean.has(ino) || !this.#sessions.areAwaited()) return;
    if (this.#clock.nowMs() - this.#startedMs > returnMsMax) return;
    throw new StatusError("unavailable", "waiting for mounts to come back after a restart");
  }

  /** `patient`: also from mounts that have no connection now, until their sessions have ended. */
  async #recallFrom(ino: Ino, except: Session, patient: boolean): Promise<void> {
    const held = this.#held.get(ino);
    if (held?.session === except.id) return;
    if (held) return this.#recall(ino, held, patient);
    if (this.#clean.has(ino)) return;
    // From before a restart, or never held: any mount that may write it may have something.
    const writers = this.#sessions.writers(ino).filter(({ id }) => id !== except.id);
    const asked = writers.map(({ id }) => this.#recall(ino, { session: id, number: 0 }, patient));
    await Promise.all(asked);
  }

  /** Until the mount has given everything, or its session has ended. */
  async #recall(ino: Ino, { session: id, number }: Held, patient: boolean): Promise<void> {
    for (let session = this.#sessions.byId(id); session; session = this.#sessions.byId(id)) {
      if (number > 0 && this.#held.get(ino)?.number !== number) return;
      const { connection } = session;
      if (connection && !connection.closed) {
        try {
          await connection.call(recallTail, { ino, number }, { deadlineMs: recallMs });
          if (number > 0 && this.#held.get(ino)?.number === number) this.#setClean(ino);
          return;
        } catch (error) {
          this.#log.warn("tail.not-given", { ino, session: id, error });
        }
      }
      if (!patient) return;
      await sleep(this.#clock, pollMs);
    }
  }

  #setClean(ino: Ino): void {
    this.#held.delete(ino);
    this.#clean.set(ino, true);
  }

  /** `orderly`: closed by the mount, which has flushed before; else its session has ended. */
  #closed(session: Session, ino: Ino, orderly: boolean): void {
    if (this.#held.get(ino)?.session !== session.id) return;
    if (orderly) this.#setClean(ino);
    else this.forget(ino);
  }
}
