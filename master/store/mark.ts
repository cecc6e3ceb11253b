import { crc32c } from "../../common/crc32c.ts";
import { UserError } from "../../common/program.ts";
import type { StoreId } from "./journal.ts";

/**
 * What the base says of itself, put with each checkpoint:
 *
 *   0   16 bytes  the store's identity, which its journals have too
 *   16  u53       the last journal that is in the base as a whole
 *   24  u53       the last commit in that journal
 *   32  u32       CRC32C of everything before
 */
const markBytes = 36;

export interface Mark {
  store: StoreId;
  journal: number;
  sequence: number;
}

export function encodeMark({ store, journal, sequence }: Mark): Buffer {
  const bytes = Buffer.alloc(markBytes);
  store.copy(bytes);
  bytes.writeBigUInt64BE(BigInt(journal), 16);
  bytes.writeBigUInt64BE(BigInt(sequence), 24);
  bytes.writeUInt32BE(crc32c(bytes.subarray(0, 32)), 32);
  return bytes;
}

export function decodeMark(bytes: Buffer): Mark {
  if (bytes.length !== markBytes || crc32c(bytes.subarray(0, 32)) !== bytes.readUInt32BE(32)) {
    throw new UserError("data.mdb is damaged: what it says of its journals is not whole");
  }
  return {
    store: Buffer.from(bytes.subarray(0, 16)),
    journal: Number(bytes.readBigUInt64BE(16)),
    sequence: Number(bytes.readBigUInt64BE(24)),
  };
}
