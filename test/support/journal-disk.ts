import type { Clock } from "../../common/clock.ts";
import type { JournalDirectory, JournalFile } from "../../common/journal-file.ts";
import { silentLog } from "../../common/log.ts";
import { type JournalLimits, openJournaledStore } from "../../master/store/journaled.ts";
import type { BaseStore } from "../../master/store/base.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import type { Store } from "../../master/store/store.ts";

/** How a master ends: `power` loses what was not synced, `kill` does not. */
export type End = "power" | "kill";

interface StoredFile {
  bytes: Buffer;
  synced: number;
}

/** The process has ended: nothing that it still does reaches the disk. */
const ended = new Error("the process has ended");

/** A random number in [0, 1). */
type Random = () => number;

/**
 * The disk below a journaled store, in memory: it knows what was synced, and forgets the rest when
 * the power goes. `atStep` is called before each named step, and may throw what the step shall fail
 * with, or end the process there.
 */
export class JournalDisk {
  readonly files = new Map<string, StoredFile>();
  /** Removed, but the directory was not synced since. */
  readonly #ghosts = new Map<string, StoredFile>();
  readonly #rows = createMemoryStore();
  #mark: Buffer | undefined;
  #generation = 0;
  #uuids = 0;
  /** Without a `timer` from outside, timers do not fire by themselves. */
  readonly timers = new Set<() => void>();
  readonly #timer: Clock["timer"] | undefined;
  readonly #turn: () => Promise<void>;
  readonly steps: string[] = [];
  atStep: (site: string) => void = () => undefined;

  /** `takesTime` is awaited where a disk takes its time; else that is a turn of the event loop. */
  constructor(options: Partial<Pick<Clock, "timer">> & { takesTime?: () => Promise<void> } = {}) {
    this.#timer = options.timer;
    this.#turn = options.takesTime ?? turn;
  }

  /** What a loss of power would take. */
  get unsyncedBytes(): number {
    const files = [...this.files.values()];
    return files.reduce((sum, { bytes, synced }) => sum + bytes.length - synced, 0);
  }

  fireTimers(): void {
    for (const fire of this.timers) fire();
  }

  /** A store on what the disk has now. */
  async open(limits: Partial<JournalLimits> = {}): Promise<Store> {
    const isAlive = this.#newProcess();
    return openJournaledStore({
      base: this.#base(isAlive),
      directory: this.#directory(isAlive),
      clock: this.#clock(isAlive),
      log: silentLog,
      uuid: () =>
        String((this.#uuids += 1))
          .padStart(32, "0")
          .split("")
          .toReversed()
          .join(""),
      limits,
    });
  }

  #newProcess(): () => boolean {
    this.#generation += 1;
    const mine = this.#generation;
    return () => this.#generation === mine;
  }

  /** The process ends. What was on its way to the disk may have got there or not. */
  end(how: End, random: Random): void {
    this.#generation += 1;
    this.timers.clear();
    if (how === "kill") return;
    for (const file of this.files.values()) {
      const left = file.synced + Math.floor(random() * (file.bytes.length - file.synced + 1));
      const lost = random() < 0.5 ? 0 : file.bytes.length - left;
      // The file's new length may be on the disk when its new contents are not.
      file.bytes = Buffer.concat([file.bytes.subarray(0, left), Buffer.alloc(lost)]);
      file.synced = file.bytes.length;
    }
    for (const [name, file] of this.#ghosts) if (random() < 0.5) this.files.set(name, file);
    this.#ghosts.clear();
  }

  #step(isAlive: () => boolean, site: string): void {
    if (!isAlive()) throw ended;
    this.steps.push(site);
    this.atStep(site);
    if (!isAlive()) throw ended;
  }

  #clock(isAlive: () => boolean): Clock {
    return {
      nowMs: () => 0,
      wallNs: () => 0n,
      timer: (afterMs, fire) => {
        if (this.#timer) return this.#timer(afterMs, () => isAlive() && fire());
        const due = (): void => {
          this.timers.delete(due);
          if (isAlive()) fire();
        };
        this.timers.add(due);
        return { cancel: () => void this.timers.delete(due) };
      },
    };
  }

  #directory(isAlive: () => boolean): JournalDirectory {
    const step = (site: string): void => this.#step(isAlive, site);
    return {
      list: (site) => (step(site), [...this.files.keys()]),
      read: (site, name) => (step(site), Buffer.from(this.files.get(name)?.bytes ?? [])),
      create: async (site, name, head) => {
        await this.#turn();
        step(site);
        this.files.set(name, { bytes: Buffer.from(head), synced: head.length });
        this.#ghosts.clear();
        await this.#turn();
        return this.#file(isAlive, name);
      },
      cut: (site, name, bytes) => {
        step(site);
        const file = this.files.get(name);
        if (!file) throw new Error(`no ${name}`);
        file.bytes = file.bytes.subarray(0, bytes);
        file.synced = file.bytes.length;
      },
      remove: async (site, name) => {
        step(site);
        const file = this.files.get(name);
        if (file) this.#ghosts.set(name, file);
        this.files.delete(name);
        await this.#turn();
      },
    };
  }

  #file(isAlive: () => boolean, name: string): JournalFile {
    const file = (): StoredFile => {
      const found = this.files.get(name);
      if (!found) throw new Error(`no ${name}`);
      return found;
    };
    const sync = (bytes: number): void => {
      file().synced = Math.max(file().synced, bytes);
    };
    return {
      get bytes() {
        return file().bytes.length;
      },
      append: (site, bytes) => {
        this.#step(isAlive, site);
        file().bytes = Buffer.concat([file().bytes, bytes]);
      },
      sync: async (site) => {
        const { length } = file().bytes;
        await this.#turn();
        this.#step(isAlive, site);
        sync(length);
      },
      syncNow: (site) => {
        this.#step(isAlive, site);
        sync(file().bytes.length);
      },
      close: () => Promise.resolve(),
    };
  }

  #base(isAlive: () => boolean): BaseStore {
    const mark = (): Buffer | undefined => this.#mark;
    return {
      get: (table, key) => this.#rows.get(table, key),
      has: (table, key) => this.#rows.get(table, key) !== undefined,
      range: (table, bounds) => this.#rows.range(table, bounds),
      count: (table) => this.#rows.count(table),
      get marked() {
        return mark();
      },
      apply: async (site, changes) => {
        await this.#turn();
        this.#step(isAlive, site);
        this.#rows.write((writer) => {
          for (const { table, key, value } of changes) {
            if (value) writer.put(table, key, value);
            else writer.remove(table, key);
          }
        });
        await this.#turn();
      },
      mark: async (site, bytes) => {
        await this.#turn();
        this.#step(isAlive, site);
        this.#mark = bytes;
        await this.#turn();
      },
      close: () => Promise.resolve(),
    };
  }
}

export function turn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
