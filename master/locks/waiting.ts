import type { SessionId } from "../../protocol/id.ts";
import type { FileKey, LockTable, Owner, Wanted } from "./table.ts";

/** A request that stands in line. */
export interface Waiter {
  readonly owner: Owner;
  readonly file: FileKey;
  readonly wanted: Wanted;
  readonly pid: number;
  /** The mount's number for it. */
  readonly ticket: number;
}

/** Who waits for what: one line per file, first come first served. */
export class WaitingLines {
  readonly #lines = new Map<FileKey, Set<Waiter>>();
  readonly #bySession = new Map<SessionId, Map<number, Waiter>>();
  readonly #byOwner = new Map<Owner, Set<Waiter>>();

  add(waiter: Waiter): void {
    const { owner, file, ticket } = waiter;
    this.#lines.set(file, (this.#lines.get(file) ?? new Set()).add(waiter));
    this.#byOwner.set(owner, (this.#byOwner.get(owner) ?? new Set()).add(waiter));
    const tickets = this.#bySession.get(owner.session) ?? new Map<number, Waiter>();
    this.#bySession.set(owner.session, tickets.set(ticket, waiter));
  }

  remove(waiter: Waiter): void {
    const { owner, file, ticket } = waiter;
    const line = this.#lines.get(file);
    line?.delete(waiter);
    if (line?.size === 0) this.#lines.delete(file);
    const its = this.#byOwner.get(owner);
    its?.delete(waiter);
    if (its?.size === 0) this.#byOwner.delete(owner);
    const tickets = this.#bySession.get(owner.session);
    tickets?.delete(ticket);
    if (tickets?.size === 0) this.#bySession.delete(owner.session);
  }

  find(session: SessionId, ticket: number): Waiter | undefined {
    return this.#bySession.get(session)?.get(ticket);
  }

  of(session: SessionId): Waiter[] {
    return [...(this.#bySession.get(session)?.values() ?? [])];
  }

  count(session: SessionId): number {
    return this.#bySession.get(session)?.size ?? 0;
  }

  /** In the order in which they came. */
  line(file: FileKey): Waiter[] {
    return [...(this.#lines.get(file) ?? [])];
  }

  files(): FileKey[] {
    return [...this.#lines.keys()];
  }

  isWaiting(owner: Owner): boolean {
    return this.#byOwner.has(owner);
  }

  /**
   * True if `owner`, who holds locks and wants another, would wait for somebody who waits, perhaps
   * through others, for `owner`. An owner waits for all who hold what is in the way of any of its
   * requests: a process with a thread that waits counts as waiting, as it does on Linux
   * (posix_locks_deadlock), though another of its threads might go on and unlock.
   */
  wouldDeadlock(table: LockTable, request: Pick<Waiter, "owner" | "file" | "wanted">): boolean {
    const seen = new Set<Owner>();
    const rest = [...table.blockers(request.owner, request.file, request.wanted)];
    for (let next = rest.pop(); next; next = rest.pop()) {
      if (next === request.owner) return true;
      if (seen.has(next)) continue;
      seen.add(next);
      for (const { owner, file, wanted } of this.#byOwner.get(next) ?? []) {
        rest.push(...table.blockers(owner, file, wanted));
      }
    }
    return false;
  }

  get isEmpty(): boolean {
    return this.#lines.size + this.#bySession.size + this.#byOwner.size === 0;
  }
}
