/**
 * C structures, declared once: `struct({ fh: "u64", size: "u32" })` places the fields as a C
 * compiler does and gives each a `get` and a `set`. A field is read where it is needed, straight
 * from the message: no object is made for a request.
 *
 * Numbers of 64 bits are doubles where they count something, which is exact below 2^53; what is
 * above is rounded, and stays above. Opaque ones (`big`) are bigint.
 */

import { endianness } from "node:os";
import { assert } from "../../../common/assert.ts";

assert(endianness() === "LE", "the kernel's structures are in the byte order that is read here");

interface Field<T> {
  readonly offset: number;
  /** `base`: where the structure begins in `bytes`. */
  get(bytes: Buffer, base: number): T;
  set(bytes: Buffer, base: number, value: T): void;
}

const word = 2 ** 32;

class U16 implements Field<number> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): number {
    return bytes.readUInt16LE(base + this.offset);
  }

  set(bytes: Buffer, base: number, value: number): void {
    bytes.writeUInt16LE(value, base + this.offset);
  }
}

class U32 implements Field<number> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): number {
    return bytes.readUInt32LE(base + this.offset);
  }

  set(bytes: Buffer, base: number, value: number): void {
    bytes.writeUInt32LE(value, base + this.offset);
  }
}

class I32 implements Field<number> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): number {
    return bytes.readInt32LE(base + this.offset);
  }

  set(bytes: Buffer, base: number, value: number): void {
    bytes.writeInt32LE(value, base + this.offset);
  }
}

class U64 implements Field<number> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): number {
    const at = base + this.offset;
    return bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * word;
  }

  set(bytes: Buffer, base: number, value: number): void {
    const at = base + this.offset;
    const high = Math.floor(value / word);
    bytes.writeUInt32LE(value - high * word, at);
    bytes.writeUInt32LE(high, at + 4);
  }
}

class I64 implements Field<number> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): number {
    const at = base + this.offset;
    return bytes.readUInt32LE(at) + bytes.readInt32LE(at + 4) * word;
  }

  set(bytes: Buffer, base: number, value: number): void {
    const at = base + this.offset;
    const high = Math.floor(value / word);
    bytes.writeUInt32LE(value - high * word, at);
    bytes.writeInt32LE(high, at + 4);
  }
}

class Big implements Field<bigint> {
  readonly offset: number;

  constructor(offset: number) {
    this.offset = offset;
  }

  get(bytes: Buffer, base: number): bigint {
    return bytes.readBigUInt64LE(base + this.offset);
  }

  set(bytes: Buffer, base: number, value: bigint): void {
    bytes.writeBigUInt64LE(value, base + this.offset);
  }
}

const scalars = {
  u16: { bytes: 2, at: (offset: number) => new U16(offset) },
  u32: { bytes: 4, at: (offset: number) => new U32(offset) },
  i32: { bytes: 4, at: (offset: number) => new I32(offset) },
  u64: { bytes: 8, at: (offset: number) => new U64(offset) },
  i64: { bytes: 8, at: (offset: number) => new I64(offset) },
  big: { bytes: 8, at: (offset: number) => new Big(offset) },
} as const;

type Scalar = keyof typeof scalars;

/** Field names to scalars or to structures inside. */
interface Spec {
  readonly [field: string]: Scalar | Layout<Spec>;
}

type FieldOf<K> = K extends Scalar
  ? ReturnType<(typeof scalars)[K]["at"]>
  : K extends Layout<infer S>
    ? Fields<S>
    : never;

export type Fields<S extends Spec> = { readonly [name in keyof S]: FieldOf<S[name]> };

/** What is known of any structure. */
export interface Sized {
  /** sizeof. */
  readonly byteLength: number;
}

interface Layout<S extends Spec> extends Sized {
  readonly spec: S;
}

/** Declares a structure; its fields are properties of the result. */
export function struct<const S extends Spec>(spec: S): Layout<S> & Fields<S> {
  const { fields, end, align } = place(spec, 0);
  return { ...(fields as Fields<S>), spec, byteLength: roundUp(end, align) };
}

interface Placed {
  fields: Record<string, unknown>;
  end: number;
  align: number;
}

function place(spec: Spec, start: number): Placed {
  const fields: Record<string, unknown> = {};
  let end = start;
  let align = 1;
  for (const [name, kind] of Object.entries(spec)) {
    if (typeof kind === "string") {
      const { bytes, at } = scalars[kind];
      end = roundUp(end, bytes);
      fields[name] = at(end);
      end += bytes;
      align = Math.max(align, bytes);
    } else {
      const alignInside = place(kind.spec, 0).align;
      end = roundUp(end, alignInside);
      fields[name] = place(kind.spec, end).fields;
      end += kind.byteLength;
      align = Math.max(align, alignInside);
    }
  }
  return { fields, end, align };
}

export const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;
