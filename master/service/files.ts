import type { Clock } from "../../common/clock.ts";
import type { Log } from "../../common/log.ts";
import type { Ino, SessionId } from "../../protocol/id.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import type { grant } from "../../protocol/methods/chunk.ts";
import type {
  allocate,
  copyRange,
  create,
  open,
  setattr,
  takeTail,
  tmpfile,
} from "../../protocol/methods/namespace.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { Chunks } from "../chunks/chunks.ts";
import type { Committer } from "../namespace/committer.ts";
import { setAttributes } from "../namespace/ops/attributes.ts";
import { attrOf } from "../namespace/ops/common.ts";
import { cutTail, needsCutCopy, truncate } from "../namespace/ops/contents.ts";
import { createFile, createTmpfile } from "../namespace/ops/create.ts";
import {
  contentsChanged,
  dropChunks,
  regular,
  rowsPerStepMax,
  shareChunks,
  stepEnd,
} from "../namespace/ops/ranges.ts";
import type { NamespaceReader } from "../namespace/ops/read.ts";
import { fileBytesMax } from "../../protocol/limits.ts";
import { isRegular } from "../../protocol/mode.ts";
import { numberKey } from "../store/bytes.ts";
import { decodeChunkRef, type Inode } from "../store/tables.ts";
import type { Txn } from "../namespace/txn.ts";
import { lease } from "./leases.ts";
import type { Session, Sessions } from "./sessions.ts";
import { Tails } from "./tails.ts";

/**
 * Work of one request: the transaction's part, under the request's key and with its housekeeping.
 */
export type Mutate = <T>(work: (txn: Txn) => T) => Promise<T>;

/**
 * Runs `work`, whose transaction raises the epoch, while no write of any client is under way: what
 * was granted before is out of date afterwards.
 */
type Fenced = <T>(work: () => Promise<T>) => Promise<T>;

/** Attempts of an operation whose preparation on chunk servers was overtaken by another's. */
const attemptsMax = 8;

/** Operations on files that take steps on chunk servers besides their transaction. */
export class FileService {
  readonly #committer: Committer;
  readonly #chunks: Chunks;
  readonly #sessions: Sessions;
  readonly #reader: NamespaceReader;
  readonly #chunkBytes: number;
  readonly #fenced: Fenced;
  readonly #tails: Tails;
  readonly #freeBytes: () => number;

  constructor(options: {
    committer: Committer;
    chunks: Chunks;
    sessions: Sessions;
    reader: NamespaceReader;
    chunkBytes: number;
    clock: Clock;
    log: Log;
    fenced: Fenced;
    /** Room for new data, counted once and not for each replica. */
    freeBytes: () => number;
  }) {
    this.#committer = options.committer;
    this.#chunks = options.chunks;
    this.#sessions = options.sessions;
    this.#reader = options.reader;
    this.#chunkBytes = options.chunkBytes;
    this.#fenced = options.fenced;
    this.#freeBytes = options.freeBytes;
    const hasChunks = (ino: Ino): boolean => this.#reader.inode(ino, undefined).chunks > 0;
    this.#tails = new Tails({ ...options, hasChunks, cut: (ino) => this.cutTail(ino) });
  }

  /** open(O_CREAT): the file counts as open from the commit on, and has its first chunk granted. */
  async create(
    params: RequestOf<typeof create>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof create>> {
    const reply = await mutate((txn) => {
      const { ino, created } = createFile(txn, params);
      // Nothing lies beyond its end yet, but for the chunk that is granted below.
      if (created && params.write) txn.afterCommit(() => this.#tails.takeNew(session, ino));
      // Before the commit: an unlink in the same group must find it open.
      this.#sessions.opened(session, ino, params.write);
      this.#leaseOpen(session, ino);
      this.#sessions.lease(session, params.parent, lease.names | lease.attributes);
      const granted = created && params.write ? this.#chunks.planFirst(txn, ino) : undefined;
      const attrs = { attr: this.attr(txn, ino), parent: this.attr(txn, params.parent) };
      return granted ? { ...attrs, created, grant: granted } : { ...attrs, created };
    });
    this.#sessions.opened(session, reply.attr.ino, params.write);
    return { ...reply, ...this.#forWriting(session, reply.attr.ino, params.write) };
  }

  /**
   * What a session is told that opens a file to write. Not part of the remembered reply: a restart
   * of the master ends it.
   */
  #forWriting(session: Session, ino: Ino, write: boolean) {
    if (!write) return {};
    const number = this.#tails.tryTake(session, ino);
    if (number === undefined) return {};
    return { tail: { number, size: this.#reader.inode(ino, undefined).size } };
  }

  /** As `takeTail` in protocol/methods/namespace.ts says. */
  async takeTail(ino: Ino, session: Session): Promise<ReplyOf<typeof takeTail>> {
    const number = await this.#tails.take(session, ino);
    return { number, attr: this.#reader.getattr(ino, undefined) };
  }

  /** open(O_TMPFILE): open from the commit on, or it would be reclaimed at once. */
  async createTmpfile(
    params: RequestOf<typeof tmpfile>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof tmpfile>> {
    const reply = await mutate((txn) => {
      const { ino } = createTmpfile(txn, params);
      this.#sessions.opened(session, ino, true);
      this.#leaseOpen(session, ino);
      const grant = this.#chunks.planFirst(txn, ino);
      const attr = this.attr(txn, ino);
      return grant ? { attr, grant } : { attr };
    });
    this.#sessions.opened(session, reply.attr.ino, true);
    return reply;
  }

  async open(
    params: RequestOf<typeof open>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof open>> {
    const reply = await this.#open(params, session, mutate);
    const write = params.write && params.at === undefined && isRegular(reply.attr);
    return { ...reply, ...this.#forWriting(session, params.ino, write) };
  }

  async #open(
    params: RequestOf<typeof open>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof open>> {
    const { ino, at } = params;
    const inode = this.#reader.inode(ino, at);
    const isTrash = inode.nlink === 0 && !this.#sessions.isOrphan(ino);
    if (at === undefined && isTrash) throw new StatusError("stale", "the file has been deleted");
    if (at === undefined) {
      this.#sessions.opened(session, ino, params.write);
      this.#leaseOpen(session, ino);
    }
    const attr = params.truncate
      ? await this.setSize({ ino, size: 0 }, session, mutate)
      : this.#reader.getattr(ino, at);
    if (attr.size === 0) {
      if (!params.write || params.truncate || at !== undefined) return { attr };
      return mutate((txn) => this.#openEmpty(txn, ino));
    }
    const [location] = await this.#chunks.locate(ino, at, { first: 0, count: 1 });
    return location ? { attr, location } : { attr };
  }

  #leaseOpen(session: Session, ino: Ino): void {
    this.#sessions.lease(session, ino, lease.attributes | lease.contents);
  }

  #openEmpty(txn: Txn, ino: Ino): ReplyOf<typeof open> {
    const isHole = txn.findChunkRef(ino, 0) === undefined && isRegular(txn.inode(ino));
    const granted = isHole ? this.#chunks.planFirst(txn, ino) : undefined;
    const attr = this.attr(txn, ino);
    return granted ? { attr, grant: granted } : { attr };
  }

  async setattr(
    params: RequestOf<typeof setattr>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof setattr>> {
    const { ino, size } = params;
    if (size !== undefined)
      return { attr: await this.setSize({ ...params, size }, session, mutate) };
    return mutate((txn) => ({
      attr: attrOf(ino, setAttributes(txn, ino, params), this.#chunkBytes),
    }));
  }

  /** truncate(2), together with other changes of attributes. */
  setSize(
    wanted: Omit<RequestOf<typeof setattr>, "seq" | "acked"> & { size: number },
    session: Session,
    mutate: Mutate,
  ): Promise<Attr> {
    return this.#tails.exclusively(wanted.ino, session, async () => {
      await this.#shrinkInSteps(wanted, session);
      return insist(() => this.#trySetSize(wanted, mutate));
    });
  }

  /**
   * All but the last step of cutting off very many chunks: from the end, so that each step is a
   * truncation by itself.
   */
  async #shrinkInSteps({ ino, size }: { ino: Ino; size: number }, session: Session): Promise<void> {
    const chunkBytes = this.#chunkBytes;
    const origin = { session: session.id, seq: 0 };
    if (this.#reader.inode(ino, undefined).chunks <= rowsPerStepMax) return;
    const steps: number[] = [];
    let first: number | undefined = Math.ceil(size / chunkBytes);
    while (first !== undefined) {
      const from: number = first;
      first = stepEnd(this.#committer.store, ino, from);
      if (first !== undefined) steps.unshift(first);
    }
    for (const step of steps) {
      const end = step * chunkBytes;
      await this.#committer.run((txn) => {
        if (txn.inode(ino).size > end) truncate(txn, { ino, size: end, chunkBytes });
      }, origin);
    }
  }

  async #trySetSize(
    wanted: Omit<RequestOf<typeof setattr>, "seq" | "acked"> & { size: number },
    mutate: Mutate,
  ): Promise<Attr> {
    const { ino, size } = wanted;
    const chunkBytes = this.#chunkBytes;
    const { sets } = this.#chunks;
    const cuts = size < this.#reader.inode(ino, undefined).size;
    const wantedCut = { ino, size, chunkBytes };
    const shared = cuts && (await this.#committer.run((txn) => needsCutCopy(txn, wantedCut)));
    const copy = shared
      ? { source: shared, made: await sets.makeCopy(shared, size % chunkBytes) }
      : undefined;
    let used = false;
    try {
      const reply = await mutate((txn) => {
        truncate(txn, { ino, size, chunkBytes, copy });
        used = copy?.made !== undefined && txn.findChunk(copy.made.handle) !== undefined;
        return { attr: attrOf(ino, setAttributes(txn, ino, wanted), chunkBytes) };
      });
      await this.#cutLast(ino, size);
      return reply.attr;
    } finally {
      if (copy?.made) sets.copyMade(copy.made, used);
    }
  }

  /**
   * The chunk that the new end cuts is cut on its servers, and writers with an older grant are
   * turned away, before truncate returns; also when an earlier try has got as far as the record.
   */
  async #cutLast(ino: Ino, size: number): Promise<void> {
    if (size % this.#chunkBytes === 0) return;
    const index = Math.floor(size / this.#chunkBytes);
    const key = numberKey(ino, index);
    const row = this.#committer.store.get("chunkmap", key);
    if (!row) return;
    const { handle } = decodeChunkRef(row);
    const { sets } = this.#chunks;
    if (sets.find(handle)?.cutTo !== undefined) await sets.locked(handle, () => sets.cut(handle));
  }

  /** fallocate(2), as `allocate` in protocol/methods/namespace.ts says. */
  async allocate(
    params: RequestOf<typeof allocate>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof allocate>> {
    const end = params.offset + params.length;
    if (end > fileBytesMax) throw new StatusError("too-large", "the file would be too large");
    const work = () => this.#allocate(params, session, mutate);
    return params.grow ? this.#tails.exclusively(params.ino, session, work) : work();
  }

  async #allocate(
    params: RequestOf<typeof allocate>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof allocate>> {
    const { ino, offset, length, punch } = params;
    const end = offset + length;
    if (punch) await this.#dropInSteps(params, session);
    const chunkBytes = this.#chunkBytes;
    const reply = await mutate((txn) => {
      const inode = regular(txn, ino);
      if (!punch) this.#checkRoom(inode, params);
      const rest = punch ? dropChunks(txn, { ...params, chunkBytes }).inode : inode;
      const grows = params.grow && end > rest.size;
      const sized = grows ? truncate(txn, { ino, size: end, chunkBytes }) : rest;
      txn.putInode(ino, contentsChanged(txn, ino, sized));
      return { attr: this.attr(txn, ino), grows };
    });
    if (reply.grows) await this.#cutLast(ino, end);
    return { attr: reply.attr };
  }

  /** All but the last step of dropping very many chunks: each can be repeated. */
  async #dropInSteps(params: RequestOf<typeof allocate>, session: Session): Promise<void> {
    const wanted = { ...params, chunkBytes: this.#chunkBytes };
    const request = { session: session.id, seq: 0 };
    let more = true;
    while (more) {
      ({ more } = await this.#committer.run((txn) => dropChunks(txn, wanted), request));
    }
  }

  #checkRoom(inode: Inode, { offset, length }: { offset: number; length: number }): void {
    const there = Math.min(inode.size, inode.chunks * this.#chunkBytes);
    const lacking = Math.min(length, offset + length - there);
    if (lacking > this.#freeBytes()) {
      throw new StatusError("no-space", "the chunk servers have no room for that much");
    }
  }

  /**
   * copy_file_range(2) by sharing chunks. A live source that somebody may be writing to in place is
   * fenced first, as for a snapshot: a late write must not show in the copy.
   */
  async copyRange(
    params: RequestOf<typeof copyRange>,
    session: Session,
    mutate: Mutate,
  ): Promise<ReplyOf<typeof copyRange>> {
    const { source, at, ino } = params;
    const wanted = { ...params, at, chunkBytes: this.#chunkBytes };
    const share = (raise: boolean) =>
      mutate((txn) => {
        const { copied } = shareChunks(txn, wanted);
        if (raise) this.#committer.raiseEpoch(txn);
        return { attr: this.attr(txn, ino), copied };
      });
    const { lostWriters } = this.#sessions;
    const fence = at === undefined && (lostWriters || this.#sessions.mayWrite(source));
    return this.#tails.exclusively(ino, session, async () => {
      const reply = await (fence ? this.#fenced(() => share(true)) : share(false));
      if (fence && lostWriters) this.#sessions.lostWriters = false;
      // Beyond its end, the last chunk has whatever the source's had.
      if (reply.copied % this.#chunkBytes !== 0) this.#tails.forget(ino);
      return reply;
    });
  }

  /**
   * Cuts off what lies beyond a file's end, on its servers too, when nobody who wrote it can be
   * asked any more.
   */
  cutTail(ino: Ino): Promise<void> {
    return insist(() => this.#tryCutTail(ino));
  }

  async #tryCutTail(ino: Ino): Promise<void> {
    const chunkBytes = this.#chunkBytes;
    const { sets } = this.#chunks;
    const { size } = this.#reader.inode(ino, undefined);
    const shared = await this.#committer.run((txn) => needsCutCopy(txn, { ino, size, chunkBytes }));
    const copy = shared && { source: shared, made: await sets.makeCopy(shared, size % chunkBytes) };
    let used = false;
    try {
      await this.#committer.run((txn) => {
        cutTail(txn, { ino, size, chunkBytes, copy });
        used = copy?.made !== undefined && txn.findChunk(copy.made.handle) !== undefined;
      });
      await this.#cutLast(ino, size);
    } finally {
      if (copy?.made) sets.copyMade(copy.made, used);
    }
  }

  async grant(params: RequestOf<typeof grant>, session: SessionId): Promise<ReplyOf<typeof grant>> {
    const { failed, ino, index } = params;
    const { sets } = this.#chunks;
    if (failed) await sets.replicasFailed(failed.handle, failed.version, failed.servers);
    return { grant: await this.#chunks.grant(ino, index, session) };
  }

  /** An inode's attributes inside a transaction. */
  attr(txn: Txn, ino: Ino): Attr {
    return attrOf(ino, txn.inode(ino), this.#chunkBytes);
  }
}

/** Does `work` again while what it prepared on chunk servers is overtaken by somebody else's. */
async function insist<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (statusOf(error) !== "unavailable" || attempt === attemptsMax) throw error;
    }
  }
}
