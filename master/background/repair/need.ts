import type { ServerId } from "../../../protocol/id.ts";
import type { ChunkFacts } from "../../chunks/census.ts";
import { betterSpread, pickDrop } from "../../chunks/placement.ts";

/** What has to be done for a chunk: decided here, from facts alone; done elsewhere. */

/** A chunk server as repair sees it. */
export interface ServerView {
  id: ServerId;
  host: string;
  rack: string;
  /** Share of the disk in use, 0 to 1. */
  used: number;
  /** It answers and has told what it has: its replicas count. */
  up: boolean;
  /** It does not, but has not for long: its replicas are waited for. */
  expected: boolean;
  /** An operator has it down for a while: its replicas are waited for. */
  maintenance: boolean;
  /** It is to be emptied: drained, or its disk fails. */
  leaving: boolean;
  /** Emptied at the cost of replicas, if no other server can take them. */
  forced: boolean;
  /** It can be given further replicas. */
  takes: boolean;
}

export type FleetView = ReadonlyMap<ServerId, ServerView>;

/** In the order in which things are done (GFS §4.3); 0 is first. */
export const priority = {
  /** Somebody waits for the chunk. */
  awaited: 0,
  /** One replica is left. */
  lastCopy: 1,
  belowGoal: 2,
  /** All replicas are there, one of them on a server that is to be emptied. */
  leaving: 3,
  /** More replicas than wanted, or servers in the set that are gone. */
  extra: 4,
  /** Replicas share a rack or a host, and need not. */
  spread: 5,
} as const;
export const prioritiesCount = 6;

export type Need = { priority: number } &
  /** A further replica on a server that is found then. */
  (
    | { kind: "copy" }
    /** The replica of `server` is not needed. */
    | { kind: "drop"; server: ServerId }
    /** The set is to be left by servers that are gone, or have no such replica. */
    | { kind: "shrink" }
    /** A further replica on `target`; then the one that is worst placed goes. */
    | { kind: "move"; target: ServerId }
    /** No data yet: it gets another set, without the servers that are to be emptied. */
    | { kind: "replace" }
  );

/** Undefined: nothing is to be done, or nothing can be done now. */
export function needOf(facts: ChunkFacts, fleet: FleetView): Need | undefined {
  const { goal, written, servers, present } = facts;
  if (!written) return needOfUnwritten(facts, fleet);
  const members = servers.flatMap((id) => fleet.get(id) ?? []);
  const live = members.filter(({ id, up }) => up && present.includes(id));
  if (live.length === 0) return undefined;
  const staying = live.filter(({ leaving }) => !leaving);
  const free = [...fleet.values()].filter(({ id, takes }) => takes && !servers.includes(id));
  if (free.length > 0 && goal - staying.length > awaitedOf(facts, fleet, live.length)) {
    return { kind: "copy", priority: copyPriority(live.length, goal) };
  }
  const enough = staying.length >= goal || (staying.length > 0 && free.length === 0);
  const given = (one: ServerView): boolean => staying.length >= goal || (enough && one.forced);
  const lacking = members.filter(({ id, up }) => up && !present.includes(id));
  const gone = servers.filter((id) => isGone(fleet.get(id)));
  const away = servers.length - live.length - lacking.length - gone.length;
  if (lacking.length > 0) {
    // They have said that they do not have it (or not up to date): they can as well have a copy.
    if (away > 0 && live.length > 1) return undefined;
    const urgency = live.length < goal ? copyPriority(live.length, goal) : priority.extra;
    return { kind: "shrink", priority: urgency };
  }
  if (gone.length + away > 0) {
    // A raise without the others would drop them too: first those who are away come back, or not.
    const dispensable = gone.some((id) => {
      const server = fleet.get(id);
      return server ? given(server) : staying.length >= goal;
    });
    if (away > 0 || !dispensable) return undefined;
    return { kind: "shrink", priority: priority.extra };
  }
  const leaver = live.find((one) => one.leaving && given(one));
  if (leaver) return { kind: "drop", server: leaver.id, priority: priority.leaving };
  return needOfComplete(goal, live, staying, free);
}

/** All members of the set are there. */
function needOfComplete(
  goal: number,
  live: readonly ServerView[],
  staying: readonly ServerView[],
  free: readonly ServerView[],
): Need | undefined {
  if (staying.length > goal) {
    const extra = pickDrop(staying);
    return extra && { kind: "drop", server: extra.id, priority: priority.extra };
  }
  if (staying.length < goal || staying.length < live.length) return undefined;
  const target = betterSpread(staying, free);
  return target && { kind: "move", target: target.id, priority: priority.spread };
}

/** A server that has left without being expected back, or that nobody knows any more. */
function isGone(server: ServerView | undefined): boolean {
  return !server || !(server.up || server.expected || server.maintenance);
}

/**
 * Replicas that come back by themselves if one waits: of members that are away for a short while,
 * and, if a write has reduced the set meanwhile, of servers that may have been members. A chunk
 * with a single live replica waits for nobody but those whom an operator has taken down.
 */
function awaitedOf({ servers }: ChunkFacts, fleet: FleetView, live: number): number {
  let awaited = 0;
  for (const { id, up, expected, maintenance, leaving } of fleet.values()) {
    if (up || leaving || !(expected || maintenance)) continue;
    if (live > 1 || (maintenance && servers.includes(id))) awaited += 1;
  }
  return awaited;
}

function copyPriority(live: number, goal: number): number {
  if (live >= goal) return priority.leaving;
  return live === 1 ? priority.lastCopy : priority.belowGoal;
}

function needOfUnwritten({ servers }: ChunkFacts, fleet: FleetView): Need | undefined {
  const members = servers.flatMap((id) => fleet.get(id) ?? []);
  const stays = ({ up, leaving }: ServerView): boolean => up && !leaving;
  const others = [...fleet.values()].some(
    (server) => stays(server) && (server.takes || servers.includes(server.id)),
  );
  if (!others || !members.some(({ leaving }) => leaving)) return undefined;
  return { kind: "replace", priority: priority.leaving };
}
