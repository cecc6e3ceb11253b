import type { Replica } from "../../protocol/shapes.ts";

/** Where this mount is, for choosing the nearest replica. */
export interface Place {
  /** Addresses of this machine. */
  hosts: ReadonlySet<string>;
  rack: string;
}

const hostOf = (address: string): string => address.slice(0, address.lastIndexOf(":"));

/** Smaller is nearer: this machine, this rack, then the longest common prefix of addresses. */
function distance(place: Place, replica: Replica): number {
  const host = hostOf(replica.address);
  if (place.hosts.has(host)) return 0;
  if (place.rack !== "" && replica.rack === place.rack) return 1;
  let common = 0;
  for (const own of place.hosts) common = Math.max(common, commonPrefix(own, host));
  return 1_000 - common;
}

/** Replicas, nearest first; chance decides among equals, so that load spreads. */
export function byDistance(
  place: Place,
  replicas: readonly Replica[],
  random: () => number,
): Replica[] {
  return replicas
    .map((replica) => ({ replica, cost: distance(place, replica) + random() * 0.5 }))
    .toSorted((a, b) => a.cost - b.cost)
    .map(({ replica }) => replica);
}

function commonPrefix(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length += 1;
  return length;
}
