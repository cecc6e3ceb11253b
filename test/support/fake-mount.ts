/** A dispatcher on a memory filesystem, with a kernel played by the test. */

import { constants } from "node:os";
import type { Log } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { Dispatcher } from "../../mount/fuse/device/dispatcher.ts";
import { FUSE_GETATTR_FH } from "../../mount/fuse/device/flags.ts";
import type { SessionOptions } from "../../mount/fuse/device/options.ts";
import * as s from "../../mount/fuse/device/structures.ts";
import { type Answer, FakeKernel, structure } from "./fake-kernel.ts";
import { MemoryFileSystem } from "./memory-filesystem.ts";

export const { ENOENT, ENOSYS, EPROTO, EAGAIN, EINTR, EBADF, ESTALE, EINVAL, EIO } =
  constants.errno;

/** Keeps the names of what was logged as a warning or an error. */
export class KeepingLog implements Log {
  readonly events: string[] = [];

  debug(): void {}

  event(): void {}

  warn(event: string): void {
    this.events.push(event);
  }

  error(event: string): void {
    this.events.push(event);
  }
}

export class FakeMount<F extends MemoryFileSystem = MemoryFileSystem> {
  readonly kernel = new FakeKernel();
  readonly log = new KeepingLog();
  readonly fileSystem: F;
  readonly dispatcher: Dispatcher;

  constructor(fileSystem: F, session: SessionOptions = {}) {
    this.fileSystem = fileSystem;
    const { kernel: channel, log } = this;
    const options = { channel, log, clock: systemClock, session };
    this.dispatcher = new Dispatcher({ fileSystem, ...options });
    this.dispatcher.start();
  }

  lookup(node: number, name: string): Promise<Answer> {
    return this.kernel.ask("LOOKUP", { node, names: [name] });
  }

  /** Creates and opens a file. */
  async create(name: string, node = 1): Promise<{ node: number; file: number }> {
    const body = structure(s.createIn, { flags: 0o102, mode: 0o100644, umask: 0o22 });
    const { error, data } = await this.kernel.ask("CREATE", { node, body, names: [name] });
    if (error !== 0) throw new Error(`CREATE: ${error}`);
    return { node: s.createOut.entry.nodeid.get(data, 0), file: s.createOut.open.fh.get(data, 0) };
  }

  async mkdir(name: string, node = 1): Promise<number> {
    const body = structure(s.mkdirIn, { mode: 0o755, umask: 0o22 });
    const { error, data } = await this.kernel.ask("MKDIR", { node, body, names: [name] });
    if (error !== 0) throw new Error(`MKDIR: ${error}`);
    return s.entryOut.nodeid.get(data, 0);
  }

  write(node: number, file: number, data: Buffer, offset = 0): Promise<Answer> {
    const body = structure(s.writeIn, { fh: file, offset, size: data.length });
    return this.kernel.ask("WRITE", { node, body, data });
  }

  read(node: number, file: number, size: number, offset = 0): Promise<Answer> {
    return this.kernel.ask("READ", { node, body: structure(s.readIn, { fh: file, offset, size }) });
  }

  release(node: number, file: number): Promise<Answer> {
    return this.kernel.ask("RELEASE", { node, body: structure(s.releaseIn, { fh: file }) });
  }

  fstat(node: number, file: number): Promise<Answer> {
    const body = structure(s.getattrIn, { getattrFlags: FUSE_GETATTR_FH, fh: file });
    return this.kernel.ask("GETATTR", { node, body });
  }

  forget(node: number, references: number): void {
    this.kernel.tell("FORGET", { node, body: structure(s.forgetIn, { nlookup: references }) });
  }

  async opendir(node = 1): Promise<number> {
    const { data } = await this.kernel.ask("OPENDIR", { node });
    return s.openOut.fh.get(data, 0);
  }

  async list(given: {
    file: number;
    offset: number;
    node?: number;
    size?: number;
    plus?: boolean;
  }): Promise<Listed[]> {
    const { file, offset, node = 1, size = 4096, plus = false } = given;
    const body = structure(s.readIn, { fh: file, offset, size });
    const answer = await this.kernel.ask(plus ? "READDIRPLUS" : "READDIR", { node, body });
    if (answer.error !== 0) throw new Error(`READDIR: ${answer.error}`);
    return parseListing(answer.data, plus);
  }
}

export interface Listed {
  name: string;
  offset: number;
  ino: number;
  type: number;
  node: number;
  generation: number;
}

export function parseListing(data: Buffer, plus: boolean): Listed[] {
  const listed: Listed[] = [];
  for (let at = 0; at < data.length;) {
    const dirent = plus ? at + s.entryOut.byteLength : at;
    const length = s.dirent.namelen.get(data, dirent);
    const nameAt = dirent + s.dirent.byteLength;
    listed.push({
      name: data.toString("latin1", nameAt, nameAt + length),
      offset: s.dirent.off.get(data, dirent),
      ino: s.dirent.ino.get(data, dirent),
      type: s.dirent.type.get(data, dirent),
      node: plus ? s.entryOut.nodeid.get(data, at) : 0,
      generation: plus ? s.entryOut.generation.get(data, at) : 0,
    });
    at = nameAt + Math.ceil(length / 8) * 8;
  }
  return listed;
}

export async function fakeMount(): Promise<FakeMount> {
  return initialized(new FakeMount(new MemoryFileSystem(systemClock)));
}

export async function initialized<M extends FakeMount>(mount: M, minor = 45): Promise<M> {
  await mount.kernel.initialize({ minor });
  return mount;
}
