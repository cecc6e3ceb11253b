/** The kernel's side of a channel, in memory: sends requests and keeps the answers. */

import { constants } from "node:os";
import { must } from "../../common/assert.ts";
import type { Channel, ChannelHandlers } from "../../mount/fuse/device/channel.ts";
import { initFlags } from "../../mount/fuse/device/flags.ts";
import { type Opcode, type OpcodeName, opcodes } from "../../mount/fuse/device/opcodes.ts";
import * as s from "../../mount/fuse/device/structures.ts";

export interface Answer {
  /** A negative errno, or 0. */
  error: number;
  data: Buffer;
}

interface Question {
  node?: number;
  /** The structure; zeros unless given. */
  body?: Buffer;
  names?: readonly (string | Buffer)[];
  data?: Buffer;
  unique?: bigint;
}

export class FakeKernel implements Channel {
  readonly answers = new Map<bigint, Answer>();
  /** What came through `notify`, not answered until the test does. */
  readonly notifications: { message: Buffer; resolve: (result: number) => void }[] = [];
  readonly immediate: Buffer[] = [];
  /** Unless false, a notification is done as soon as it comes. */
  notifyAtOnce = true;
  /** What `reply` returns; below 0 nothing is delivered. */
  replyResult = 0;
  closed = false;
  lastUnique = 0n;
  #handlers: ChannelHandlers | undefined;
  #waiting = new Map<bigint, (answer: Answer) => void>();

  start(handlers: ChannelHandlers): void {
    this.#handlers = handlers;
  }

  reply(parts: readonly Uint8Array[]): number {
    if (this.closed) return -constants.errno.ENODEV;
    const message = Buffer.concat(parts);
    if (s.outHeader.len.get(message, 0) !== message.length) return -constants.errno.EINVAL;
    if (this.replyResult < 0) return this.replyResult;
    const unique = message.readBigUInt64LE(s.outHeader.uniqueLow.offset);
    const error = s.outHeader.error.get(message, 0);
    const answer = { error, data: message.subarray(s.outHeader.byteLength) };
    this.answers.set(unique, answer);
    this.#waiting.get(unique)?.(answer);
    this.#waiting.delete(unique);
    return 0;
  }

  notify(message: Uint8Array): Promise<number> {
    return new Promise((resolve) => {
      this.notifications.push({ message: Buffer.from(message), resolve });
      if (this.notifyAtOnce) resolve(0);
    });
  }

  notifyNow(message: Uint8Array): number {
    this.immediate.push(Buffer.from(message));
    return 0;
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  /** Hands over raw bytes, in a buffer that is overwritten afterwards as a pooled one is. */
  receive(message: Buffer): void {
    const pooled = Buffer.from(message);
    must(this.#handlers, "handlers of a channel that was started").onRequest(pooled);
    pooled.fill(0xa5);
  }

  end(error?: Error): void {
    must(this.#handlers, "handlers of a channel that was started").onEnd(error);
  }

  /** Sends a request; resolves with its answer. */
  ask(name: OpcodeName, question: Question = {}): Promise<Answer> {
    const unique = question.unique ?? this.nextUnique();
    const answer = new Promise<Answer>((resolve) => this.#waiting.set(unique, resolve));
    this.receive(requestMessage(name, { ...question, unique }));
    return answer;
  }

  /** Sends what is not answered. */
  tell(name: OpcodeName, question: Question = {}): void {
    this.receive(
      requestMessage(name, { ...question, unique: question.unique ?? this.nextUnique() }),
    );
  }

  /** As FUSE_REQ_ID_STEP has it. */
  nextUnique(): bigint {
    this.lastUnique += 2n;
    return this.lastUnique;
  }

  initialize(given: { major?: number; minor?: number; without?: readonly string[] } = {}) {
    return this.ask("INIT", initQuestion(given));
  }
}

const caller = { uid: 1000, gid: 100, pid: 4242 };

export function initQuestion({
  major = 7,
  minor = 45,
  without = [] as readonly string[],
}): Question {
  const body = Buffer.alloc(64);
  let [low, high] = [0, 0];
  for (const [name, bit] of Object.entries(initFlags)) {
    if (without.includes(name)) continue;
    if (bit < 32) low += 2 ** bit;
    else high += 2 ** (bit - 32);
  }
  s.initIn.major.set(body, 0, major);
  s.initIn.minor.set(body, 0, minor);
  s.initIn.maxReadahead.set(body, 0, 128 * 1024);
  s.initIn.flags.set(body, 0, low);
  s.initExtIn.flags2.set(body, s.initIn.byteLength, high);
  return {
    body: body.subarray(0, s.initIn.byteLength),
    data: body.subarray(s.initIn.byteLength),
  };
}

export function requestMessage(name: OpcodeName, question: Question): Buffer {
  const row: Opcode = opcodes[name];
  const names = (question.names ?? []).flatMap((one) => [Buffer.from(one), Buffer.alloc(1)]);
  const message = Buffer.concat([
    Buffer.alloc(s.inHeader.byteLength),
    question.body ?? Buffer.alloc(row.request.byteLength),
    ...names,
    question.data ?? Buffer.alloc(0),
  ]);
  s.inHeader.len.set(message, 0, message.length);
  s.inHeader.opcode.set(message, 0, row.code);
  message.writeBigUInt64LE(question.unique ?? 2n, s.inHeader.uniqueLow.offset);
  s.inHeader.nodeid.set(message, 0, question.node ?? 1);
  s.inHeader.uid.set(message, 0, caller.uid);
  s.inHeader.gid.set(message, 0, caller.gid);
  s.inHeader.pid.set(message, 0, caller.pid);
  return message;
}

interface Settable<T> {
  set(bytes: Buffer, base: number, value: T): void;
}

/** A structure with the fields that matter. */
export function structure<L extends { byteLength: number }>(
  layout: L,
  fields: { [name in keyof L]?: L[name] extends Settable<infer T> ? T : never },
): Buffer {
  const bytes = Buffer.alloc(layout.byteLength);
  for (const [name, value] of Object.entries(fields))
    (layout[name as keyof L] as Settable<unknown>).set(bytes, 0, value);
  return bytes;
}
