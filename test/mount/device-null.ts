/**
 * A filesystem of hand-written bytes on a device channel, served by a process of its own:
 *
 *   node device-null.js MOUNTPOINT [OPTION,…]     then commands over IPC
 *
 * The root has `file` (64 MiB of zeros, writable), and a directory for each name that mkdir(2) was
 * given. mkdir of a name that begins with `wait` is not answered before the command `answer`.
 */

import { readdirSync } from "node:fs";
import { parseArgs } from "node:util";
import { must } from "../../common/assert.ts";
import { systemClock } from "../../common/os/clock.ts";
import { runMain } from "../../common/program.ts";
import { type Attachment, attach } from "../../mount/fuse/device/attach.ts";
import { runCommand } from "../../mount/fuse/command.ts";

const op = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  mkdir: 9,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
} as const;

const errno = { ENOENT: 2, ENOSYS: 38 } as const;
const noReply = new Set<number>([op.forget, op.batchForget, op.interrupt]);
const empty = new Set<number>([op.flush, op.release, op.releasedir, op.readdir, op.destroy]);

const directory = 0o40755;
const regular = 0o100666;
const fileBytes = 64 << 20;
const zeros = Buffer.alloc(1 << 20);
/** FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_PARALLEL_DIROPS, FUSE_MAX_PAGES. */
const initFlags = 1 | (1 << 5) | (1 << 18) | (1 << 22);

export interface Command {
  do: "answer" | "close" | "entry" | "leave" | "resources" | "rounds" | "stats" | "unmount";
  /**
   * For `entry` (FUSE_NOTIFY_INVAL_ENTRY below the root): the name, and how often. For `rounds`: a
   * directory, and how often to mount on it and unmount.
   */
  name?: string;
  count?: number;
  lazy?: boolean;
}

class NullFilesystem {
  readonly attachment: Attachment;
  /** Messages by opcode. */
  readonly seen: Record<number, number> = {};
  readonly ended: Promise<string>;
  readonly #waiting: bigint[] = [];
  readonly #names = new Map<string, bigint>([["file", 2n]]);
  #written = 0;

  constructor(attachment: Attachment) {
    this.attachment = attachment;
    this.ended = new Promise((resolve) => {
      attachment.channel.start({
        onRequest: (message) => this.#take(message),
        onEnd: (error) => resolve(error?.message ?? "unmounted"),
      });
    });
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get written(): number {
    return this.#written;
  }

  answer(): number {
    const results = this.#waiting.splice(0).map((unique) => this.#fail(unique, errno.ENOENT));
    return results.length;
  }

  #take(message: Buffer): void {
    const opcode = message.readUInt32LE(4);
    const unique = message.readBigUInt64LE(8);
    const node = message.readBigUInt64LE(16);
    const body = message.subarray(40);
    this.seen[opcode] = (this.seen[opcode] ?? 0) + 1;
    if (message.readUInt32LE(0) !== message.length) throw new Error("a message has another length");
    if (noReply.has(opcode)) return;
    if (empty.has(opcode)) return void this.#reply(unique);
    switch (opcode) {
      case op.init:
        return void this.#reply(unique, initReply(body));
      case op.getattr:
        return void this.#reply(unique, concat(u64(3600n), u64(0n), attr(node)));
      case op.lookup: {
        const found = this.#names.get(cString(body));
        if (found === undefined) return void this.#fail(unique, errno.ENOENT);
        return void this.#reply(unique, entry(found));
      }
      case op.mkdir: {
        const name = cString(body.subarray(8));
        if (name.startsWith("wait")) return void this.#waiting.push(unique);
        const made = BigInt(this.#names.size + 2);
        this.#names.set(name, made);
        return void this.#reply(unique, entry(made));
      }
      case op.open:
      case op.opendir:
        return void this.#reply(unique, Buffer.alloc(16));
      case op.statfs:
        return void this.#reply(unique, Buffer.alloc(80));
      case op.read: {
        const [offset, bytes] = [Number(body.readBigUInt64LE(8)), body.readUInt32LE(16)];
        const length = Math.max(0, Math.min(bytes, fileBytes - offset));
        return void this.#reply(unique, zeros.subarray(0, length));
      }
      case op.write: {
        this.#written += body.length - 40;
        const written = Buffer.alloc(8);
        written.writeUInt32LE(body.readUInt32LE(16));
        return void this.#reply(unique, written);
      }
      default:
        this.#fail(unique, errno.ENOSYS);
    }
  }

  #reply(unique: bigint, payload: Buffer = Buffer.alloc(0)): number {
    return this.attachment.channel.reply([header(payload.length, 0, unique), payload]);
  }

  #fail(unique: bigint, error: number): number {
    return this.attachment.channel.reply([header(0, -error, unique)]);
  }
}

/** FUSE_NOTIFY_INVAL_ENTRY (3) for a name in the root. */
function invalidateEntry(name: string): Buffer {
  const bytes = Buffer.from(name);
  const body = Buffer.alloc(16 + bytes.length + 1);
  body.writeBigUInt64LE(1n, 0);
  body.writeUInt32LE(bytes.length, 8);
  bytes.copy(body, 16);
  return concat(header(body.length, 3, 0n), body);
}

function header(payloadBytes: number, error: number, unique: bigint): Buffer {
  const out = Buffer.alloc(16);
  out.writeUInt32LE(16 + payloadBytes, 0);
  out.writeInt32LE(error, 4);
  out.writeBigUInt64LE(unique, 8);
  return out;
}

function initReply(request: Buffer): Buffer {
  const out = Buffer.alloc(64);
  out.writeUInt32LE(7, 0);
  out.writeUInt32LE(Math.min(31, request.readUInt32LE(4)), 4);
  out.writeUInt32LE(1 << 20, 8);
  out.writeUInt32LE(initFlags, 12);
  out.writeUInt16LE(64, 16);
  out.writeUInt16LE(48, 18);
  out.writeUInt32LE(1 << 20, 20); // max_write
  out.writeUInt32LE(1, 24); // time_gran
  out.writeUInt16LE(256, 28); // max_pages
  return out;
}

function attr(node: bigint): Buffer {
  const out = Buffer.alloc(88);
  const file = node === 2n;
  out.writeBigUInt64LE(node, 0);
  out.writeBigUInt64LE(file ? BigInt(fileBytes) : 0n, 8);
  out.writeUInt32LE(file ? regular : directory, 60);
  out.writeUInt32LE(1, 64);
  out.writeUInt32LE(4096, 80);
  return out;
}

const entry = (node: bigint): Buffer =>
  concat(u64(node), u64(0n), u64(3600n), u64(3600n), u64(0n), attr(node));

function u64(value: bigint): Buffer {
  const out = Buffer.alloc(8);
  out.writeBigUInt64LE(value);
  return out;
}

const concat = (...parts: Buffer[]): Buffer => Buffer.concat(parts);
const cString = (bytes: Buffer): string => bytes.toString("utf8", 0, bytes.indexOf(0));

async function carryOut(filesystem: NullFilesystem, command: Command): Promise<unknown> {
  const { channel, unmount } = filesystem.attachment;
  switch (command.do) {
    case "answer":
      return filesystem.answer();
    case "entry": {
      const { name = "file", count = 1 } = command;
      const message = invalidateEntry(name);
      return Promise.all(Array.from({ length: count }, () => channel.notify(message)));
    }
    case "close":
      await channel.close();
      return channel.reply([Buffer.alloc(16)]);
    case "unmount":
      try {
        await unmount({ lazy: command.lazy ?? false });
        return "unmounted";
      } catch (error) {
        return (error as { status?: string }).status ?? String(error);
      }
    case "stats":
      return {
        seen: filesystem.seen,
        written: filesystem.written,
        waiting: filesystem.waiting,
      };
    case "rounds":
      for (let i = 0; i < (command.count ?? 1); i++) await playRound(must(command.name, "name"));
      return undefined;
    case "resources":
      return countResources();
    case "leave":
      // Nothing but the channel keeps this process alive now.
      process.disconnect();
      return undefined;
  }
}

/** Of this process, garbage not counted. */
export interface Resources {
  descriptors: number;
  threads: number;
  /** Bytes, all three. */
  buffers: number;
  memory: number;
}

async function countResources(): Promise<Resources> {
  // What the first finds unreachable is counted until the second, when its finalizers have run.
  for (let i = 0; i < 2; i++) {
    (globalThis as { gc?: () => void }).gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
  const { arrayBuffers, rss } = process.memoryUsage();
  const descriptors = readdirSync("/proc/self/fd").length;
  const threads = readdirSync("/proc/self/task").length;
  return { descriptors, threads, buffers: arrayBuffers, memory: rss };
}

/** One mount that is used and unmounted. */
async function playRound(directory: string): Promise<void> {
  const attachment = await attachAt(directory, "");
  const filesystem = new NullFilesystem(attachment);
  await runCommand(["stat", `${directory}/file`], { clock: systemClock, limitMs: 30_000 });
  await attachment.channel.notify(invalidateEntry("file"));
  await attachment.unmount({ lazy: false });
  await filesystem.ended;
  await attachment.channel.close();
}

function attachAt(mountpoint: string, options: string): Promise<Attachment> {
  const given = { mountpoint, source: "null", readOnly: false };
  const allowOther = process.getuid?.() === 0;
  const extra = options === "" ? [] : options.split(",");
  return attach({ ...given, allowOther, extra }, systemClock);
}

async function main(): Promise<void> {
  const { positionals } = parseArgs({ allowPositionals: true });
  const [mountpoint, options = ""] = positionals;
  const attachment = await attachAt(must(mountpoint, "MOUNTPOINT"), options);
  const filesystem = new NullFilesystem(attachment);
  const handle = async ({ id, command }: { id: number; command: Command }): Promise<void> => {
    const answer = await carryOut(filesystem, command);
    if (process.connected) process.send?.({ id, answer });
  };
  process.on("message", (message: { id: number; command: Command }) => void handle(message));
  process.send?.({ mounted: attachment.mountpoint });
  const why = await filesystem.ended;
  if (process.connected) process.send?.({ ended: why });
  await attachment.channel.close();
}

await runMain("device-null", main);
