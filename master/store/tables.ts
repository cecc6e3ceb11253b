import {
  type ChunkHandle,
  chunkHandle,
  type ChunkVersion,
  chunkVersion,
  type Epoch,
  epoch,
  type Ino,
  ino,
  type ServerId,
  serverId,
} from "../../protocol/id.ts";
import { RecordReader, RecordWriter } from "./bytes.ts";

/**
 * The records of each table and their bytes.
 *
 *   table     key                         record                                versioned
 *   meta      text                        CBOR                                  no
 *   inode     ino                         Inode                                 yes
 *   entry     parent ino, name            EntryRecord                           yes
 *   link      ino, parent ino             LinkRecord: further parents           yes
 *   chunkmap  ino, chunk index            ChunkRef                              yes
 *   xattr     ino, name                   Xattr                                 yes
 *   chunk     handle                      Chunk                                 no
 *   history   table, key, [0], until      the record as it was before `until`
 *   snapshot  directory ino, name         SnapshotRecord                        no
 *   session   session, 0 or seq           CBOR: the session, or a reply (P7)    no
 *   orphan    ino                         open somewhere, without an entry: empty, no
 *                                         or 1 byte if link(2) may give it one
 *   trash     when (ms), ino              empty: unlinked, to be reclaimed      no
 *
 * Numbers in keys are 8 bytes, big-endian. A versioned record starts with `since`, the epoch in
 * which it was written.
 */

export interface Versioned {
  since: Epoch;
}

export interface Inode extends Versioned {
  mode: number;
  uid: number;
  gid: number;
  nlink: number;
  rdev: number;
  size: number;
  /** Chunks that the file has; the rest of its size is holes. */
  chunks: number;
  atime: bigint;
  mtime: bigint;
  ctime: bigint;
  /** The directory of its (first) entry; 0 for the root and for what is unlinked. */
  parent: Ino;
  /** Replicas wanted for what is written in it; for a directory, what new files inherit. */
  replicas: number;
  /** Extended attributes that it has: most inodes have none, and need not be asked for one. */
  xattrs: number;
  /** A symlink's target, else empty. */
  target: Buffer;
}

export interface EntryRecord extends Versioned {
  ino: Ino;
  /** The type bits of the inode's mode, for a d_type without reading the inode. */
  type: number;
}

export interface LinkRecord extends Versioned {
  /** Entries in that parent beyond the one that the inode record counts. */
  count: number;
}

export interface ChunkRef extends Versioned {
  handle: ChunkHandle;
}

export interface Xattr extends Versioned {
  value: Buffer;
}

export interface Chunk {
  version: ChunkVersion;
  /** Rows of chunkmap and history that name it. */
  refs: number;
  /** Replicas wanted. */
  goal: number;
  /** False until a mount has committed data to it: until then it reads as a hole. */
  written: boolean;
  /**
   * The set: the servers that hold, or are to hold, every acknowledged byte under this version. It
   * only changes together with the version, in one commit.
   */
  servers: readonly ServerId[];
  /** A truncation that replicas may not have seen yet: they must be cut to this length first. */
  cutTo: number | undefined;
}

export interface SnapshotRecord {
  epoch: Epoch;
  createdAt: bigint;
}

export function encodeInode(inode: Inode): Buffer {
  return new RecordWriter(112 + inode.target.length)
    .u53(inode.since)
    .u32(inode.mode)
    .u32(inode.uid)
    .u32(inode.gid)
    .u32(inode.nlink)
    .u32(inode.rdev)
    .u53(inode.size)
    .u53(inode.chunks)
    .i64(inode.atime)
    .i64(inode.mtime)
    .i64(inode.ctime)
    .u53(inode.parent)
    .u8(inode.replicas)
    .u32(inode.xattrs)
    .rest(inode.target)
    .end();
}

export function decodeInode(record: Buffer): Inode {
  const reader = new RecordReader(record, "inode");
  return {
    since: epoch(reader.u53()),
    mode: reader.u32(),
    uid: reader.u32(),
    gid: reader.u32(),
    nlink: reader.u32(),
    rdev: reader.u32(),
    size: reader.u53(),
    chunks: reader.u53(),
    atime: reader.i64(),
    mtime: reader.i64(),
    ctime: reader.i64(),
    parent: ino(reader.u53()),
    replicas: reader.u8(),
    xattrs: reader.u32(),
    target: reader.rest(),
  };
}

export function encodeEntry(entry: EntryRecord): Buffer {
  return new RecordWriter(20).u53(entry.since).u53(entry.ino).u32(entry.type).end();
}

export function decodeEntry(record: Buffer): EntryRecord {
  const reader = new RecordReader(record, "entry");
  return { since: epoch(reader.u53()), ino: ino(reader.u53()), type: reader.u32() };
}

export function encodeLink(link: LinkRecord): Buffer {
  return new RecordWriter(12).u53(link.since).u32(link.count).end();
}

export function decodeLink(record: Buffer): LinkRecord {
  const reader = new RecordReader(record, "link");
  return { since: epoch(reader.u53()), count: reader.u32() };
}

export function encodeChunkRef(ref: ChunkRef): Buffer {
  return new RecordWriter(16).u53(ref.since).u53(ref.handle).end();
}

export function decodeChunkRef(record: Buffer): ChunkRef {
  const reader = new RecordReader(record, "chunkmap");
  return { since: epoch(reader.u53()), handle: chunkHandle(reader.u53()) };
}

export function decodeXattr(record: Buffer): Xattr {
  const reader = new RecordReader(record, "xattr");
  return { since: epoch(reader.u53()), value: reader.rest() };
}

/** `cutTo` is stored plus one, 0 standing for none. */
export function encodeChunk(chunk: Chunk): Buffer {
  const writer = new RecordWriter(64)
    .u53(chunk.version)
    .u32(chunk.refs)
    .u8(chunk.goal)
    .u8(chunk.written ? 1 : 0)
    .u53(chunk.cutTo === undefined ? 0 : chunk.cutTo + 1)
    .u8(chunk.servers.length);
  for (const server of chunk.servers) writer.u53(server);
  return writer.end();
}

export function decodeChunk(record: Buffer): Chunk {
  const reader = new RecordReader(record, "chunk");
  const version = chunkVersion(reader.u53());
  const refs = reader.u32();
  const goal = reader.u8();
  const written = reader.u8() === 1;
  const cut = reader.u53();
  const servers = Array.from({ length: reader.u8() }, () => serverId(reader.u53()));
  return { version, refs, goal, written, servers, cutTo: cut === 0 ? undefined : cut - 1 };
}

export function encodeSnapshot(snapshot: SnapshotRecord): Buffer {
  return new RecordWriter(16).u53(snapshot.epoch).i64(snapshot.createdAt).end();
}

export function decodeSnapshot(record: Buffer): SnapshotRecord {
  const reader = new RecordReader(record, "snapshot");
  return { epoch: epoch(reader.u53()), createdAt: reader.i64() };
}
