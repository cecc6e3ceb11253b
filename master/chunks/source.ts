import type { ServerId } from "../../protocol/id.ts";

/** What is compared of a replica: its length, and that with all block CRCs as one text. */
export interface Sum {
  length: number;
  text: string;
}

/**
 * Which of several replicas is the measure for the others, when none is known to have every
 * acknowledged byte: the longest, as what a loss of power took is missing at the end; of several
 * lengths alike what most of them have; and of those one that was not `uneven`: a server that was
 * cut off may have gone on with a write that nobody else has and that is over for the master.
 * Undefined if there are none.
 */
export function bestSource(
  sums: ReadonlyMap<ServerId, Sum>,
  uneven: ReadonlySet<ServerId>,
): ServerId | undefined {
  const votes = new Map<string, number>();
  for (const { text } of sums.values()) votes.set(text, (votes.get(text) ?? 0) + 1);
  const rank = (id: ServerId, { length, text }: Sum): readonly number[] => [
    length,
    votes.get(text) ?? 0,
    uneven.has(id) ? 0 : 1,
  ];
  let best: { id: ServerId; rank: readonly number[] } | undefined;
  for (const [id, sum] of sums) {
    const own = rank(id, sum);
    if (!best || isHigher(own, best.rank)) best = { id, rank: own };
  }
  return best?.id;
}

/** By the first number in which they differ. */
function isHigher(a: readonly number[], b: readonly number[]): boolean {
  const at = a.findIndex((value, i) => value !== b[i]);
  return at >= 0 && (a[at] ?? 0) > (b[at] ?? 0);
}
