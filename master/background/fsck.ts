import type { Log } from "../../common/log.ts";
import { type ChunkHandle, chunkHandle, type Epoch, type Ino, ino } from "../../protocol/id.ts";
import type { ServerId } from "../../protocol/id.ts";
import { fsckProblemsMax } from "../../protocol/limits.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import type { fsckChunks, fsckFiles } from "../../protocol/methods/admin.ts";
import type { replicaBad } from "../../protocol/methods/fleet.ts";
import type { Chunks } from "../chunks/chunks.ts";
import type { Fleet } from "../fleet/fleet.ts";
import type { NamespaceReader } from "../namespace/ops/read.ts";
import type { SnapshotIndex } from "../namespace/snapshots.ts";
import { numberFromKey, numberKey, sinceOf } from "../store/bytes.ts";
import { historyStart, parseHistoryKey, rowsAt } from "../store/history.ts";
import { type Row, type Store } from "../store/store.ts";
import { type Chunk, decodeChunk, decodeChunkRef, decodeEntry } from "../store/tables.ts";

/** Rows looked at for one answer: some 20 ms of the master's time. */
const rowsPerAnswer = 8_000;
/** Files named in one answer: a path has 4 KiB at most, and an answer is one message. */
const filesPerAnswer = 200;
/** Chunks with bad replicas that are remembered: a disk that has more is better replaced. */
const badMaxDefault = 100_000;
/** Snapshots named for one row: the others show the same. */
const snapshotsPerRow = 8;
/** Directories above a file: PATH_MAX / 2, as each has a name and a slash. */
const depthMax = 2_048;

interface BadReplica {
  version: number;
  /** None: the chunk as a whole. */
  blocks: readonly number[];
}

type Problem = ReplyOf<typeof fsckChunks>["problems"][number];
type Files = ReplyOf<typeof fsckFiles>;

/**
 * What is wrong with chunks, and with which files therefore. It knows of bad blocks what chunk
 * servers have reported since the master, or their connection, began: they tell again what they
 * know. All of it is asked for in steps, so that the master goes on with other work.
 */
export class Fsck {
  readonly #store: Store;
  readonly #chunks: Chunks;
  readonly #fleet: Fleet;
  readonly #reader: NamespaceReader;
  readonly #snapshots: SnapshotIndex;
  readonly #chunkBytes: number;
  readonly #log: Log;
  readonly #badMax: number;
  /** Only reports that may still hold: of members of a set, and not of an earlier version. */
  readonly #bad = new Map<ChunkHandle, Map<ServerId, BadReplica>>();
  /** Those of which every replica is bad. */
  readonly #damaged = new Set<ChunkHandle>();
  #full = false;

  constructor(options: {
    store: Store;
    chunks: Chunks;
    fleet: Fleet;
    reader: NamespaceReader;
    snapshots: SnapshotIndex;
    chunkBytes: number;
    log: Log;
    badMax?: number;
  }) {
    this.#store = options.store;
    this.#chunks = options.chunks;
    this.#fleet = options.fleet;
    this.#reader = options.reader;
    this.#snapshots = options.snapshots;
    this.#chunkBytes = options.chunkBytes;
    this.#log = options.log;
    this.#badMax = options.badMax ?? badMaxDefault;
  }

  /**
   * A chunk server has found a replica of its own bad. What a reader reports does not come here: it
   * cannot tell which blocks, and its server, which checks them too, can.
   */
  note(server: ServerId, { handle, version, blocks }: RequestOf<typeof replicaBad>): void {
    const known = this.#bad.get(handle);
    if (!known && this.#bad.size >= this.#badMax) {
      if (!this.#full) this.#log.error("fsck.full", { chunks: this.#bad.size });
      this.#full = true;
      return;
    }
    const replicas = known ?? new Map<ServerId, BadReplica>();
    this.#bad.set(handle, replicas.set(server, { version, blocks: blocks ?? [] }));
    this.review(handle);
  }

  /** Chunks of which every replica is bad. */
  get damaged(): number {
    return this.#damaged.size;
  }

  /** A chunk's record has changed, or what is reported of it: what has been mended is forgotten. */
  review(handle: ChunkHandle): void {
    const reports = this.#bad.get(handle);
    if (!reports) return;
    const chunk = this.#chunks.sets.find(handle);
    for (const [server, { version }] of reports) {
      // A later version is one that the servers have been told and that is about to be recorded.
      const holds = version === 0 || version >= (chunk?.version ?? Infinity);
      if (!holds || !chunk?.servers.includes(server)) reports.delete(server);
    }
    if (chunk && this.#damageOf(handle, chunk)) this.#damaged.add(handle);
    else this.#damaged.delete(handle);
    if (reports.size > 0) return;
    this.#bad.delete(handle);
    this.#full = false;
  }

  /** A report is of one version: a replica that was copied anew has a later one. */
  #damageOf(handle: ChunkHandle, chunk: Chunk): Problem | undefined {
    const reports = this.#bad.get(handle);
    if (!reports || chunk.servers.length === 0) return undefined;
    const bad = chunk.servers.map((server) => {
      const report = reports.get(server);
      const current = report?.version === 0 || report?.version === chunk.version;
      return current ? report?.blocks : undefined;
    });
    if (bad.some((blocks) => blocks === undefined)) return undefined;
    const partly = bad.filter((blocks) => blocks !== undefined && blocks.length > 0);
    if (partly.length === 0) return { handle, problem: "corrupt", blocks: [] };
    const [first = [], ...others] = partly;
    const blocks = first.filter((block) => others.every((those) => those?.includes(block)));
    return blocks.length > 0
      ? { handle, problem: "corrupt", blocks: blocks.toSorted((a, b) => a - b) }
      : { handle, problem: "mendable", blocks };
  }

  chunks({ from }: RequestOf<typeof fsckChunks>): ReplyOf<typeof fsckChunks> {
    const reply = { chunks: 0, belowGoal: 0, problems: [] as Problem[] };
    let rows = 0;
    for (const { key, value } of this.#store.range("chunk", { from: numberKey(from) })) {
      const handle = chunkHandle(numberFromKey(key, 0));
      if (rows === rowsPerAnswer || reply.problems.length === fsckProblemsMax) {
        return { ...reply, next: handle };
      }
      rows += 1;
      const chunk = decodeChunk(value);
      if (!chunk.written) continue;
      reply.chunks += 1;
      const up = this.#chunks.sets.present(handle).filter((id) => this.#fleet.isUp(id)).length;
      if (up < chunk.goal) reply.belowGoal += 1;
      const problem: Problem | undefined =
        up === 0 ? { handle, problem: "lost", blocks: [] } : this.#damageOf(handle, chunk);
      if (problem) reply.problems.push(problem);
    }
    return reply;
  }

  /** First the chunk map, then history: `from` is a key of either, after a byte that says which. */
  files({ handles, from }: RequestOf<typeof fsckFiles>): Files {
    const wanted = new Set(handles);
    const reply: Files = { files: [], chunkBytes: this.#chunkBytes };
    let left = rowsPerAnswer;
    const inHistory = from !== undefined && from[0] === 1;
    const start = from === undefined ? Buffer.alloc(0) : Buffer.from(from.subarray(1));
    if (!inHistory) {
      for (const row of this.#store.range("chunkmap", { from: start })) {
        if (left === 0 || reply.files.length >= filesPerAnswer) {
          return { ...reply, next: Buffer.concat([Buffer.from([0]), row.key]) };
        }
        left -= 1;
        this.#nameFiles(reply, wanted, row, Infinity);
      }
    }
    const after = inHistory ? start : historyStart("chunkmap");
    for (const { key, value } of this.#store.range("history", { from: after })) {
      const parsed = parseHistoryKey(key);
      if (parsed && parsed.table !== "chunkmap") break; // Of another table, which comes later.
      if (left === 0 || reply.files.length >= filesPerAnswer) {
        return { ...reply, next: Buffer.concat([Buffer.from([1]), key]) };
      }
      left -= 1;
      if (parsed) this.#nameFiles(reply, wanted, { key: parsed.key, value }, parsed.until);
    }
    return reply;
  }

  #nameFiles(reply: Files, wanted: ReadonlySet<ChunkHandle>, row: Row, until: number): void {
    const { handle } = decodeChunkRef(row.value);
    if (!wanted.has(handle)) return;
    const own = ino(numberFromKey(row.key, 0));
    const file = { handle, ino: own, offset: numberFromKey(row.key, 8) * this.#chunkBytes };
    if (until === Infinity) reply.files.push({ ...file, path: this.#reader.pathOf(own) });
    const since = sinceOf(row.value);
    const showing = this.#snapshots.all.filter(
      (snapshot) =>
        snapshot.epoch >= since &&
        snapshot.epoch < until &&
        this.#snapshots.covers(this.#store, snapshot, own),
    );
    for (const { dir, name, epoch } of showing.slice(0, snapshotsPerRow)) {
      const inner = this.#pathAt(own, dir, epoch);
      const top = this.#reader.pathOf(dir);
      const path = Buffer.concat([top, Buffer.from("/.snapshots/"), name, ...inner]);
      reply.files.push({ ...file, path });
    }
  }

  /** The names from directory `top` down to an inode, as they were in an epoch. */
  #pathAt(from: Ino, top: Ino, at: Epoch): Buffer[] {
    const names: Buffer[] = [];
    for (let child = from; child !== top && names.length < 2 * depthMax;) {
      const parent = this.#reader.findInode(child, at)?.parent;
      if (parent === undefined || parent === 0) break;
      names.unshift(Buffer.from("/"), this.#nameAt(parent, child, at));
      child = parent;
    }
    return names;
  }

  #nameAt(parent: Ino, child: Ino, at: Epoch): Buffer {
    for (const { key, value } of rowsAt(this.#store, "entry", { prefix: numberKey(parent), at })) {
      if (decodeEntry(value).ino === child) return Buffer.from(key.subarray(8));
    }
    return Buffer.from("?");
  }
}
