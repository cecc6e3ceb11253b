import type { Log } from "../../common/log.ts";
import type { Range } from "../../common/intervals.ts";
import type { Epoch, Ino, SessionId } from "../../protocol/id.ts";
import { locksPerPageMax } from "../../protocol/limits.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import {
  type cancelLock,
  type getLock,
  lockReady,
  type reclaimLocks,
  type setLock,
} from "../../protocol/methods/lock.ts";
import { StatusError } from "../../protocol/status.ts";
import { Locks } from "../locks/locks.ts";
import type { Ready } from "../locks/space.ts";
import type { FileKey } from "../locks/table.ts";
import type { Session, Sessions } from "./sessions.ts";

/** A mount that does not take a word about its locks for this long is cut off, and asks anew. */
const readyMs = 5_000;

/**
 * What mounts ask about locks. Everything is decided at once and in memory, in the order of the
 * requests; the only thing that takes time is to tell those whose turn has come, and nobody waits
 * for that.
 */
export class LockService {
  readonly #locks = new Locks();
  readonly #sessions: Sessions;
  readonly #log: Log;

  constructor(options: { sessions: Sessions; log: Log }) {
    this.#sessions = options.sessions;
    this.#log = options.log;
  }

  /** After `Sessions.load`: mounts from before a restart may hold locks. */
  start(): void {
    const mounts = this.#sessions.mounts().map(({ id }) => id);
    this.#locks.expect(mounts);
    if (mounts.length > 0) this.#log.event("locks.awaited", { sessions: mounts.length });
  }

  set(params: RequestOf<typeof setLock>, session: Session): ReplyOf<typeof setLock> {
    checkRange(params);
    const { type, owner, start, end } = params;
    const space = this.#locks.space(params.flock);
    const file = fileKey(params);
    try {
      if (type === "unlock") {
        space.unlock(session.id, owner, file, { start, end });
        return { outcome: "done" };
      }
      const wanted = { start, end, type };
      return { outcome: space.lock({ ...params, session: session.id, file, wanted }) };
    } finally {
      // A request that fails may have given up what it had (flock).
      this.#tell();
    }
  }

  get(params: RequestOf<typeof getLock>, session: Session): ReplyOf<typeof getLock> {
    checkRange(params);
    const space = this.#locks.space(params.flock);
    const found = space.get(session.id, params.owner, fileKey(params), params);
    if (!found) return {};
    const { start, end, type, owner } = found;
    return { lock: { start, end, type, pid: owner.session === session.id ? found.pid : 0 } };
  }

  cancel({ ticket }: RequestOf<typeof cancelLock>, session: Session): ReplyOf<typeof cancelLock> {
    const waited = [true, false].map((flock) =>
      this.#locks.space(flock).cancel(session.id, ticket),
    );
    return { waited: waited.includes(true) };
  }

  reclaim(
    { locks, last }: RequestOf<typeof reclaimLocks>,
    session: Session,
  ): ReplyOf<typeof reclaimLocks> {
    if (!this.#locks.expects(session.id)) return { wanted: false, refused: [] };
    const refused: number[] = [];
    for (const [index, lock] of locks.entries()) {
      checkRange(lock);
      const { start, end, type, owner, pid } = lock;
      const request = { session: session.id, owner, pid, wanted: { start, end, type } };
      const taken = this.#locks.space(lock.flock).reclaim({ ...request, file: fileKey(lock) });
      if (!taken) refused.push(index);
    }
    const facts = { session: session.id, locks: locks.length, refused: refused.length };
    this.#log.event("locks.reclaimed", facts);
    if (last) this.#locks.told(session.id);
    this.#tell();
    return { wanted: true, refused };
  }

  end(session: SessionId): void {
    this.#locks.end(session);
    this.#tell();
  }

  /** Those who are not reached ask again by themselves, when their connection is back. */
  #tell(): void {
    for (const [id, all] of ticketsBySession(this.#locks.takeReady())) {
      const { connection } = this.#sessions.byId(id) ?? {};
      for (let first = 0; first < all.length; first += locksPerPageMax) {
        const tickets = all.slice(first, first + locksPerPageMax);
        connection
          ?.call(lockReady, { tickets }, { deadlineMs: readyMs })
          .catch((error: unknown) => {
            this.#log.warn("session.no-lock-ready", { session: id, error });
            connection.close("did not take word of its locks in time");
          });
      }
    }
  }
}

function ticketsBySession(ready: readonly Ready[]): Map<SessionId, number[]> {
  const bySession = new Map<SessionId, number[]>();
  for (const { session, ticket } of ready) {
    const tickets = bySession.get(session);
    if (tickets) tickets.push(ticket);
    else bySession.set(session, [ticket]);
  }
  return bySession;
}

function fileKey({ ino, at }: { ino: Ino; at?: Epoch }): FileKey {
  return at === undefined ? ino : `${ino}@${at}`;
}

function checkRange({ start, end }: Range): void {
  if (start > end) throw new StatusError("invalid", "the range ends before it begins");
}
