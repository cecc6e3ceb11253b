import { decodeRecord } from "../../chunkd/store/record.ts";
import { chunkFileName } from "../../chunkd/store/files.ts";
import { draftsMax } from "../../chunkd/limits.ts";
import { crcsByBlock } from "../../common/crc32c.ts";
import type { Master } from "../../master/master.ts";
import { chunkHandle, type ChunkHandle } from "../../protocol/id.ts";
import { parseHistoryKey } from "../../master/store/history.ts";
import { type Chunk, decodeChunk, decodeChunkRef } from "../../master/store/tables.ts";
import type { SimCluster, SimServer } from "./cluster.ts";

/** What must hold of the cluster as a whole, seen from above: of disks and tables. */

export const everything = { from: Buffer.alloc(0), to: undefined };

/** Chunk records by handle. */
export function chunksOf(master: Master): Map<ChunkHandle, Chunk> {
  const chunks = new Map<ChunkHandle, Chunk>();
  for (const { key, value } of master.committer.store.range("chunk", everything)) {
    chunks.set(chunkHandle(Number(key.readBigUInt64BE())), decodeChunk(value));
  }
  return chunks;
}

/** All programs run, and every chunk with data is on as many servers as it shall be. */
export function isHealed({ master, servers, clients }: SimCluster): boolean {
  const { program } = master;
  if (!program || servers.some((server) => server.id === undefined)) return false;
  if (clients.some(({ fileSystem }) => fileSystem === undefined)) return false;
  for (const [handle, chunk] of chunksOf(program)) {
    const { sets } = program.chunks;
    if (!chunk.written) continue;
    if (chunk.servers.length < Math.min(chunk.goal, servers.length)) return false;
    if (!sets.isWhole(handle, chunk) || sets.unsettled.of(handle).size > 0) return false;
  }
  return true;
}

/** After a while in which nobody has done anything. */
export function checkQuiet(cluster: SimCluster, flipped: ReadonlySet<ChunkHandle>): void {
  const { world, master, servers } = cluster;
  const { program } = master;
  if (!program) return world.violate("the master does not run");
  const chunks = chunksOf(program);
  checkReferences(cluster, program, chunks);
  for (const server of servers) checkLeaks(cluster, server, chunks);
  for (const [handle, chunk] of chunks) {
    // A bit that turned where nobody has read since.
    if (!flipped.has(handle)) checkReplicas(cluster, handle, chunk);
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

/** Every chunk on a server is one that the master knows, and knows to be there. */
function checkLeaks(
  { world }: SimCluster,
  server: SimServer,
  chunks: ReadonlyMap<ChunkHandle, Chunk>,
): void {
  const where = server.node.name;
  const { id, index, disk, root } = server;
  for (const handle of index.committed.chunks.keys()) {
    world.count("checked: replicas wanted");
    const chunk = chunks.get(handle);
    const member = chunk?.servers.some((each) => each === id);
    if (!member) world.violate(`${where} has chunk ${handle}, which is not its to have`);
  }
  for (const path of disk.paths(`${root}/chunks/`)) {
    const handle = chunkHandle(Number.parseInt(path.slice(path.lastIndexOf("/") + 1), 16));
    // A file that could not be removed when its record was is at the next start.
    const known = index.committed.chunks.has(handle) || index.committed.removals.has(handle);
    if (!known) world.violate(`${where} has ${path} and no record`);
  }
  // Copies that were broken off, kept for another try until the next start.
  const staged = disk.paths(`${root}/staging/`).length;
  if (staged > draftsMax) world.violate(`${where} has left ${staged} files in staging/`);
}

/** Replicas are equal, byte for byte, whenever nobody writes; and their CRCs are right. */
function checkReplicas({ world, servers }: SimCluster, handle: ChunkHandle, chunk: Chunk): void {
  if (!chunk.written) return;
  const members = servers.filter((server) => chunk.servers.some((each) => each === server.id));
  let first: { name: string; bytes: Buffer } | undefined;
  for (const server of members) {
    const { name } = server.node;
    const bytes = replicaOf(server, handle, chunk);
    if (typeof bytes === "string") return world.violate(`chunk ${handle} on ${name}: ${bytes}`);
    world.count("checked: replicas equal");
    first ??= { name, bytes };
    if (!bytes.equals(first.bytes)) {
      const at = bytes.findIndex((byte, i) => byte !== first?.bytes[i]);
      const lengths = `${first.bytes.length} and ${bytes.length} bytes`;
      const where = `from byte ${at}, ${lengths}`;
      return world.violate(`chunk ${handle} differs on ${first.name} and ${name} ${where}`);
    }
  }
}

/** A replica's bytes, or what is wrong with it. */
function replicaOf(server: SimServer, handle: ChunkHandle, chunk: Chunk): Buffer | string {
  const stored = server.index.committed.chunks.get(handle);
  if (!stored) return "it is not there";
  const record = decodeRecord(handle, stored);
  if (typeof record === "string") return record;
  if (record.version !== chunk.version) return `version ${record.version}, not ${chunk.version}`;
  const name = chunkFileName(handle);
  const path = `${server.root}/chunks/${name.slice(-2)}/${name}`;
  const bytes = record.small ? server.index.committed.small.get(handle) : server.disk.peek(path);
  if (!bytes) return "its bytes are not there";
  if (record.dirty) return bytes;
  if (bytes.length < record.length) return `${bytes.length} bytes of ${record.length}`;
  const content = bytes.subarray(0, record.length);
  if (crcsByBlock(content, 0).join() !== record.crcs.join()) return "a CRC does not match";
  return content;
}
