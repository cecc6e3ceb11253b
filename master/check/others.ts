import { decodeCbor } from "../../protocol/codec.ts";
import { epoch as toEpoch } from "../../protocol/id.ts";
import { isDirectory } from "../../protocol/mode.ts";
import { decodeReply } from "../namespace/committer.ts";
import { counters } from "../namespace/ids.ts";
import { numberFromKey, numberKey, sinceOf } from "../store/bytes.ts";
import { parseHistoryKey, recordAt, type VersionedTable } from "../store/history.ts";
import {
  decodeChunk,
  decodeChunkRef,
  decodeEntry,
  decodeInode,
  decodeLink,
  decodeSnapshot,
  decodeXattr,
} from "../store/tables.ts";
import type { Scan } from "./scan.ts";

/** The tables besides those of the tree. */

/** Counters first: everything else is compared with them. */
export function checkMeta(scan: Scan): void {
  scan.epoch = scan.metaNumber("epoch") ?? 1;
  for (const counter of counters) {
    const limit = scan.metaNumber(`next:${counter}`);
    if (limit === undefined) scan.fault(`meta next:${counter}: there is no such counter`);
    scan.limits.set(counter, limit ?? Number.MAX_SAFE_INTEGER);
  }
  for (const { key, value } of scan.table("meta", 1)) {
    const text = key.toString();
    scan.decoded(`meta ${text}`, () => decodeCbor(Buffer.from(value)));
    const [, prefix, number] = /^(server|unsettled):(\d+)$/.exec(text) ?? [];
    const id = Number(number);
    if (prefix === "server") {
      scan.servers.add(id);
      if (id >= scan.limit("server")) scan.fault(`meta ${text}: this id was never given out`);
    } else if (prefix === "unsettled") {
      if (id >= scan.limit("handle")) scan.fault(`meta ${text}: this handle was never given out`);
    } else if (!/^(format|epoch|next:\w+)$/.test(text)) scan.fault(`meta ${text}: is not known`);
  }
}

export function checkUnlinked(scan: Scan): void {
  for (const table of ["orphan", "trash"] as const) {
    for (const { key } of scan.table(table, table === "orphan" ? 8 : 16)) {
      const ino = numberFromKey(key, table === "orphan" ? 0 : 8);
      const what = `${table} ${ino}`;
      if (scan.kinds.get(ino) === 0) scan.fault(`${what}: inode ${ino} does not exist`);
      else if (scan.nlinks.get(ino) > 0) scan.fault(`${what}: inode ${ino} has links`);
      if (scan.unlinked.get(ino) > 0) scan.fault(`${what}: inode ${ino} is there twice`);
      scan.unlinked.set(ino, 1);
    }
  }
}

const decoders: Record<VersionedTable, (record: Buffer) => unknown> = {
  inode: decodeInode,
  entry: decodeEntry,
  link: decodeLink,
  chunkmap: decodeChunkRef,
  xattr: decodeXattr,
};

/** What a key was in one epoch is said by one record: [since, until) do not overlap. */
export function checkHistory(scan: Scan): void {
  let before: { row: string; until: number } | undefined;
  for (const { key, value } of scan.table("history", 1)) {
    const parsed = parseHistoryKey(key);
    if (!parsed) {
      scan.fault(`history: the key ${key.toString("hex")} is none of this table`);
      continue;
    }
    const { table, until } = parsed;
    const row = `${table} ${parsed.key.toString("hex")}`;
    const what = `history of ${row} until ${until}`;
    const record = scan.decoded(what, () => decoders[table](value));
    if (record === undefined) continue;
    const since = sinceOf(value);
    if (since >= until || until > scan.epoch) scan.fault(`${what}: it begins in epoch ${since}`);
    if (before?.row === row && before.until > since) {
      scan.fault(`${what}: overlaps the record until ${before.until}`);
    }
    const current = scan.store.get(table, parsed.key);
    if (current && current.length >= 12 && sinceOf(current) < until) {
      scan.fault(`${what}: overlaps the current record`);
    }
    if (table === "chunkmap") scan.references.add(decodeChunkRef(value).handle, 1);
    before = { row, until };
  }
}

/** After the chunk map and history have been counted. */
export function checkChunks(scan: Scan): void {
  for (const { key, value } of scan.table("chunk", 8)) {
    const handle = numberFromKey(key, 0);
    const what = `chunk ${handle}`;
    const counted = scan.references.get(handle);
    scan.references.set(handle, 0);
    const chunk = scan.decoded(what, () => decodeChunk(value));
    if (!chunk) continue;
    if (chunk.refs !== counted) {
      scan.fault(`${what}: counts ${chunk.refs} references, ${counted} name it`);
    }
    if (handle >= scan.limit("handle")) scan.fault(`${what}: this handle was never given out`);
    if (chunk.version < 1) scan.fault(`${what}: its version is ${chunk.version}`);
    if (chunk.goal < 1) scan.fault(`${what}: it wants ${chunk.goal} replicas`);
    if (new Set(chunk.servers).size < chunk.servers.length) {
      scan.fault(`${what}: a server is in its set twice`);
    }
    const unknown = chunk.servers.find((server) => !scan.servers.has(server));
    if (unknown !== undefined) scan.fault(`${what}: server ${unknown} of its set is not known`);
  }
  for (const [handle, count] of scan.references.entries()) {
    scan.fault(`chunk ${handle}: ${count} rows name it, there is no record of it`);
  }
}

export function checkSnapshots(scan: Scan): void {
  const epochs = new Map<number, string>();
  for (const { key, value } of scan.table("snapshot", 9)) {
    const dir = numberFromKey(key, 0);
    const what = `snapshot ${JSON.stringify(key.subarray(8).toString())} of directory ${dir}`;
    const snapshot = scan.decoded(what, () => decodeSnapshot(value));
    if (!snapshot) continue;
    const { epoch } = snapshot;
    if (epoch >= scan.epoch) scan.fault(`${what}: is of epoch ${epoch}, now is ${scan.epoch}`);
    const other = epochs.get(epoch);
    if (other !== undefined) scan.fault(`${what}: has the epoch of ${other}`);
    epochs.set(epoch, what);
    const record = recordAt(scan.store, "inode", numberKey(dir), toEpoch(epoch));
    const inode = record && scan.decoded(what, () => decodeInode(record));
    if (!record) scan.fault(`${what}: the directory is not in history`);
    else if (inode && !isDirectory(inode)) scan.fault(`${what}: it is of no directory`);
  }
}

export function checkSessions(scan: Scan): void {
  let current: number | undefined;
  for (const { key, value } of scan.table("session", 16)) {
    const id = numberFromKey(key, 0);
    const seq = numberFromKey(key, 8);
    const what = seq === 0 ? `session ${id}` : `reply ${seq} of session ${id}`;
    scan.decoded(what, () => decodeReply(value));
    if (seq === 0) current = id;
    else if (current !== id) scan.fault(`${what}: there is no such session`);
    if (id >= scan.limit("session")) scan.fault(`${what}: this id was never given out`);
  }
}
