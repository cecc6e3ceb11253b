import { crc32c } from "../../common/crc32c.ts";
import type { JournalFile } from "../../common/journal-file.ts";
import { UserError } from "../../common/program.ts";
import { type Change, decodeBatch, encodeBatch } from "./batch.ts";

/**
 * A journal file: a head, then one record per commit (`batch.ts`).
 *
 *   0   8 bytes   "gfs-jrnl"
 *   8   u32       format of the file
 *   12  16 bytes  the store that it belongs to
 *   28  u53       its number, as in its name
 *   36  u32       salt of the records' CRCs
 *   40  u32       CRC32C of everything before
 */
const magic = Buffer.from("gfs-jrnl");
const journalFormat = 1;
const headBytes = 44;
const namePattern = /^journal-(\d{10})$/;

/** Random, 16 bytes: a store and its journals have the same. */
export type StoreId = Buffer;

export const journalName = (number: number): string =>
  `journal-${String(number).padStart(10, "0")}`;

/** The number in a journal's name; undefined for a file that is none. */
export function journalNumber(name: string): number | undefined {
  const found = namePattern.exec(name)?.[1];
  return found === undefined ? undefined : Number(found);
}

export function encodeJournalHead(store: StoreId, number: number, salt: number): Buffer {
  const head = Buffer.alloc(headBytes);
  magic.copy(head);
  head.writeUInt32BE(journalFormat, 8);
  store.copy(head, 12);
  head.writeBigUInt64BE(BigInt(number), 28);
  head.writeUInt32BE(salt, 36);
  head.writeUInt32BE(crc32c(head.subarray(0, 40)), 40);
  return head;
}

/** The salt of journal `number`. Throws a `UserError` if it is damaged or another store's. */
export function checkJournalHead(
  bytes: Buffer,
  store: StoreId | undefined,
  number: number,
): number {
  const name = journalName(number);
  const whole = bytes.length >= headBytes && bytes.subarray(0, 8).equals(magic);
  if (!whole || crc32c(bytes.subarray(0, 40)) !== bytes.readUInt32BE(40)) {
    throw new UserError(`${name} is damaged: it does not begin as a journal does`);
  }
  if (bytes.readUInt32BE(8) !== journalFormat) {
    throw new UserError(`${name} is of another release: use the one that wrote it`);
  }
  if (!store?.equals(bytes.subarray(12, 28))) {
    throw new UserError(`${name} belongs to another data.mdb than the one beside it`);
  }
  if (bytes.readBigUInt64BE(28) !== BigInt(number)) {
    throw new UserError(`${name} is journal ${bytes.readBigUInt64BE(28)} under another's name`);
  }
  return bytes.readUInt32BE(36);
}

/**
 * The records of a journal from sequence number `first` on, as far as they are whole and follow one
 * another. Returns where the rest, which is not used, begins.
 */
export function readJournal(
  bytes: Buffer,
  salt: number,
  first: number,
  visit: (changes: readonly Change[]) => void,
): { next: number; end: number } {
  let at = headBytes;
  let next = first;
  for (;;) {
    const found = decodeBatch(bytes, at, salt);
    if (found?.batch.sequence !== next) return { next, end: at };
    visit(found.batch.changes);
    at = found.end;
    next += 1;
  }
}

/** The journal that is written to, or that waits for its checkpoint. */
export class Journal {
  readonly number: number;
  readonly #file: JournalFile;
  readonly #salt: number;
  #synced: number;

  constructor(file: JournalFile, options: { number: number; salt: number }) {
    this.#file = file;
    this.number = options.number;
    this.#salt = options.salt;
    this.#synced = file.bytes;
  }

  get bytes(): number {
    return this.#file.bytes;
  }

  append(sequence: number, changes: readonly Change[]): void {
    this.#file.append("journal.append", encodeBatch(sequence, changes, this.#salt));
  }

  async sync(): Promise<void> {
    const { bytes } = this.#file;
    if (this.#synced >= bytes) return;
    await this.#file.sync("journal.sync");
    this.#synced = Math.max(this.#synced, bytes);
  }

  syncNow(): void {
    if (this.#synced >= this.#file.bytes) return;
    this.#file.syncNow("journal.sync");
    this.#synced = this.#file.bytes;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}
