import { AssertionError } from "../../common/assert.ts";
import type { Clock, Timer } from "../../common/clock.ts";
import { errnoName } from "../../common/disk.ts";
import type { Log } from "../../common/log.ts";
import { StatusError } from "../../protocol/status.ts";
import { EventQueue, type SimEvent } from "./event-queue.ts";
import { Random } from "./random.ts";

/**
 * Virtual time and everything that happens in it. One event runs at a time, then all promises that
 * it has settled, then the next; time jumps from one event to the next. So a seed decides all.
 *
 * Each event belongs to a life (one run of one program) or to nobody (the world itself). What a
 * life does in an event, `setImmediate` too, belongs to the same life: lives meet only through the
 * network and the disk. A life that has ended never runs again.
 */
export class World {
  readonly random: Random;
  nowMs = 0;
  /** Whose event is running. */
  current: Life | undefined;
  /** The first thing that was wrong. */
  violation: string | undefined;
  readonly counts = new Map<string, number>();
  readonly #queue = new EventQueue();
  readonly #record: (line: string) => void;
  #hash = 0x811c9dc5;
  #events = 0;

  constructor(options: { seed: number; record: (line: string) => void }) {
    this.random = new Random(options.seed);
    this.#record = options.record;
  }

  /** Of everything that has been noted: the same for two runs of one seed. */
  get hash(): string {
    return this.#hash.toString(16).padStart(8, "0");
  }

  get events(): number {
    return this.#events;
  }

  /** Writes a line into the event log. */
  note(text: string): void {
    const line = `${this.nowMs.toFixed(3).padStart(12)} ${text}`;
    for (let i = 0; i < line.length; i += 1) {
      this.#hash = Math.imul(this.#hash ^ line.charCodeAt(i), 0x01000193) >>> 0;
    }
    this.#record(line);
  }

  /** Counts a fault that was injected, or a check that was made. */
  count(what: string, by = 1): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + by);
  }

  /** Something is not as promised. The first time counts: what follows may follow from it. */
  violate(what: string): void {
    this.note(`VIOLATION ${what}`);
    this.violation ??= what;
  }

  /** Runs `run` after `afterMs` for `life`, unless it has ended by then. */
  after(afterMs: number, life: Life | undefined, run: () => void): Timer {
    const event = this.#queue.add(this.nowMs + Math.max(0, afterMs), life, run);
    return { cancel: () => void (event.run = undefined) };
  }

  /** Resolves after `afterMs`, for the world itself: no part of a life may wait so. */
  pause(afterMs: number): Promise<void> {
    return new Promise((resolve) => this.after(afterMs, undefined, resolve));
  }

  /** Events that were held back happen now, in their order. */
  release(events: readonly SimEvent[]): void {
    for (const event of events) this.#queue.hold(event, this.nowMs);
  }

  /** Runs events until `done` says so. False if `untilMs` or `eventsMax` came first. */
  async run(done: () => boolean, limits: { untilMs: number; eventsMax: number }): Promise<boolean> {
    const lastEvent = this.#events + limits.eventsMax;
    while (!done()) {
      if (this.violation !== undefined) return false;
      const { nextMs } = this.#queue;
      if (nextMs > limits.untilMs || this.#events > lastEvent) return false;
      const event = this.#queue.take();
      if (!event) return false;
      if (!event.run || event.life?.ended) continue;
      if (event.life?.node.stopped) event.life.node.held.push(event);
      else await this.#step(event);
    }
    return true;
  }

  async #step(event: SimEvent): Promise<void> {
    this.nowMs = event.atMs;
    this.current = event.life;
    this.#events += 1;
    try {
      event.run?.();
    } catch (error) {
      // A process that ends in the middle of a step goes no further.
      if (!event.life?.ended) this.failed("event", error);
    }
    await drained();
    this.current = undefined;
  }

  /** An error that nothing expects: a bug, wherever it shows. */
  failed(where: string, error: unknown): void {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.violate(`${where}: ${stack.split("\n").slice(0, 4).join(" | ")}`);
  }
}

const realSetImmediate = globalThis.setImmediate;

/** Resolves when all promises that can settle by themselves have. */
function drained(): Promise<void> {
  return new Promise((resolve) => realSetImmediate(resolve));
}

/** While `work` runs, `setImmediate` and rejections that nobody handles belong to the world. */
export async function inWorld<T>(world: World, work: () => Promise<T>): Promise<T> {
  const replaced = (run: (...args: unknown[]) => void, ...args: unknown[]): NodeJS.Immediate => {
    world.after(0, world.current, () => run(...args));
    return undefined as unknown as NodeJS.Immediate; // Nobody clears one.
  };
  const unhandled = (error: unknown): void => world.failed("unhandled rejection", error);
  globalThis.setImmediate = replaced as unknown as typeof setImmediate;
  process.on("unhandledRejection", unhandled);
  try {
    return await work();
  } finally {
    globalThis.setImmediate = realSetImmediate;
    await drained();
    process.off("unhandledRejection", unhandled);
  }
}

/** A machine with one program: its clocks, and whether it is stopped. */
export class SimNode {
  readonly name: string;
  readonly world: World;
  life: Life;
  /** What would have happened while it was stopped. */
  held: SimEvent[] = [];
  #stoppedUntilMs = -1;
  /** How fast its monotonic clock runs, and where it began. */
  readonly rate: number;
  readonly #startMs: number;
  /** Chunks that it has ever found bad here. */
  readonly badChunks = new Set<number>();
  /** Steps of its wall clock, in ns. */
  wallJumpNs = 0n;
  #lives = 0;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
    this.rate = 1 + (world.random.next() - 0.5) * 2e-4;
    this.#startMs = world.random.below(1e9);
    this.life = new Life(this, 0);
    this.life.end();
  }

  get alive(): boolean {
    return !this.life.ended;
  }

  get uptimeMs(): number {
    return this.#startMs + this.world.nowMs * this.rate;
  }

  /** The program starts again: a new life, whose first event `run` is. */
  begin(run: (life: Life) => Promise<void>): Life {
    this.life.end();
    this.#lives += 1;
    const life = (this.life = new Life(this, this.#lives));
    this.world.after(0, life, () => {
      run(life).catch((error: unknown) => {
        if (!life.ended) this.world.failed(life.name, error);
      });
    });
    return life;
  }

  /** SIGSTOP, and SIGCONT after `ms`: what happens to it meanwhile, it notices then. */
  stop(ms: number): void {
    const untilMs = this.world.nowMs + ms;
    if (untilMs <= this.#stoppedUntilMs) return;
    this.#stoppedUntilMs = untilMs;
    this.world.after(ms, undefined, () => {
      if (this.#stoppedUntilMs <= this.world.nowMs) this.go();
    });
  }

  /** SIGCONT. */
  go(): void {
    this.#stoppedUntilMs = -1;
    this.world.release(this.held.splice(0));
  }

  get stopped(): boolean {
    return this.#stoppedUntilMs >= 0;
  }
}

/** One run of one program, from its start to its end. */
export class Life {
  readonly node: SimNode;
  readonly name: string;
  readonly random: Random;
  readonly clock: Clock;
  readonly log: Log;
  ended = false;
  /** How often it has logged an event. */
  readonly said = new Map<string, number>();
  /** By inode: writes of which this mount has found that they cannot be stored. */
  readonly failedWrites = new Map<number, number>();
  readonly #onEnd = new Set<() => void>();

  constructor(node: SimNode, number: number) {
    this.node = node;
    this.name = `${node.name}#${number}`;
    this.random = node.world.random.fork();
    this.clock = clockOf(this);
    this.log = logOf(this);
  }

  /** Whatever else the program does from now on reaches nothing and nobody. */
  end(): void {
    if (this.ended) return;
    this.ended = true;
    for (const listener of this.#onEnd) listener();
  }

  /** Returns what takes the listener away again. */
  onEnd(listener: () => void): () => void {
    this.#onEnd.add(listener);
    return () => void this.#onEnd.delete(listener);
  }

  after(ms: number, run: () => void): Timer {
    return this.node.world.after(ms, this, run);
  }
}

const wallStartNs = 1_750_000_000_000_000_000n;

function clockOf(life: Life): Clock {
  const { node } = life;
  return {
    nowMs: () => node.uptimeMs,
    wallNs: () => wallStartNs + BigInt(Math.round(node.world.nowMs * 1e6)) + node.wallJumpNs,
    timer: (afterMs, fire) => life.after(afterMs / node.rate, fire),
  };
}

/** Events of the programs go into the log; an error that only a bug makes is a violation. */
function logOf(life: Life): Log {
  const { world } = life.node;
  const say =
    (level: string) =>
    (event: string, facts: Record<string, unknown> = {}): void => {
      if (life.ended) return;
      life.said.set(event, (life.said.get(event) ?? 0) + 1);
      if (event === "write.failed") {
        const ino = Number(facts["ino"]);
        life.failedWrites.set(ino, (life.failedWrites.get(ino) ?? 0) + 1);
      }
      if (event === "chunk.bad") life.node.badChunks.add(Number(facts["handle"]));
      world.note(`${life.name} ${level} ${event} ${factsText(facts)}`);
      if (isBug(facts["error"])) world.failed(`${life.name} ${event}`, facts["error"]);
    };
  return { debug: say("debug"), event: say("info"), warn: say("warn"), error: say("error") };
}

function isBug(error: unknown): boolean {
  if (error === undefined || typeof error === "string") return false;
  if (error instanceof AssertionError) return true;
  return !(error instanceof StatusError) && errnoName(error) === undefined;
}

/** Without what differs from machine to machine (stacks, process ids). */
function factsText(facts: Record<string, unknown>): string {
  return Object.entries(facts)
    .map(([key, value]) => `${key}=${factText(value)}`)
    .join(" ")
    .replaceAll(/\S+ pid \d+/g, "client");
}

function factText(value: unknown): string {
  if (value instanceof Error) return value.message;
  if (typeof value === "string") return value;
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === "bigint" ? String(part) : part,
  );
}
