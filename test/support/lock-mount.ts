import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { Tasks } from "../../common/tasks.ts";
import { LockClient, type LockTarget } from "../../mount/client/lock-client.ts";
import { MasterClient } from "../../mount/client/master-client.ts";
import { ino } from "../../protocol/id.ts";
import { lockOffsetMax } from "../../protocol/limits.ts";
import { getLock } from "../../protocol/methods/lock.ts";
import { StatusError, statusOf } from "../../protocol/status.ts";
import type { MasterCluster } from "./master-cluster.ts";
import { type MemoryTransport, transportPair } from "./memory-transport.ts";

export interface Wish {
  file?: number;
  owner?: number;
  type?: "read" | "write" | "unlock";
  /** First and last byte; the whole file if absent. */
  bytes?: [number, number];
  flock?: boolean;
  wait?: boolean;
  signal?: AbortSignal;
}

/** A mount's locks, with a real client to a real master over a network that a test can cut. */
export class LockMount {
  readonly name: string;
  readonly locks: LockClient;
  readonly master: MasterClient;
  readonly lost: number[] = [];
  /** Nothing gets through, and no connection comes up. */
  reachable = true;
  /** What the master sends is dropped, until the connection is cut. */
  deaf = false;
  /** Messages to the master. */
  sent = 0;
  #near: MemoryTransport | undefined;
  readonly #tasks: Tasks;

  constructor(cluster: MasterCluster, name: string) {
    this.name = name;
    const shared = { clock: systemClock, log: silentLog };
    this.#tasks = new Tasks(shared);
    this.master = new MasterClient({
      ...{ ...shared, name, mountpoint: `/${name}`, secret: name, tasks: this.#tasks },
      ...{ address: { host: "master", port: 1 }, timeoutMs: undefined, random: () => 0.5 },
      connect: () => {
        if (!this.reachable) return Promise.reject(new StatusError("unavailable", "cut off"));
        const [near, far] = transportPair();
        this.#near = near;
        this.deaf = false;
        cluster.master.accept(far, name);
        return Promise.resolve({
          send: (parts) => {
            this.sent += 1;
            near.send(parts);
          },
          queuedBytes: () => 0,
          close: (reason) => near.close(reason),
          onClose: (listener) => near.onClose(listener),
          onMessage: (listener) =>
            near.onMessage((parts) => {
              if (!this.deaf) listener(parts);
            }),
        });
      },
      onInvalidate: () => Promise.resolve(),
      onDisconnect: () => Promise.resolve(),
      onSession: (connection, resumed) => this.locks.connected(connection, resumed),
      onLockReady: (tickets) => this.locks.ready(tickets),
      onFlush: () => Promise.resolve(),
      onRecall: () => Promise.resolve(),
      opens: () => [],
    });
    this.locks = new LockClient({
      ...{ ...shared, master: this.master, tasks: this.#tasks },
      onLost: (its) => void this.lost.push(its),
    });
  }

  start(): Promise<void> {
    return this.master.start();
  }

  /** Ends the connection, if there is one. */
  cut(): void {
    this.#near?.close("cut");
  }

  leave(): void {
    this.reachable = false;
    this.cut();
  }

  /** As the kernel asks; open files are numbered like their owners. */
  set({ file = 7, owner = 1, ...wish }: Wish): Promise<void> {
    const target: LockTarget = {
      ...{ ino: ino(file), at: undefined, flock: wish.flock ?? false, owner: BigInt(owner) },
    };
    const [start, end] = wish.bytes ? wish.bytes.map(BigInt) : [0n, lockOffsetMax];
    const range = { start: start ?? 0n, end: end ?? 0n };
    const { type = "write", wait = false, signal } = wish;
    return this.locks.set(target, owner, { ...range, type, pid: owner, wait }, signal);
  }

  /** "done", or why not. */
  try(wish: Wish): Promise<string> {
    return this.set(wish).then(() => "done", statusOf);
  }

  wait(wish: Wish): Promise<string> {
    return this.try({ ...wish, wait: true });
  }

  unlock(wish: Wish = {}): Promise<string> {
    return this.try({ ...wish, type: "unlock" });
  }

  /** What the master says is in the way of an owner that has nothing. */
  async shown(file = 7, flock = false): Promise<string> {
    const asked = { ino: ino(file), flock, owner: 999n, start: 0n, end: lockOffsetMax };
    const { lock } = await this.master.read(getLock, { ...asked, type: "write" });
    return lock ? `${lock.type} ${lock.start}-${lock.end} by ${lock.pid}` : "free";
  }

  async stop(): Promise<void> {
    const stopped = this.#tasks.stop();
    await this.master.close();
    await stopped;
  }
}

/** Lets everything go on that needs nothing but turns of the event loop. */
export async function turns(count = 20): Promise<void> {
  for (let i = 0; i < count; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Whether a promise has settled, and how. */
export function watched(work: Promise<string>): { outcome: string } {
  const state = { outcome: "waiting" };
  void work.then((outcome) => (state.outcome = outcome));
  return state;
}
