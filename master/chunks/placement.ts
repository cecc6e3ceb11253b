import type { ServerId } from "../../protocol/id.ts";

/** What placement knows of a server that can take a chunk. */
export interface Candidate {
  id: ServerId;
  host: string;
  rack: string;
  /** Share of the disk in use, 0 to 1. */
  used: number;
  /** Chunks placed there a moment ago: they will soon be written to (GFS §4.2). */
  recent: number;
}

/** Sharing a rack outweighs sharing a host, which outweighs any difference in use. */
const sameRackCost = 100;
const sameHostCost = 10;

/**
 * Chooses up to `count` servers for the replicas of a chunk: spread over racks first, then hosts,
 * then those with less in use and fewer recent creations. `present`: what already holds one.
 */
export function place(
  candidates: readonly Candidate[],
  count: number,
  options: { present: readonly Candidate[]; random: () => number },
): ServerId[] {
  const chosen: Candidate[] = [];
  const left = new Set(candidates);
  for (const holder of options.present) {
    for (const candidate of left) if (candidate.id === holder.id) left.delete(candidate);
  }
  while (chosen.length < count && left.size > 0) {
    const taken = [...options.present, ...chosen];
    let best: { candidate: Candidate; cost: number } | undefined;
    for (const candidate of left) {
      const cost = costOf(candidate, taken) + options.random() * 0.02;
      if (!best || cost < best.cost) best = { candidate, cost };
    }
    if (!best) break;
    chosen.push(best.candidate);
    left.delete(best.candidate);
  }
  return chosen.map((candidate) => candidate.id);
}

function costOf(candidate: Candidate, taken: readonly Candidate[]): number {
  return sharing(candidate, taken) + candidate.used + candidate.recent * 0.05;
}

/** Where a server stands in the building, and how full it is. */
type Place = Pick<Candidate, "id" | "host" | "rack" | "used">;

function sharing(one: Place, others: readonly Place[]): number {
  let cost = 0;
  for (const other of others) {
    if (other.rack === one.rack) cost += sameRackCost;
    if (other.host === one.host) cost += sameHostCost;
  }
  return cost;
}

/** How badly replicas are spread: what each pair of them shares. 0 is best. */
export function spreadCost(members: readonly Place[]): number {
  let cost = 0;
  for (const [i, member] of members.entries()) cost += sharing(member, members.slice(i + 1));
  return cost;
}

/**
 * The replica that can best be done without: the rest is spread best, then it is the fullest
 * server's, then the youngest's.
 */
export function pickDrop<Member extends Place>(members: readonly Member[]): Member | undefined {
  return members.toSorted((a, b) => {
    const without = (one: Member): number =>
      sharing(
        one,
        members.filter((m) => m !== one),
      );
    return without(b) - without(a) || b.used - a.used || b.id - a.id;
  })[0];
}

/**
 * The server to move a replica to so that the spread is better than it is; undefined if it cannot
 * be. What then is one too many is what `pickDrop` says.
 */
export function betterSpread<Member extends Place>(
  members: readonly Member[],
  free: readonly Member[],
): Member | undefined {
  let least = spreadCost(members);
  if (least === 0) return undefined;
  let best: Member | undefined;
  for (const candidate of free) {
    const more = [...members, candidate];
    const dropped = pickDrop(more);
    const cost = spreadCost(more.filter((member) => member !== dropped));
    if (cost < least || (cost === least && best && candidate.used < best.used)) {
      least = cost;
      best = candidate;
    }
  }
  return best;
}
