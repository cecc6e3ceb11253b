import { silentLog } from "../../../common/log.ts";
import { systemClock } from "../../../common/os/clock.ts";
import { chunkHandle, ino as toIno } from "../../../protocol/id.ts";
import type { ReplyOf, RequestOf } from "../../../protocol/method.ts";
import type { commit } from "../../../protocol/methods/namespace.ts";
import type { Attr } from "../../../protocol/shapes.ts";
import { StatusError, statusOf } from "../../../protocol/status.ts";
import type { Taking } from "../../../mount/client/boots.ts";
import type { Taken } from "../../../mount/client/chunk-writer.ts";
import type { MasterClient } from "../../../mount/client/master-client.ts";
import type { Tail } from "../../../mount/client/tails.ts";
import { WriteBack, type WriteBackOptions } from "../../../mount/client/write-back.ts";

/** Parts of the mount's client that do what a test says, when it says so. */

export const clock = systemClock;
export const log = silentLog;
export const mib = 1024 * 1024;
export const file = toIno(5);

export class Deferred<T = void> {
  resolve: (value: T) => void = () => undefined;
  reject: (error: unknown) => void = () => undefined;
  readonly promise: Promise<T>;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

/** Lets everything go on that can without an answer from outside. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 3; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

export function attrOf(ino: number, size: number): Attr {
  const times = { atime: 0n, mtime: 0n, ctime: 0n };
  const owner = { uid: 0, gid: 0, rdev: 0 };
  return {
    ...{ ...times, ...owner, size, ino: toIno(ino) },
    ...{ mode: 0o100644, nlink: 1, blocks: 0, replicas: 3 },
  };
}

type Commit = RequestOf<typeof commit>;
export const failure = (): StatusError => new StatusError("io-error", "a disk broke");

/** The status with which `work` failed, or "done". */
export function outcome(work: Promise<unknown>): Promise<string> {
  return work.then(() => "done", statusOf);
}

type Answer = Pick<Taken, "handle" | "fresh">;
/** Whoever took it. */
export const nobody: Taking = { takers: [], atMs: 0 };

interface Sent {
  ino: number;
  offset: number;
  length: number;
  answer: Deferred<Answer>;
}

/** A `WriteBack` whose writes and commits wait for the test's answers, unless `answer` is set. */
export class Behind {
  readonly sent: Sent[] = [];
  readonly commits: { request: Commit; answer: Deferred<ReplyOf<typeof commit>> }[] = [];
  readonly synced: number[][] = [];
  /** Chunks whose bytes are lost, says the next sync. */
  lost: number[] = [];
  /** Times that the master was asked to put what it knows on its disk. */
  masterSyncs = 0;
  /** Chunks that it says other mounts have written. */
  ofOthers: number[] = [];
  /** Files whose commits will never be taken. */
  readonly uncommitted: number[] = [];
  readonly arrived: number[] = [];
  /** Writes go to chunks that the master takes for holes until it is told. */
  fresh = false;
  answerWrites = true;
  answerCommits = true;
  size = 0;
  readonly tail: Tail = { number: 1, sinceMs: 0, size: 0, placing: 0 };
  readonly back: WriteBack;

  constructor(options: Partial<WriteBackOptions> = {}) {
    const mutate = (_method: unknown, request: Commit): Promise<unknown> => this.#commit(request);
    const write = async (ino: number, offset: number, data: Buffer): Promise<Taken> => {
      const answer = new Deferred<Answer>();
      this.sent.push({ ino, offset, length: data.length, answer });
      if (this.answerWrites) answer.resolve({ handle: chunkHandle(1), fresh: this.fresh });
      return { ...(await answer.promise), taking: nobody };
    };
    this.back = new WriteBack({
      master: {
        chunkBytes: 4 * mib,
        mutate: mutate as MasterClient["mutate"],
        read: (async () => {
          this.masterSyncs += 1;
          return { unsynced: this.ofOthers };
        }) as unknown as MasterClient["read"],
      },
      writer: {
        write,
        sync: async (_ino, chunks) => {
          this.synced.push([...chunks.keys()]);
          return this.lost.splice(0);
        },
      },
      clock,
      log,
      onSent: (ino) => void this.arrived.push(ino),
      onLost: (ino) => void this.uncommitted.push(ino),
      tails: {
        get: () => this.tail,
        take: () => Promise.resolve(this.tail),
        placing: (_tail, work) => work(),
        sized: (_ino, size) => void (this.tail.size = size),
      },
      sizeOf: () => this.size,
      ticket: () => 0,
      onCommitted: (attr) => {
        this.size = attr.size;
      },
      ...options,
    });
  }

  #commit(request: Commit): Promise<ReplyOf<typeof commit>> {
    const answer = new Deferred<ReplyOf<typeof commit>>();
    this.commits.push({ request, answer });
    if (this.answerCommits) this.takeCommit(this.commits.length - 1);
    return answer.promise;
  }

  takeCommit(which: number): void {
    const { request, answer } = this.commits[which] ?? {};
    if (request) answer?.resolve({ attr: attrOf(5, Math.max(this.size, request.size)) });
  }

  /** What stat(2) shows. */
  shownSize(): number {
    return Math.max(this.size, this.back.pending(file)?.end ?? 0);
  }
}
