import { draftsMax } from "../../chunkd/limits.ts";
import type { Master } from "../../master/master.ts";
import { chunkHandle, type ChunkHandle } from "../../protocol/id.ts";
import type { Chunk } from "../../master/store/tables.ts";
import type { SimCluster, SimServer } from "./cluster.ts";
import { chunksOf, everything } from "./tables.ts";

/**
 * The first thing that is left over, if there is one, in a cluster in which nobody does anything
 * any more: what the background has to clear away sooner or later.
 */
export function leftOver(cluster: SimCluster): string | undefined {
  const { master, servers } = cluster;
  const { program } = master;
  if (!program) return "the master does not run";
  const chunks = chunksOf(program);
  for (const server of servers) {
    const found = onServer(server, chunks, program);
    if (found !== undefined) return found;
  }
  const { connections } = cluster.network;
  if (connections > connectionsMost(cluster)) return `${connections} connections`;
  return onMaster(cluster, program);
}

/** Everybody to the master, and everybody else to every server. */
function connectionsMost({ servers, clients }: SimCluster): number {
  return servers.length * (servers.length + clients.length) + clients.length;
}

/** Every chunk on a server is one that the master knows, and knows to be there. */
function onServer(
  { node, id, index, disk, root }: SimServer,
  chunks: ReadonlyMap<ChunkHandle, Chunk>,
  master: Master,
): string | undefined {
  const where = node.name;
  for (const handle of index.committed.chunks.keys()) {
    const isMember = chunks.get(handle)?.servers.some((each) => each === id);
    if (!isMember && !isLacking(master, handle))
      return `${where} has chunk ${handle}, which is not its to have`;
  }
  for (const path of disk.paths(`${root}/chunks/`)) {
    const handle = chunkHandle(Number.parseInt(path.slice(path.lastIndexOf("/") + 1), 16));
    // A file that could not be removed when its record was is at the next start.
    const isKnown = index.committed.chunks.has(handle) || index.committed.removals.has(handle);
    if (!isKnown) return `${where} has ${path} and no record`;
  }
  // Copies that were broken off, kept for another try until the next start.
  const staged = disk.paths(`${root}/staging/`).length;
  return staged > draftsMax ? `${where} has left ${staged} files in staging/` : undefined;
}

/**
 * True for a chunk below its goal, whose old replicas are kept for a copy. When all is quiet there
 * is one only where too many disks have failed to have it anywhere.
 */
function isLacking({ chunks, fleet }: Master, handle: ChunkHandle): boolean {
  const chunk = chunks.sets.find(handle);
  const good = fleet.up().filter((server) => !fleet.isLeaving(server)).length;
  const live = chunks.sets.present(handle).length;
  return chunk?.written === true && live < chunk.goal && good < chunk.goal;
}

function onMaster({ clients }: SimCluster, master: Master): string | undefined {
  const { sessions, chunks, fleet, repair, committer } = master;
  const count = (table: "orphan" | "trash" | "history"): number =>
    [...committer.store.range(table, everything)].length;
  const mounts = sessions.mounts().length;
  if (mounts !== clients.length) return `${mounts} sessions of mounts`;
  const { copying, waiting } = repair.load;
  if (copying + waiting > 0) return `${copying} copies under way, ${waiting} chunks in line`;
  const stale = [...chunks.sets.stale.handles()].find((handle) => !isLacking(master, handle));
  if (stale !== undefined) return `a stale replica of chunk ${stale} on record`;
  for (const { id, removals } of fleet.all()) {
    if (removals.size > 0) return `${removals.size} chunks that server ${id} has to delete`;
  }
  if (count("trash") > 0) return `${count("trash")} inodes in the trash`;
  if (count("orphan") > 0) return `${count("orphan")} orphans`;
  const [snapshot] = committer.store.range("snapshot", everything);
  if (!snapshot && count("history") > 0) return `${count("history")} rows of history`;
  return undefined;
}
