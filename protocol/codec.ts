import { Encoder } from "cbor-x";
import { envelopeDepthMax } from "./limits.ts";
import { StatusError } from "./status.ts";

/**
 * CBOR (RFC 8949), in the part of it that this protocol uses: definite lengths only, no tags, at
 * most `envelopeDepthMax` deep. The one place that knows `cbor-x`, so its options exist once.
 */

const encoder = new Encoder({ useRecords: false, tagUint8Array: false, variableMapSize: true });

export function encodeCbor(value: unknown): Buffer {
  return encoder.encode(value);
}

/**
 * Decodes the item at the start of `message`; `rest` is what follows it. Byte strings alias
 * `message`. Throws `StatusError("protocol")` for anything malformed.
 */
export function decodeCbor(message: Buffer): { value: unknown; rest: Buffer } {
  const end = itemEnd(message, 0, 0);
  try {
    return { value: encoder.decode(message.subarray(0, end)), rest: message.subarray(end) };
  } catch (cause) {
    throw new StatusError("protocol", "message is not valid CBOR", { cause });
  }
}

const malformed = (why: string): StatusError =>
  new StatusError("protocol", `malformed CBOR: ${why}`);

/** The offset after the item at `at`, found without building anything (RFC 8949 §3). */
function itemEnd(buffer: Buffer, at: number, depth: number): number {
  if (depth > envelopeDepthMax) throw malformed(`nested deeper than ${envelopeDepthMax}`);
  const initial = buffer[at];
  if (initial === undefined) throw malformed("ends inside an item");
  const major = initial >> 5;
  const info = initial & 31;
  const head = at + 1 + argumentBytes(info);
  if (head > buffer.length) throw malformed("ends inside an item");
  if (major === 7) return head;
  const argument = readArgument(buffer, at, info);
  switch (major) {
    case 0:
    case 1:
      return head;
    case 2:
    case 3: {
      if (argument > buffer.length - head) throw malformed("string longer than the message");
      return head + argument;
    }
    case 4:
    case 5: {
      const items = major === 5 ? argument * 2 : argument;
      if (items > buffer.length - head) throw malformed("more items than bytes");
      let end = head;
      for (let i = 0; i < items; i += 1) end = itemEnd(buffer, end, depth + 1);
      return end;
    }
    default:
      throw malformed("tags are not used here");
  }
}

function argumentBytes(info: number): number {
  if (info < 24) return 0;
  if (info <= 27) return 1 << (info - 24);
  throw malformed("indefinite length");
}

function readArgument(buffer: Buffer, at: number, info: number): number {
  switch (info) {
    case 24:
      return buffer.readUInt8(at + 1);
    case 25:
      return buffer.readUInt16BE(at + 1);
    case 26:
      return buffer.readUInt32BE(at + 1);
    case 27:
      return Number(buffer.readBigUInt64BE(at + 1));
    default:
      return info;
  }
}
