import { type Static, type TSchema, Type } from "typebox";
import type { BootId, ChunkHandle, ChunkVersion, Epoch, Ino, ServerId, SessionId } from "./id.ts";
import { nameBytesMax } from "./limits.ts";

/** The parts that messages are made of. */

const counter = { minimum: 0, maximum: Number.MAX_SAFE_INTEGER };

function id<T>(): ReturnType<typeof Type.Unsafe<T>> {
  return Type.Unsafe<T>(Type.Integer(counter));
}

/** Raw bytes of at most `most` bytes. What arrives aliases the message: copy before keeping. */
export function bytes(most: number): ReturnType<typeof Type.Unsafe<Buffer>> {
  const shape = Type.Refine(
    Type.Unsafe<Buffer>({ "~bytes": most }),
    (value) => (value as unknown) instanceof Uint8Array && (value as Uint8Array).length <= most,
    () => `must be at most ${most} bytes`,
  );
  return shape;
}

export const InoShape = id<Ino>();
export const HandleShape = id<ChunkHandle>();
export const EpochShape = id<Epoch>();
export const VersionShape = id<ChunkVersion>();
export const ServerShape = id<ServerId>();
export const SessionShape = id<SessionId>();
export const BootShape = id<BootId>();
export const Count = Type.Integer(counter);
export const Uint32 = Type.Integer({ minimum: 0, maximum: 0xffff_ffff });
/** Nanoseconds since 1970, before it negative. */
export const Ns = Type.BigInt();
export const Text = Type.String({ maxLength: 4096 });
/** A name in a directory: 1 to 255 bytes of any kind but `/` and NUL (the master checks those). */
export const Name = bytes(nameBytesMax);
export const Opt = Type.Optional;
export const List = <T extends TSchema>(item: T, most: number): ReturnType<typeof Type.Array<T>> =>
  Type.Array(item, { maxItems: most });

/**
 * An inode's attributes. `mode` has the type bits (S_IFMT). `blocks` counts 512-byte units of the
 * chunks that exist, so a hole of whole chunks takes none. `xattrs`: how many extended attributes
 * it has, so that one without any need not be asked for them.
 */
export const AttrShape = Type.Object(
  {
    ino: InoShape,
    mode: Uint32,
    nlink: Count,
    uid: Uint32,
    gid: Uint32,
    rdev: Uint32,
    size: Count,
    blocks: Count,
    atime: Ns,
    mtime: Ns,
    ctime: Ns,
    xattrs: Opt(Count),
  },
  { additionalProperties: false },
);
export type Attr = Static<typeof AttrShape>;

export const DirEntryShape = Type.Object(
  { name: Name, attr: AttrShape },
  { additionalProperties: false },
);
export type DirEntry = Static<typeof DirEntryShape>;

/** HOST:PORT of a server. */
export const HostPort = Type.String({ maxLength: 300, pattern: "^.+:[0-9]{1,5}$" });
export const RackName = Type.String({ maxLength: 100 });

/**
 * A chunk server that holds a replica, with what is needed to reach it and to judge its distance.
 */
export const ReplicaShape = Type.Object(
  {
    server: ServerShape,
    address: HostPort,
    rack: RackName,
  },
  { additionalProperties: false },
);
export type Replica = Static<typeof ReplicaShape>;

/** Where to read one chunk of a file. Chunks that a file does not have (holes) are not listed. */
export const LocationShape = Type.Object(
  {
    index: Count,
    handle: HandleShape,
    version: VersionShape,
    replicas: Type.Array(ReplicaShape, { maxItems: 32 }),
    /** Servers that may have a better one are waited for: that these are bad is not final. */
    more: Opt(Type.Boolean()),
  },
  { additionalProperties: false },
);
export type Location = Static<typeof LocationShape>;

/**
 * Leave to write one chunk: the replicas in chain order, the primary first, and the epoch that
 * every write has to carry. `fresh`: no replica has the chunk yet, the first write creates it.
 */
export const GrantShape = Type.Object(
  {
    index: Count,
    handle: HandleShape,
    version: VersionShape,
    epoch: EpochShape,
    fresh: Type.Boolean(),
    replicas: Type.Array(ReplicaShape, { maxItems: 32 }),
  },
  { additionalProperties: false },
);
export type Grant = Static<typeof GrantShape>;

export const SnapshotShape = Type.Object(
  {
    dir: InoShape,
    name: Name,
    epoch: EpochShape,
    createdAt: Ns,
    /** Mounts that did not flush in time: what they held unwritten may be missing. */
    unflushed: Type.Array(Text, { maxItems: 1000 }),
  },
  { additionalProperties: false },
);
export type Snapshot = Static<typeof SnapshotShape>;
