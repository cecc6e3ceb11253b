import { crcsMatch } from "../../common/crc32c.ts";
import { StatusError } from "../../protocol/status.ts";
import { blocksIn } from "./record.ts";
import type { Bytes } from "./read.ts";

/** The replicas of other servers: a read is answered by any that can. */
export interface CopySource {
  checksums(): Promise<{ length: number; crcs: number[] }>;
  read(offset: number, length: number): Promise<Bytes>;
}

/** Whole blocks one after the other, the last of a chunk may be short. */
export interface Run {
  /** The first block. */
  first: number;
  /** In bytes of the chunk. */
  offset: number;
  length: number;
}

/**
 * A run of blocks, which match the CRCs that the source named at the beginning; with `anyCrcs`,
 * while the chunk is being written to, those that came along with them.
 */
export async function fetchRun(
  source: CopySource,
  { first, offset, length }: Run,
  { crcs, anyCrcs }: { crcs: readonly number[]; anyCrcs: boolean },
): Promise<Bytes> {
  const read = await source.read(offset, length);
  const expected = anyCrcs ? read.crcs : crcs.slice(first, first + blocksIn(length));
  if (read.payload.length === length && crcsMatch(read.payload, offset, expected)) {
    return { payload: read.payload, crcs: [...expected] };
  }
  throw new StatusError("unavailable", "the source changed while it was copied, or lost bytes");
}
