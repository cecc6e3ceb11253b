import { type ChunkRecord, decodeRecord } from "../../chunkd/store/record.ts";
import { chunkFileName } from "../../chunkd/store/files.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import { checkStore } from "../../master/check/check.ts";
import type { Master } from "../../master/master.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { parseHistoryKey } from "../../master/store/history.ts";
import { type Chunk, decodeChunkRef } from "../../master/store/tables.ts";
import type { SimCluster, SimServer } from "./cluster.ts";
import { leftOver } from "./leaks.ts";
import { chunksOf, everything } from "./tables.ts";

/** What must hold of the cluster as a whole, seen from above: of disks and tables. */

/** Why not all programs run with every chunk on as many servers as it shall be, if that is so. */
export function wound(cluster: SimCluster): string | undefined {
  const { master, servers, clients } = cluster;
  const { program } = master;
  if (!program) return "the master does not run";
  for (const { id, node } of servers) if (id === undefined) return `${node.name} does not run`;
  for (const client of clients) if (!client.fileSystem) return `${client.node.name} does not run`;
  const { sets } = program.chunks;
  const usable = program.fleet.candidates(0).length;
  for (const [handle, chunk] of chunksOf(program)) {
    if (!chunk.written || isLost(cluster, handle, chunk)) continue;
    const set = `chunk ${handle} (servers ${chunk.servers.join(",")})`;
    if (chunk.servers.length < Math.min(chunk.goal, usable)) return `${set} is below goal`;
    if (sets.unsettled.of(handle).size > 0) return `${set} is in doubt`;
    if (!sets.isWhole(handle, chunk)) return `${set} is on ${sets.present(handle).join(",")} only`;
  }
  return undefined;
}

/**
 * Disks that fail can take more replicas than there are left: a chunk that has shrunk to one whose
 * disk then fails to keep it. Then an error is all that can be told.
 */
function isLost({ servers, disksFail }: SimCluster, handle: ChunkHandle, chunk: Chunk): boolean {
  if (!disksFail) return false;
  const members = servers.filter(({ id }) => chunk.servers.some((member) => member === id));
  return members.length > 0 && members.every(({ node }) => node.badChunks.has(handle));
}

/** After a while in which nobody has done anything. */
export function checkQuiet(cluster: SimCluster, bitsTurned: boolean): void {
  const { world, master } = cluster;
  const { program } = master;
  if (!program) return world.violate("the master does not run");
  const chunks = chunksOf(program);
  checkReferences(cluster, program, chunks);
  checkTables(cluster, program);
  const left = leftOver(cluster);
  world.count("checked: nothing is left over");
  if (left !== undefined) world.violate(`what is left over came back: ${left}`);
  for (const [handle, chunk] of chunks) {
    if (isLost(cluster, handle, chunk)) world.count("chunk lost by failing disks");
    else checkReplicas(cluster, { handle, chunk, isFlipped: bitsTurned });
  }
}

/** Reference counts are what they count: rows of chunkmap, and of history that was chunkmap. */
function checkReferences(
  { world }: SimCluster,
  master: Master,
  chunks: ReadonlyMap<ChunkHandle, Chunk>,
): void {
  const { store } = master.committer;
  const found = new Map<ChunkHandle, number>();
  const add = (record: Buffer): void => {
    const { handle } = decodeChunkRef(record);
    found.set(handle, (found.get(handle) ?? 0) + 1);
  };
  for (const { value } of store.range("chunkmap", everything)) add(value);
  for (const { key, value } of store.range("history", everything)) {
    if (parseHistoryKey(key)?.table === "chunkmap") add(value);
  }
  for (const [handle, { refs }] of chunks) {
    world.count("checked: references");
    const count = found.get(handle) ?? 0;
    if (count !== refs) world.violate(`chunk ${handle} has ${refs} references, ${count} found`);
  }
  for (const handle of found.keys()) {
    if (!chunks.has(handle)) world.violate(`chunk ${handle} is referred to and not on record`);
  }
}

/** What `gfs-master --check` looks for. */
function checkTables({ world }: SimCluster, master: Master): void {
  const { rows } = checkStore(master.committer.store, (fault) => world.violate(`table: ${fault}`));
  for (const [table, count] of rows) world.count(`checked: rows of ${table}`, count);
}

/**
 * Replicas are equal, byte for byte, whenever nobody writes; and their CRCs are right. Where a bit
 * has turned since somebody looked, a CRC says so, and is what it was.
 */
function checkReplicas(
  { world, servers }: SimCluster,
  { handle, chunk, isFlipped }: { handle: ChunkHandle; chunk: Chunk; isFlipped: boolean },
): void {
  if (!chunk.written) return;
  const members = servers.filter((server) => chunk.servers.some((each) => each === server.id));
  let first: { name: string; replica: Replica } | undefined;
  for (const server of members) {
    const { name } = server.node;
    const replica = replicaOf(server, handle);
    if (typeof replica === "string") return world.violate(`chunk ${handle} on ${name}: ${replica}`);
    const wrong = wrongWith(replica, chunk, isFlipped);
    if (wrong !== undefined) return world.violate(`chunk ${handle} on ${name}: ${wrong}`);
    world.count("checked: replicas equal");
    first ??= { name, replica };
    const differs = difference(first.replica, replica, isFlipped);
    if (differs === undefined) continue;
    return world.violate(`chunk ${handle} differs on ${first.name} and ${name}: ${differs}`);
  }
}

interface Replica {
  record: ChunkRecord;
  bytes: Buffer;
}

/** What a server has of a chunk, past all faults, or what it lacks. */
export function replicaOf(server: SimServer, handle: ChunkHandle): Replica | string {
  const stored = server.index.committed.chunks.get(handle);
  if (!stored) return "it is not there";
  const record = decodeRecord(handle, stored);
  if (typeof record === "string") return record;
  const name = chunkFileName(handle);
  const path = `${server.root}/chunks/${name.slice(-2)}/${name}`;
  const bytes = record.small ? server.index.committed.small.get(handle) : server.disk.peek(path);
  if (!bytes) return "its bytes are not there";
  return { record, bytes: record.dirty ? bytes : bytes.subarray(0, record.length) };
}

function wrongWith(
  { record, bytes }: Replica,
  chunk: Chunk,
  isFlipped: boolean,
): string | undefined {
  if (record.version !== chunk.version) return `version ${record.version}, not ${chunk.version}`;
  if (record.dirty) return undefined;
  if (bytes.length < record.length) return `${bytes.length} bytes of ${record.length}`;
  return isFlipped || isIntact({ record, bytes }) ? undefined : "a CRC does not match";
}

export function isIntact({ record, bytes }: Replica): boolean {
  return crcsByBlock(bytes, 0).join() === record.crcs.join();
}

function difference(one: Replica, other: Replica, isFlipped: boolean): string | undefined {
  const lengths = `${one.bytes.length} and ${other.bytes.length} bytes`;
  if (isFlipped && !one.record.dirty && !other.record.dirty) {
    const block = one.record.crcs.findIndex((crc, i) => crc !== other.record.crcs[i]);
    const areEqual = block < 0 && one.record.crcs.length === other.record.crcs.length;
    return areEqual ? undefined : `CRCs from block ${block} on, ${lengths}`;
  }
  if (one.bytes.equals(other.bytes)) return undefined;
  return `from byte ${one.bytes.findIndex((byte, i) => byte !== other.bytes[i])}, ${lengths}`;
}
