import { type Clock, sleep } from "../../../common/clock.ts";
import type { Log } from "../../../common/log.ts";
import type { Tasks } from "../../../common/tasks.ts";
import { type ChunkHandle, chunkHandle, type ServerId } from "../../../protocol/id.ts";
import { heartbeatMs } from "../../../protocol/limits.ts";
import { StatusError } from "../../../protocol/status.ts";
import { Census, type ChunkCounts, type ChunkFacts } from "../../chunks/census.ts";
import type { Chunks } from "../../chunks/chunks.ts";
import type { Fleet } from "../../fleet/fleet.ts";
import { numberFromKey, numberKey } from "../../store/bytes.ts";
import type { Store } from "../../store/store.ts";
import type { Chunk } from "../../store/tables.ts";
import { canMove, unevenPairs } from "./balance.ts";
import { type FleetView, needOf, prioritiesCount, priority } from "./need.ts";
import { RepairQueue } from "./queue.ts";
import { copiesPerServerDefault, Slots, type Transfer } from "./slots.ts";
import { RepairSteps, type Work } from "./steps.ts";
import { viewKey, viewOf } from "./view.ts";

/** How long it rests when nothing tells it that there is something to do. */
const restMs = 1_000;
/** All chunks are looked at in memory this often, though nothing may have changed. */
const passMs = 60_000;
/** All records are read again this often, should a change have been missed. */
const recountMs = 1_800_000;
/** Records read, or classes looked at, before other work gets its turn: a few milliseconds. */
const sliceMax = 2_000;
/** Chunks that wait for repair, about 100 bytes each: it takes minutes to carry these out. */
const queueMax = 10_000;
/** Chunks of the queue that are looked at for one that can be started now. */
const looksMax = 256;
/** Steps under way that move no data: each waits for its servers, of which one may be slow. */
const stepsMax = 64;
/** A step that failed is tried again after this, then twice this, up to the most. */
const retryMs = { first: 1_000, most: 60_000 };
/** A write that has failed is sent again at once: it needs the chunk's lock before a copy does. */
const shrunkMs = 1_000;
/** A chunk without data may be being written to: it is left alone for so long. */
const unwrittenMs = 10_000;
/** When no chunk can be moved to make servers more even, that is how it is for a while. */
const evenMs = 60_000;
/** A server has told how full it is since a move that is as old as this. */
const toldMs = 3 * heartbeatMs;
/** One move to make servers more even for so many servers that are up: it is in no hurry. */
const serversPerMove = 4;

export interface RepairOptions {
  /** Copies at a time that one server takes part in. */
  copiesPerServer?: number | undefined;
  /** False: replicas are not moved to make servers equally full. */
  rebalance?: boolean | undefined;
}

/**
 * Replication as it is, and as it should be (GFS §4.3). Changes are noted as they happen; what has
 * to be done follows from the class of a chunk and the state of the servers (`need.ts`), is put in
 * line by urgency, decided again just before it starts, and carried out within the caps. So a
 * server that has come back in the meantime causes no copies.
 */
export class Repair {
  readonly census: Census;
  readonly #store: Store;
  readonly #chunks: Chunks;
  readonly #fleet: Fleet;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #chunkBytes: number;
  readonly #rebalance: boolean;
  readonly #steps: RepairSteps;
  readonly #slots: Slots;
  readonly #queue = new RepairQueue(queueMax);
  readonly #running = new Set<ChunkHandle>();
  readonly #later = new Map<ChunkHandle, { atMs: number; tries: number }>();
  readonly #moves: (Transfer & { atMs: number })[] = [];
  #moving = 0;
  #view: FleetView = new Map();
  #viewKey = "";
  #passAtMs = 0;
  #recountAtMs = 0;
  #balanceAtMs = 0;
  #balanceFrom = 0;
  #staleCursor: IterableIterator<ChunkHandle> = [].values();
  #wake: () => void = () => undefined;
  #woken = false;
  #tasks: Tasks | undefined;
  readonly #counted: Promise<void>;
  #countedOnce: () => void = () => undefined;

  constructor(
    options: {
      store: Store;
      chunks: Chunks;
      fleet: Fleet;
      clock: Clock;
      log: Log;
      chunkBytes: number;
      random: () => number;
    } & RepairOptions,
  ) {
    this.#store = options.store;
    this.#chunks = options.chunks;
    this.#fleet = options.fleet;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#chunkBytes = options.chunkBytes;
    this.#rebalance = options.rebalance ?? true;
    this.#steps = new RepairSteps(options);
    this.#slots = new Slots(options.copiesPerServer ?? copiesPerServerDefault);
    this.census = new Census((handle) => this.#factsOf(handle));
    this.census.onNoted = (handle, facts) => this.#noted(handle, facts);
    this.#counted = new Promise((resolve) => {
      this.#countedOnce = resolve;
    });
  }

  /** Runs until the tasks end. */
  start(tasks: Tasks): void {
    this.#tasks = tasks;
    const { signal } = tasks;
    tasks.run("repair", async () => {
      while (!signal.aborted) {
        await this.#round(signal).catch((error: unknown) => {
          this.#log.error("task.failed", { task: "repair", error });
        });
        if (!this.#woken) await this.#rest(signal);
        this.#woken = false;
      }
    });
    // Nobody waits for the first count of a master that stops.
    signal.addEventListener("abort", () => this.#countedOnce(), { once: true });
  }

  async #rest(signal: AbortSignal): Promise<void> {
    const waking = new AbortController();
    this.#wake = () => waking.abort();
    await sleep(this.#clock, restMs, AbortSignal.any([signal, waking.signal]));
    this.#wake = () => undefined;
  }

  /** Something may have changed that repair should know of now. */
  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  /** Somebody waits for this chunk, which lacks replicas: it comes before all others. */
  hurry(handle: ChunkHandle): void {
    this.#queue.put(handle, priority.awaited);
  }

  /** A write has cost the chunk a replica, and is sent again now: that goes before a copy. */
  shrunk(handle: ChunkHandle): void {
    this.#putOff(handle, shrunkMs);
  }

  /** As it is now, but right after the start: then it waits until all records have been read. */
  async counts(): Promise<ChunkCounts> {
    await this.#counted;
    return this.census.counts((id) => this.#fleet.isUp(id));
  }

  /** Copies under way, and chunks that wait for something to be done for them. */
  get load(): { copying: number; waiting: number } {
    return { copying: this.#slots.transfers, waiting: this.#queue.size };
  }

  #factsOf(handle: ChunkHandle): ChunkFacts | undefined {
    const chunk = this.#find(handle);
    if (!chunk) return undefined;
    const { goal, written, servers } = chunk;
    return { goal, written, servers, present: this.#chunks.sets.present(handle) };
  }

  /** A damaged record, which `gfs-master --check` names, keeps no other chunk from repair. */
  #find(handle: ChunkHandle): Chunk | undefined {
    try {
      return this.#chunks.sets.find(handle);
    } catch (error) {
      if (!(error instanceof StatusError)) throw error;
      this.#log.error("repair.damaged", { handle, error });
      return undefined;
    }
  }

  #noted(handle: ChunkHandle, facts: ChunkFacts | undefined): void {
    const need = facts && needOf(facts, this.#view);
    if (need) this.#queue.put(handle, need.priority);
    this.#discardStale(handle, facts);
  }

  /** Old replicas are good for nothing once a chunk has all that it wants. */
  #discardStale(handle: ChunkHandle, facts: ChunkFacts | undefined): void {
    const { stale } = this.#chunks.sets;
    if (stale.of(handle).length === 0 || this.#running.has(handle)) return;
    const live = facts?.present.filter((id) => this.#fleet.isUp(id)).length ?? 0;
    // A chunk without data gets no further copies, so it has all that it will get.
    if (!facts || live >= (facts.written ? facts.goal : 1)) this.#chunks.sets.discardStale(handle);
  }

  // Rounds

  async #round(signal: AbortSignal): Promise<void> {
    const nowMs = this.#clock.nowMs();
    if (nowMs >= this.#recountAtMs) {
      await this.#recount(signal);
      this.#recountAtMs = nowMs + recountMs;
      this.#countedOnce();
    }
    if (this.#fleet.expectsMore()) return;
    this.#look();
    const seldom = this.#queue.overflowed && this.#queue.size < queueMax / 2;
    if (nowMs >= this.#passAtMs || seldom) {
      this.#passAtMs = nowMs + passMs;
      await this.#pass(signal);
    }
    for (const handle of this.#chunks.sets.unsettled.handles()) {
      if (this.#queue.full) break;
      // Comparing replicas may make copies unnecessary.
      this.#queue.put(handle, priority.awaited);
    }
    this.census.flush();
    if (signal.aborted) return;
    this.#startWork();
    if (this.#rebalance) await this.#startMoves();
  }

  /** How the servers are now; if they are not as they were, all chunks are looked at. */
  #look(): void {
    const nowMs = this.#clock.nowMs();
    while ((this.#moves[0]?.atMs ?? nowMs) < nowMs - toldMs) this.#moves.shift();
    const coming = new Map<ServerId, number>();
    for (const { source, target } of this.#moves) {
      coming.set(source, (coming.get(source) ?? 0) - this.#chunkBytes);
      coming.set(target, (coming.get(target) ?? 0) + this.#chunkBytes);
    }
    this.#view = viewOf(this.#fleet, this.#chunkBytes, coming);
    const key = viewKey(this.#view);
    if (key === this.#viewKey) return;
    this.#viewKey = key;
    this.#passAtMs = 0;
    this.#balanceAtMs = 0;
  }

  /** Reads the records of all chunks. */
  async #recount(signal: AbortSignal): Promise<void> {
    let from = numberKey(0);
    for (let more = true; more && !signal.aborted;) {
      let rows = 0;
      for (const { key } of this.#store.range("chunk", { from, limit: sliceMax })) {
        const handle = chunkHandle(numberFromKey(key, 0));
        this.census.note(handle);
        from = numberKey(handle + 1);
        rows += 1;
      }
      this.census.flush();
      more = rows === sliceMax;
      await turn();
    }
  }

  /** Puts all chunks in line that need something, the most urgent if there is no room for all. */
  async #pass(signal: AbortSignal): Promise<void> {
    const wanting = Array.from({ length: prioritiesCount }, () => new Set<number>());
    let seen = 0;
    for (const [number, facts] of this.census.classes()) {
      const need = needOf(facts, this.#view);
      if (need) wanting[need.priority]?.add(number);
      seen += 1;
      if (seen % sliceMax === 0) await turn();
    }
    this.#queue.overflowed = false;
    for (const [urgency, numbers] of wanting.entries()) {
      if (numbers.size === 0) continue;
      for (const handle of this.census.members(numbers)) {
        if (signal.aborted) return;
        this.#queue.put(handle, urgency);
        if (this.#queue.overflowed) return;
      }
      await turn();
    }
    this.#lookAtStale();
  }

  /** So many at a time, the others in later passes: most of them are waited for by a copy. */
  #lookAtStale(): void {
    let ends = 0;
    for (let looks = 0; looks < queueMax && ends < 2; looks += 1) {
      const { value: handle } = this.#staleCursor.next();
      if (handle !== undefined) this.#discardStale(handle, this.#factsOf(handle));
      else {
        ends += 1;
        this.#staleCursor = this.#chunks.sets.stale.handles();
      }
    }
  }

  // Work

  #startWork(): void {
    const nowMs = this.#clock.nowMs();
    const copiesMost = this.#slots.mostWith(this.#fleet.up().length);
    let looks = 0;
    for (const handle of this.#queue.inOrder()) {
      looks += 1;
      const { transfers } = this.#slots;
      const full = transfers >= copiesMost || this.#running.size >= stepsMax + transfers;
      if (full || looks > looksMax) break;
      if (this.#running.has(handle) || (this.#later.get(handle)?.atMs ?? 0) > nowMs) continue;
      const work = this.#workFor(handle);
      if (work === "busy") continue;
      this.#queue.remove(handle);
      if (work === "none") this.#later.delete(handle);
      else this.#run(handle, work);
    }
  }

  /** What is to be done for the chunk as things are now. `busy`: not now. */
  #workFor(handle: ChunkHandle): Work | "none" | "busy" {
    if (this.#chunks.sets.unsettled.of(handle).size > 0) return { kind: "settle" };
    const facts = this.#factsOf(handle);
    const need = facts && needOf(facts, this.#view);
    if (!need) return "none";
    switch (need.kind) {
      case "copy":
      case "move": {
        const target = need.kind === "move" ? need.target : undefined;
        const options = { view: this.#view, slots: this.#slots, target };
        const transfer = this.#steps.transferFor(handle, facts, options);
        return transfer ? { kind: need.kind, transfer } : "busy";
      }
      case "replace": {
        if (this.#later.has(handle)) return need;
        this.#putOff(handle, unwrittenMs);
        return "busy";
      }
      case "drop":
      case "shrink":
        return need;
    }
  }

  #run(handle: ChunkHandle, work: Work, after: () => void = () => undefined): void {
    const transfer = "transfer" in work ? work.transfer : undefined;
    this.#running.add(handle);
    if (transfer) this.#slots.take(transfer);
    const done = (): void => {
      this.#running.delete(handle);
      if (transfer) this.#slots.free(transfer);
      after();
      this.census.note(handle); // It may want something else now.
      this.wake();
    };
    this.#tasks?.run("repair-step", async () => {
      try {
        await this.#carryOut(handle, work);
        this.#later.delete(handle);
      } catch (error) {
        this.#log.warn("repair.failed", { handle, ...work, error });
        this.#retry(handle);
      } finally {
        done();
      }
    });
  }

  async #carryOut(handle: ChunkHandle, work: Work): Promise<void> {
    await this.#steps.perform(handle, work);
    this.#log.event("repair.done", { handle, ...work });
    if (!("transfer" in work)) return;
    // The replica that the copy is instead of goes at once, so that no disk fills up with both.
    const facts = this.#factsOf(handle);
    const next = facts && needOf(facts, this.#view);
    if (next?.kind !== "drop") return;
    await this.#steps.perform(handle, next);
    this.#log.event("repair.done", { handle, ...next });
  }

  #retry(handle: ChunkHandle): void {
    const tries = (this.#later.get(handle)?.tries ?? 0) + 1;
    const afterMs = Math.min(retryMs.most, retryMs.first * 2 ** (tries - 1));
    this.#putOff(handle, afterMs, tries);
  }

  #putOff(handle: ChunkHandle, afterMs: number, tries = 0): void {
    // Forgetting when to try again does no harm: it is tried sooner.
    if (this.#later.size >= queueMax) this.#later.clear();
    this.#later.set(handle, { atMs: this.#clock.nowMs() + afterMs, tries });
  }

  // Evenness

  /** When nothing else is to be done, chunks move from fuller servers to emptier ones. */
  async #startMoves(): Promise<void> {
    const most = Math.max(1, Math.floor(this.#fleet.up().length / serversPerMove));
    const idle = this.#queue.size === 0 && this.#slots.transfers <= this.#moving;
    if (!idle || this.#clock.nowMs() < this.#balanceAtMs || this.#moving >= most) return;
    for (const transfer of unevenPairs(this.#view)) {
      if (!this.#slots.hasRoom(transfer.source) || !this.#slots.hasRoom(transfer.target)) continue;
      const handle = await this.#movable(transfer);
      if (handle === undefined) continue;
      this.#balanceFrom = handle + 1;
      this.#move(handle, transfer);
      return;
    }
    if (this.#moving === 0) this.#balanceAtMs = this.#clock.nowMs() + evenMs;
  }

  async #movable(transfer: Transfer): Promise<ChunkHandle | undefined> {
    const classes = new Set<number>();
    let seen = 0;
    for (const [number, facts] of this.census.classes()) {
      if (canMove(facts, this.#view, transfer)) classes.add(number);
      seen += 1;
      if (seen % sliceMax === 0) await turn();
    }
    for (const handle of this.census.members(classes, this.#balanceFrom)) {
      const facts = this.#running.has(handle) ? undefined : this.#factsOf(handle);
      if ((this.#later.get(handle)?.atMs ?? 0) > this.#clock.nowMs()) continue;
      if (facts && canMove(facts, this.#view, transfer)) return handle;
    }
    return undefined;
  }

  #move(handle: ChunkHandle, transfer: Transfer): void {
    this.#moving += 1;
    this.#moves.push({ ...transfer, atMs: this.#clock.nowMs() });
    this.#run(handle, { kind: "move", transfer }, () => {
      this.#moving -= 1;
    });
  }
}

/** Lets other work have its turn. */
function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
