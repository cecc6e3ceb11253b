import { type ChunkHandle, chunkHandle, type ServerId } from "../../protocol/id.ts";

/** What repair has to know of a chunk. Chunks that agree in all of it are a class. */
export interface ChunkFacts {
  /** Replicas wanted. */
  goal: number;
  /** False until data has been committed to it. */
  written: boolean;
  /** The set on record. */
  servers: readonly ServerId[];
  /** Members known to be up to date, whether they are up or not. */
  present: readonly ServerId[];
}

interface ChunkClass extends ChunkFacts {
  /** Chunks of this class. */
  count: number;
}

export interface ChunkCounts {
  total: number;
  belowGoal: number;
  lost: number;
}

/** Handles are given out in order, so a page of their classes is dense. */
const pageHandles = 4096;
/** Changed chunks that are looked at together: reading them takes about as many µs × 4. */
const dirtyMax = 1024;

interface Page {
  readonly classes: Uint32Array;
  used: number;
}

/**
 * How many chunks there are of which kind, kept up to date: 4 bytes a chunk, and a class for each
 * distinct set of servers, of which there are few. So questions about all chunks are answered from
 * the classes, and the chunks of a class are found without reading a record.
 */
export class Census {
  readonly #read: (handle: ChunkHandle) => ChunkFacts | undefined;
  /** Number 0 stands for a chunk that does not exist. */
  readonly #classes: (ChunkClass | undefined)[] = [undefined];
  readonly #numberOf = new Map<string, number>();
  readonly #unused: number[] = [];
  readonly #pages = new Map<number, Page>();
  readonly #dirty = new Set<ChunkHandle>();
  /** Called for each chunk that has been looked at because something of it has changed. */
  onNoted: (handle: ChunkHandle, facts: ChunkFacts | undefined) => void = () => undefined;

  /** `read` tells the present facts of a chunk, from its record and from memory. */
  constructor(read: (handle: ChunkHandle) => ChunkFacts | undefined) {
    this.#read = read;
  }

  /** Something of the chunk has changed. It is looked at before the next question. */
  note(handle: ChunkHandle): void {
    this.#dirty.add(handle);
    if (this.#dirty.size >= dirtyMax) this.flush();
  }

  /** Looks at the chunks that have changed. */
  flush(): void {
    for (const handle of this.#dirty) {
      this.#dirty.delete(handle);
      const facts = this.#read(handle);
      this.#assign(handle, facts);
      this.onNoted(handle, facts);
    }
  }

  /** The chunk as it is now. */
  facts(handle: ChunkHandle): ChunkFacts | undefined {
    return this.#read(handle);
  }

  /** Replicas on servers that are up count; those of a silent server are missing now. */
  counts(isUp: (id: ServerId) => boolean): ChunkCounts {
    const counts = { total: 0, belowGoal: 0, lost: 0 };
    for (const [, { goal, written, present, count }] of this.classes()) {
      if (!written) continue;
      const up = present.filter((id) => isUp(id)).length;
      counts.total += count;
      if (up < goal) counts.belowGoal += count;
      if (up === 0) counts.lost += count;
    }
    return counts;
  }

  /** Chunks that have a server in their set or know of a replica on it, by server. */
  dependents(): Map<ServerId, number> {
    const found = new Map<ServerId, number>();
    for (const [, { servers, present, count }] of this.classes()) {
      for (const id of new Set([...servers, ...present])) {
        found.set(id, (found.get(id) ?? 0) + count);
      }
    }
    return found;
  }

  /** Every class that has chunks, with its number. */
  *classes(): IterableIterator<[number, Readonly<ChunkClass>]> {
    this.flush();
    for (const [number, one] of this.#classes.entries()) if (one) yield [number, one];
  }

  /**
   * Chunks whose class `wanted` names, from the page that `from` is in, once around. The caller may
   * give way to other work in between: what changes meanwhile is noted anyway.
   */
  *members(wanted: { has(number: number): boolean }, from = 0): IterableIterator<ChunkHandle> {
    const first = Math.floor(from / pageHandles);
    const pages = [...this.#pages.keys()].toSorted((a, b) => a - b);
    const around = [...pages.filter((page) => page >= first), ...pages.filter((p) => p < first)];
    for (const page of around) {
      const classes = this.#pages.get(page)?.classes;
      if (!classes) continue;
      for (let i = 0; i < pageHandles; i += 1) {
        const number = classes[i] ?? 0;
        if (number !== 0 && wanted.has(number)) yield chunkHandle(page * pageHandles + i);
      }
    }
  }

  #assign(handle: ChunkHandle, facts: ChunkFacts | undefined): void {
    const number = facts ? this.#numberFor(facts) : 0;
    const at = Math.floor(handle / pageHandles);
    let page = this.#pages.get(at);
    const before = page?.classes[handle % pageHandles] ?? 0;
    if (before === number) return;
    if (!page) {
      page = { classes: new Uint32Array(pageHandles), used: 0 };
      this.#pages.set(at, page);
    }
    page.classes[handle % pageHandles] = number;
    page.used += (number === 0 ? 0 : 1) - (before === 0 ? 0 : 1);
    if (page.used === 0) this.#pages.delete(at);
    this.#count(number, 1);
    this.#count(before, -1);
  }

  #numberFor({ goal, written, servers, present }: ChunkFacts): number {
    const key = keyOf({ goal, written, servers, present });
    const known = this.#numberOf.get(key);
    if (known !== undefined) return known;
    const number = this.#unused.pop() ?? this.#classes.length;
    this.#classes[number] = { goal, written, servers, present, count: 0 };
    this.#numberOf.set(key, number);
    return number;
  }

  #count(number: number, change: 1 | -1): void {
    const one = this.#classes[number];
    if (!one) return;
    one.count += change;
    if (one.count > 0) return;
    this.#numberOf.delete(keyOf(one));
    this.#classes[number] = undefined;
    this.#unused.push(number);
  }
}

const ordered = (ids: readonly ServerId[]): string => ids.toSorted((a, b) => a - b).join(",");

function keyOf({ goal, written, servers, present }: ChunkFacts): string {
  return `${goal}${written ? "w" : "-"}${ordered(servers)}|${ordered(present)}`;
}
