import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { UserError } from "../program.ts";

/**
 * LMDB maps its file into memory and trusts it: a file that is something else, or has been cut off,
 * ends the process with a signal instead of an error. So the two meta pages are looked at first.
 *
 *   page, at offset 0 and 4096:  24 bytes of page header, then MDB_meta (lmdb.h):
 *     0  u32  magic 0xBEEFC0DE        24  u32  page size (in the free list's md_pad)
 *     4  u32  data version            120 u64  last page in use     128 u64  transaction
 *
 * All little-endian, as on the machines that this runs on.
 */
const magic = 0xbeef_c0de;
const metaOffsets = [24, 4096 + 24];
const metaBytes = 136;

/** Why the LMDB file at `path` must not be opened, or undefined. None, or an empty one, is new. */
export function lmdbFileFault(path: string): string | undefined {
  if (!existsSync(path)) return undefined;
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    if (size === 0) return undefined;
    const metas = metaOffsets.flatMap((offset) => {
      const meta = Buffer.alloc(metaBytes);
      const read = readSync(file, meta, 0, metaBytes, offset);
      return read === metaBytes && meta.readUInt32LE(0) === magic ? [meta] : [];
    });
    if (metas.length === 0) return "it is not an LMDB file";
    const pages = metas.map(
      (meta) => meta.readUInt32LE(24) * Number(meta.readBigUInt64LE(120) + 1n),
    );
    const needed = Math.min(...pages);
    return needed > size ? `it has been cut off: ${size} bytes of at least ${needed}` : undefined;
  } finally {
    closeSync(file);
  }
}

/** What is used of a database that `lmdb` has opened. */
interface LmdbRoot {
  on(event: "beforecommit", callback: () => void): unknown;
  readonly committed: PromiseLike<boolean>;
}

/**
 * Handles a promise that lmdb-js makes for the start of each batch and gives to nobody: when the
 * commit fails (a full disk), its rejection would end the process. Those who wrote are told by
 * promises of their own.
 */
export function handleLostRejections(root: LmdbRoot): void {
  root.on("beforecommit", () => {
    // The batch starts in the rest of this turn, and its promise is then the current one.
    queueMicrotask(() => void root.committed.then(ignored, ignored));
  });
}

function ignored(): void {
  // Whoever wrote something sees the failure.
}

/** The reason why a commit failed, which lmdb-js hands out apart from the failure. */
export async function commitFailure(failure: unknown): Promise<unknown> {
  if (!(failure instanceof Error && "commitError" in failure)) return failure;
  const reason = Promise.resolve(failure.commitError).catch((why: unknown) => why);
  // It has arrived by the next turn of the event loop, or it never does.
  const nextTurn = new Promise<undefined>((resolve) => {
    setImmediate(() => resolve(undefined));
  });
  return (await Promise.race([reason, nextTurn])) ?? failure;
}

const pageBytes = 4096;
/** What one row can take beside its value: its leaf anew and split, and branches above them. */
const rowPages = 4;
/** Branches are shared by the rows that one transaction deletes, and the reserve is for few. */
const deletionPages = 1;
/** What every transaction can take: roots, the lists of tables and of free pages. */
const spareBytes = 128 << 10;
/** A file with less in use than this is small, and has what belongs to that. */
const smallBytes = 256 << 10;
/** Kept for deletions. */
const reserveBytes = { small: 512 << 10, large: 4 << 20 };
/** The file grows by so much at a time. */
const growBytes = { small: 256 << 10, large: 1 << 20 };

/** Numbers of a database that `lmdb` has opened. */
interface LmdbNumbers {
  env: { info(): { lastPageNumber: number } };
}

/**
 * Room in an LMDB file before it is needed. lmdb-js damages its heap when a page cannot be written
 * (seen as SIGABRT on a full disk), so that it must never come to that: the file is made longer
 * first, with zeros, which LMDB writes over. Who writes takes its share and is refused if the disk
 * has none left. Deletions may use a reserve, as what is full has to be emptied.
 */
export class LmdbRoom {
  readonly #path: string;
  readonly #root: LmdbNumbers;
  /** Bytes of the file behind the pages in use that nobody has taken. */
  #left = 0;
  /** Taken by writes that are not committed yet. */
  #underWay = 0;

  /** `root`: the database whose file is at `path`, as lmdb-js opened it. */
  constructor(path: string, root: unknown) {
    this.#path = path;
    this.#root = root as LmdbNumbers; // lmdb-js does not declare it.
    try {
      this.#ensure({ bytes: 0, reserve: true });
    } catch {
      // A full disk: writes are refused until it has room.
    }
  }

  /**
   * Takes room for rows with values of so many bytes until `written` has settled; undefined values
   * are deletions. Throws what the disk said (ENOSPC, EIO): then nothing may be written.
   */
  take(values: readonly (number | undefined)[]): { until(written: Promise<unknown>): void } {
    const bytes = values.reduce<number>((sum, length) => sum + rowBytes(length), 0);
    const deletesOnly = values.every((length) => length === undefined);
    this.#ensure({ bytes, reserve: !deletesOnly });
    this.#left -= bytes;
    this.#underWay += bytes;
    const end = (): void => void (this.#underWay -= bytes);
    return { until: (written) => void written.then(end, end) };
  }

  #ensure({ bytes, reserve }: { bytes: number; reserve: boolean }): void {
    if (this.#left >= bytes + spareBytes + reserveBytes.large) return;
    const file = openSync(this.#path, "a");
    try {
      const used = (this.#root.env.info().lastPageNumber + 1) * pageBytes;
      const size = used < smallBytes ? "small" : "large";
      const wanted = bytes + spareBytes + (reserve ? reserveBytes[size] : 0);
      const piece = zeros.subarray(0, growBytes[size]);
      this.#left = fstatSync(file).size - used - this.#underWay;
      // Appending: whatever LMDB writes meanwhile is never written over.
      while (this.#left < wanted) this.#left += writeSync(file, piece);
    } finally {
      closeSync(file);
    }
  }
}

const zeros = Buffer.alloc(growBytes.large);

function rowBytes(valueBytes: number | undefined): number {
  if (valueBytes === undefined) return deletionPages * pageBytes;
  return (rowPages + Math.ceil(valueBytes / pageBytes)) * pageBytes;
}

/** Some 180 readers; lmdb-js asks for 126 unless told. */
const lockBytes = 12 << 10;

/**
 * Makes `directory` and LMDB's lock file, for the one process that uses it. LMDB would make one
 * with holes and map it, and a page that the disk then has no room for ends the process with
 * SIGBUS. Throws a `UserError` if there is no room.
 */
export function makeLockFile(directory: string): void {
  const path = `${directory}/lock.mdb`;
  if (existsSync(path) && statSync(path).size >= lockBytes) return;
  try {
    mkdirSync(directory, { recursive: true });
    writeFileSync(path, Buffer.alloc(lockBytes));
  } catch (error) {
    throw new UserError(`${path} cannot be written: ${String(error)}: make room and try again`);
  }
}
