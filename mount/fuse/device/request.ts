import { must } from "../../../common/assert.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { Caller, Node } from "../filesystem.ts";
import type { Opcode } from "./opcodes.ts";
import { inHeader } from "./structures.ts";

/** Numbers of 64 bits with less than this above are exact as doubles. */
const uniqueHighMax = 2 ** 21;

/**
 * A request under way, which is also the `Caller` that the filesystem sees. The message is only
 * there until the operation has been called: its buffer is used again for the next one.
 */
export class Request implements Caller {
  readonly name: string;
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  readonly node: Node;
  readonly uid: number;
  readonly gid: number;
  readonly pid: number;
  /** Where the structure after the header begins. */
  readonly body = inHeader.byteLength;
  /** The length of the whole message. */
  readonly length: number;
  readonly row: Opcode;
  /** A second directory whose lock the asking process holds: the target of a rename. */
  alsoHolds: Node = 0;
  #message: Buffer | undefined;
  #interrupted = false;
  #controller: AbortController | undefined;

  constructor(name: string, row: Opcode, message: Buffer) {
    this.name = name;
    this.row = row;
    this.uniqueLow = inHeader.uniqueLow.get(message, 0);
    this.uniqueHigh = inHeader.uniqueHigh.get(message, 0);
    this.node = inHeader.nodeid.get(message, 0);
    this.uid = inHeader.uid.get(message, 0);
    this.gid = inHeader.gid.get(message, 0);
    this.pid = inHeader.pid.get(message, 0);
    this.length = message.length;
    this.#message = message;
  }

  get key(): number | bigint {
    return uniqueKey(this.uniqueLow, this.uniqueHigh);
  }

  get message(): Buffer {
    return must(this.#message, "message of a request that is being started");
  }

  /** The buffer of the message goes back to the channel. */
  detach(): void {
    this.#message = undefined;
  }

  /** Made when somebody looks: most requests end before anybody wants to know. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#interrupted) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  interrupt(): void {
    this.#interrupted = true;
    this.#controller?.abort();
  }

  /** A copy of the one name after the structure. `protocol` unless it is as fuse.h says. */
  takeName(at = this.body + this.row.request.byteLength): Buffer {
    const { message } = this;
    const end = message.indexOf(0, at);
    if (end < 0) throw malformed("a name without its end");
    return Buffer.from(message.subarray(at, end));
  }

  /** Copies of the two names after the structure. */
  takeNames(): [Buffer, Buffer] {
    const first = this.takeName();
    const next = this.body + this.row.request.byteLength + first.length + 1;
    return [first, this.takeName(next)];
  }
}

/**
 * What a request is found by when it is interrupted. The kernel counts them, so that a number will
 * do; only one that no kernel would give takes a bigint.
 */
export function uniqueKey(low: number, high: number): number | bigint {
  if (high < uniqueHighMax) return high * 2 ** 32 + low;
  return (BigInt(high) << 32n) | BigInt(low);
}

export function malformed(what: string): StatusError {
  return new StatusError("protocol", `malformed request: ${what}`);
}
