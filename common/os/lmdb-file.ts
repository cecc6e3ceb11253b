import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";

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
