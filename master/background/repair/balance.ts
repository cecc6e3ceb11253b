import type { ChunkFacts } from "../../chunks/census.ts";
import { pickDrop, spreadCost } from "../../chunks/placement.ts";
import { type FleetView, needOf, type ServerView } from "./need.ts";
import type { Transfer } from "./slots.ts";

/**
 * Servers whose shares of used disk differ by less than this are even enough: below it, moving
 * chunks costs clients more than evenness gives them, and moving would never end.
 */
export const unevenShare = 0.05;
/** Pairs that are tried in one search. */
const pairsMax = 16;

/**
 * From which servers replicas should move to which: from those that are fuller than the mean to
 * those that are emptier, the widest difference first.
 */
export function unevenPairs(fleet: FleetView): Transfer[] {
  const all = [...fleet.values()].filter(({ up, leaving }) => up && !leaving);
  const mean = all.reduce((sum, { used }) => sum + used, 0) / Math.max(1, all.length);
  const sources = all.filter(({ used }) => used > mean).toSorted((a, b) => b.used - a.used);
  const targets = all
    .filter(({ used, takes }) => takes && used < mean)
    .toSorted((a, b) => a.used - b.used);
  const pairs = sources.slice(0, pairsMax).flatMap((source) =>
    targets.slice(0, pairsMax).flatMap((target) => {
      const difference = source.used - target.used;
      return difference > unevenShare ? [{ source: source.id, target: target.id, difference }] : [];
    }),
  );
  return pairs
    .toSorted((a, b) => b.difference - a.difference)
    .slice(0, pairsMax)
    .map(({ source, target }) => ({ source, target }));
}

/**
 * True if a replica of such a chunk can move so: nothing else is to be done for it, its spread over
 * racks and hosts gets no worse, and the source's replica is the one that is dropped then.
 */
export function canMove(
  facts: ChunkFacts,
  fleet: FleetView,
  { source, target }: Transfer,
): boolean {
  if (!facts.written || !facts.servers.includes(source) || facts.servers.includes(target)) {
    return false;
  }
  if (needOf(facts, fleet)) return false;
  const members = facts.servers.flatMap((id): ServerView[] => {
    const server = fleet.get(id);
    return server?.up && facts.present.includes(id) ? [server] : [];
  });
  const added = fleet.get(target);
  if (!added || members.length !== facts.servers.length) return false;
  const more = [...members, added];
  const moved = more.filter(({ id }) => id !== source);
  return pickDrop(more)?.id === source && spreadCost(moved) <= spreadCost(members);
}
