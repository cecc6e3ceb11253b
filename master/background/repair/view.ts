import type { ServerId } from "../../../protocol/id.ts";
import type { ChunkServer, Fleet } from "../../fleet/fleet.ts";
import type { FleetView, ServerView } from "./need.ts";

/**
 * The chunk servers as they are now. `chunkBytes`: what must be free on one that is given a
 * replica. `comingBytes`: what has been moved to (or, negative, from) servers since they last said
 * how full they are.
 */
export function viewOf(
  fleet: Fleet,
  chunkBytes: number,
  comingBytes: ReadonlyMap<ServerId, number>,
): FleetView {
  const takers = new Set(fleet.candidates(chunkBytes).map(({ id }) => id));
  return new Map(
    fleet.all().map((server) => {
      const coming = comingBytes.get(server.id) ?? 0;
      return [server.id, serverView(fleet, server, { takes: takers.has(server.id), coming })];
    }),
  );
}

function serverView(
  fleet: Fleet,
  server: ChunkServer,
  { takes, coming }: { takes: boolean; coming: number },
): ServerView {
  const state = fleet.stateOf(server);
  const up = state === "up" && server.inventoried;
  const { id, host, rack, used } = fleet.candidate(server);
  const { usedBytes, freeBytes } = server.usage;
  const { mode, forced } = server.duty;
  return {
    ...{ id, host, rack, takes, forced },
    used: used + coming / Math.max(1, usedBytes + freeBytes),
    up,
    expected: !up && (state !== "dead" || fleet.isAwaited(id)),
    maintenance: mode === "maintenance",
    leaving: fleet.isLeaving(server),
  };
}

/** Differs when something has changed that may give chunks other needs. How full servers are does
 * not count: it always changes. */
export function viewKey(view: FleetView): string {
  return JSON.stringify([...view.values()].map((server) => ({ ...server, used: 0 })));
}
