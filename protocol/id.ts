/** The ids that programs exchange. Casts live in this file only. */

declare const brand: unique symbol;
type Id<Name extends string> = number & { readonly [brand]: Name };

/** An inode number: a counter below 2^53, never reused. */
export type Ino = Id<"Ino">;
/** A chunk's name: a counter below 2^53, never reused. */
export type ChunkHandle = Id<"ChunkHandle">;
/** Counts the snapshots ever taken; every record says in which epoch it was written. */
export type Epoch = Id<"Epoch">;
/** Raised whenever the set of a chunk's replicas changes (GFS §4.5). 1 for a new chunk. */
export type ChunkVersion = Id<"ChunkVersion">;
/** A chunk server, numbered by the master when it first registers. */
export type ServerId = Id<"ServerId">;
/** A mount's session with the master. */
export type SessionId = Id<"SessionId">;
/** Names the time between two losses of a machine's memory: its kernel's boot. */
export type BootId = Id<"BootId">;

export const ino = (value: number): Ino => value as Ino;
export const chunkHandle = (value: number): ChunkHandle => value as ChunkHandle;
export const epoch = (value: number): Epoch => value as Epoch;
export const chunkVersion = (value: number): ChunkVersion => value as ChunkVersion;
export const serverId = (value: number): ServerId => value as ServerId;
export const sessionId = (value: number): SessionId => value as SessionId;
export const bootId = (value: number): BootId => value as BootId;

/** No inode: the parent of the root, and of what is unlinked. */
export const noIno = ino(0);
/** The root directory. */
export const rootIno = ino(1);
