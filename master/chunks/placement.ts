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

/** Sharing a rack outweighs sharing a host, which outweighs any difference in use. */
function costOf(candidate: Candidate, taken: readonly Candidate[]): number {
  const sameRack = taken.filter((other) => other.rack === candidate.rack).length;
  const sameHost = taken.filter((other) => other.host === candidate.host).length;
  return sameRack * 100 + sameHost * 10 + candidate.used + candidate.recent * 0.05;
}
