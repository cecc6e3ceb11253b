import { crc32c } from "../../common/crc32c.ts";
import { StatusError } from "../../protocol/status.ts";

/**
 * Bytes of records. Every record starts with its own CRC32C, since LMDB has none:
 *
 *   0  u32  CRC32C of everything after it
 *   4  …    fields in the order in which they are written, big-endian
 */
const headBytes = 4;

export class RecordWriter {
  #buffer: Buffer;
  #at = headBytes;

  constructor(sizeHint: number) {
    this.#buffer = Buffer.allocUnsafe(headBytes + sizeHint);
  }

  u8(value: number): this {
    this.#room(1);
    this.#at = this.#buffer.writeUInt8(value, this.#at);
    return this;
  }

  u32(value: number): this {
    this.#room(4);
    this.#at = this.#buffer.writeUInt32BE(value, this.#at);
    return this;
  }

  /** A whole number below 2^53, in 8 bytes. */
  u53(value: number): this {
    this.#room(8);
    this.#buffer.writeUInt32BE(Math.floor(value / 2 ** 32), this.#at);
    this.#at = this.#buffer.writeUInt32BE(value % 2 ** 32, this.#at + 4);
    return this;
  }

  i64(value: bigint): this {
    this.#room(8);
    this.#at = this.#buffer.writeBigInt64BE(value, this.#at);
    return this;
  }

  /** The rest of the record: nothing may follow. */
  rest(bytes: Uint8Array): this {
    this.#room(bytes.length);
    this.#buffer.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }

  end(): Buffer {
    const record = this.#buffer.subarray(0, this.#at);
    record.writeUInt32BE(crc32c(record.subarray(headBytes)), 0);
    return record;
  }

  #room(bytes: number): void {
    if (this.#at + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafe((this.#at + bytes) * 2);
    this.#buffer.copy(larger, 0, 0, this.#at);
    this.#buffer = larger;
  }
}

/** Reads what `RecordWriter` wrote. A bad CRC is an `io-error`: a bad record is never used. */
export class RecordReader {
  readonly #record: Buffer;
  #at = headBytes;

  constructor(record: Buffer, what: string) {
    this.#record = record;
    if (
      record.length < headBytes ||
      crc32c(record.subarray(headBytes)) !== record.readUInt32BE(0)
    ) {
      throw new StatusError("io-error", `a ${what} record of the master is damaged`);
    }
  }

  u8(): number {
    return this.#record.readUInt8(this.#advance(1));
  }

  u32(): number {
    return this.#record.readUInt32BE(this.#advance(4));
  }

  u53(): number {
    const at = this.#advance(8);
    return this.#record.readUInt32BE(at) * 2 ** 32 + this.#record.readUInt32BE(at + 4);
  }

  i64(): bigint {
    return this.#record.readBigInt64BE(this.#advance(8));
  }

  rest(): Buffer {
    return this.#record.subarray(this.#at);
  }

  #advance(bytes: number): number {
    const at = this.#at;
    this.#at += bytes;
    return at;
  }
}

/** The epoch of a versioned record: its first field, without checking or decoding the rest. */
export function sinceOf(record: Buffer): number {
  return record.readUInt32BE(headBytes) * 2 ** 32 + record.readUInt32BE(headBytes + 4);
}

/** A number below 2^53 as 8 bytes whose order is that of the numbers. */
export function numberKey(...values: number[]): Buffer {
  const key = Buffer.allocUnsafe(values.length * 8);
  values.forEach((value, i) => {
    key.writeUInt32BE(Math.floor(value / 2 ** 32), i * 8);
    key.writeUInt32BE(value % 2 ** 32, i * 8 + 4);
  });
  return key;
}

export function numberFromKey(key: Buffer, at: number): number {
  return key.readUInt32BE(at) * 2 ** 32 + key.readUInt32BE(at + 4);
}

export function nameKey(value: number, name: Uint8Array): Buffer {
  return Buffer.concat([numberKey(value), name]);
}
