/**
 * What a file may contain. Every write has a number, and its bytes follow from number and place, so
 * that each byte that is read tells which write it is from: a byte of no write that was made there
 * is an invented one.
 */

/** Where bytes come from: a write. Seed 0 is zeros, as of a hole. */
interface Source {
  readonly seed: number;
  /** Added to an offset in the file for the offset at which the bytes were made. */
  readonly shift: number;
}

/** The numbers of sources, for all files of a run. */
export class Sources {
  readonly #sources: Source[] = [{ seed: 0, shift: 0 }];

  add(source: Source): number {
    const { seed, shift } = source;
    if (seed === 0) return 0;
    this.#sources.push({ seed, shift });
    return this.#sources.length - 1;
  }

  fresh(): number {
    return this.add({ seed: this.#sources.length, shift: 0 });
  }

  /** The same bytes, `by` further on in a file. */
  moved(id: number, by: number): number {
    const { seed, shift } = this.get(id);
    return this.add({ seed, shift: shift - by });
  }

  get(id: number): Source {
    return this.#sources[id] ?? { seed: 0, shift: 0 };
  }

  bytes(id: number, offset: number, length: number): Buffer {
    const { seed, shift } = this.get(id);
    return seed === 0 ? Buffer.alloc(length) : pattern(seed, offset + shift, length);
  }
}

/** A word of four bytes follows from the seed and the word's place. */
function pattern(seed: number, offset: number, length: number): Buffer {
  const first = Math.floor(offset / 4);
  const count = Math.ceil((offset + length) / 4) - first;
  const words = new Uint32Array(count);
  const salt = Math.imul(seed, 0x9e3779b1);
  for (let i = 0; i < count; i += 1) {
    let word = (first + i) ^ salt;
    word = Math.imul(word ^ (word >>> 15), 0x2c1b3c6d);
    word = Math.imul(word ^ (word >>> 12), 0x297a2d39);
    words[i] = word ^ (word >>> 15);
  }
  return Buffer.from(words.buffer).subarray(offset - first * 4, offset - first * 4 + length);
}

interface Segment {
  start: number;
  end: number;
  /** Sources that its bytes may be from, sorted. Where there is no segment: zeros. */
  from: readonly number[];
}

const onlyZeros: readonly number[] = [0];

/** The bytes and the size that a file may have. */
export class Contents {
  #segments: Segment[] = [];
  /** The size is one of these or between them. */
  sizeMin = 0;
  sizeMax = 0;

  clone(): Contents {
    const copy = new Contents();
    copy.#segments = this.#segments.map((segment) => ({ ...segment }));
    copy.sizeMin = this.sizeMin;
    copy.sizeMax = this.sizeMax;
    return copy;
  }

  /** A write that has taken place. */
  write(source: number, offset: number, length: number): void {
    if (length === 0) return;
    this.#put(offset, offset + length, () => [source]);
    this.sizeMin = Math.max(this.sizeMin, offset + length);
    this.sizeMax = Math.max(this.sizeMax, offset + length);
  }

  /** A truncation that has taken place. */
  truncate(size: number): void {
    this.#put(size, Infinity, () => onlyZeros);
    this.sizeMin = size;
    this.sizeMax = size;
  }

  /** Also what the other contents may be, byte by byte. */
  mayBe(other: Contents): void {
    const { sizeMin, sizeMax } = this;
    for (const { start, end, from } of other.#segments) {
      this.#put(start, end, (own) => union(own, from));
    }
    // Where the other has no segments it is zero.
    for (const { start, end } of other.#gaps()) this.#put(start, end, (own) => union(own, [0]));
    this.sizeMin = Math.min(sizeMin, other.sizeMin);
    this.sizeMax = Math.max(sizeMax, other.sizeMax);
    // A file that was shorter for a while has zeros there when it grows again.
    this.#put(this.sizeMin, this.sizeMax, (own) => union(own, [0]));
  }

  /** The bytes of a range, to be put elsewhere with `paste`. */
  cut(offset: number, length: number): Contents {
    const copy = this.clone();
    copy.#put(0, offset, () => onlyZeros);
    copy.#put(offset + length, Infinity, () => onlyZeros);
    return copy;
  }

  /** A copy of `length` bytes from `source`'s `from` to here at `to`. */
  copyRange(
    source: Contents,
    range: { from: number; to: number; length: number },
    sources: Sources,
  ): void {
    const { from, to, length } = range;
    if (length === 0) return;
    const part = source.cut(from, length);
    this.write(0, to, length);
    for (const { start, end, from: ids } of part.#segments) {
      const moved = ids.map((id) => sources.moved(id, to - from)).toSorted((a, b) => a - b);
      this.#put(start + to - from, end + to - from, () => moved);
    }
  }

  /** What is wrong with bytes that were read at `offset`, or undefined. */
  check(sources: Sources, offset: number, bytes: Buffer): string | undefined {
    for (const { start, end, from } of this.#covering(offset, offset + bytes.length)) {
      const found = bytes.subarray(start - offset, end - offset);
      const candidates = from.map((id) => sources.bytes(id, start, end - start));
      const wrong = firstWrong(found, candidates);
      if (wrong === undefined) continue;
      const expected = from.map((id) => `${id}`).join(" or ");
      const are = candidates.map((bytes) => bytes[wrong]).join(" or ");
      return (
        `byte ${start + wrong} is ${found[wrong]}, not ${are} of write ${expected}` +
        (found[wrong] === 0 ? "; it reads as zero" : "")
      );
    }
    return undefined;
  }

  *#gaps(): Generator<{ start: number; end: number }> {
    let at = 0;
    for (const { start, end } of this.#segments) {
      if (start > at) yield { start: at, end: start };
      at = end;
    }
    yield { start: at, end: Infinity };
  }

  /** Segments and the zeros between them, cut to a range. */
  *#covering(first: number, last: number): Generator<Segment> {
    let at = first;
    for (const { start, end, from } of this.#segments) {
      if (end <= at || start >= last) continue;
      if (start > at) yield { start: at, end: start, from: onlyZeros };
      yield { start: Math.max(start, at), end: Math.min(end, last), from };
      at = Math.min(end, last);
    }
    if (at < last) yield { start: at, end: last, from: onlyZeros };
  }

  /** Replaces what the bytes of a range may be from. */
  #put(start: number, end: number, change: (own: readonly number[]) => readonly number[]): void {
    if (start >= end) return;
    const before = this.#segments.flatMap((segment) => clipped(segment, 0, start));
    const after = this.#segments.flatMap((segment) => clipped(segment, end, Infinity));
    const inside: Segment[] = [];
    const covered = end === Infinity ? Math.max(start, this.#segments.at(-1)?.end ?? 0) : end;
    for (const { start: at, end: until, from } of this.#covering(start, covered)) {
      const next = change(from);
      if (next.length === 1 && next[0] === 0) continue;
      const last = inside.at(-1);
      if (last && last.end === at && same(last.from, next)) last.end = until;
      else inside.push({ start: at, end: until, from: next });
    }
    this.#segments = [...before, ...inside, ...after];
  }
}

function clipped(segment: Segment, first: number, last: number): Segment[] {
  const start = Math.max(segment.start, first);
  const end = Math.min(segment.end, last);
  return start < end ? [{ start, end, from: segment.from }] : [];
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

function union(a: readonly number[], b: readonly number[]): readonly number[] {
  if (b.every((value) => a.includes(value))) return a;
  return [...new Set([...a, ...b])].toSorted((x, y) => x - y);
}

/** The first byte that is in none of the candidates. */
function firstWrong(found: Buffer, candidates: readonly Buffer[]): number | undefined {
  if (candidates.some((candidate) => candidate.equals(found))) return undefined;
  for (let i = 0; i < found.length; i += 1) {
    if (!candidates.some((candidate) => candidate[i] === found[i])) return i;
  }
  return undefined;
}
