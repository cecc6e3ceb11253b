import { Semaphore } from "../../common/mutex.ts";
import type { Connection } from "../../protocol/connection.ts";
import { connectionReadBytesMax, readBytesMax } from "../limits.ts";

/** Memory for answers that hold bytes of chunks, first come first served, with a part for each. */
export class ReadMemory {
  readonly #all = new Semaphore(readBytesMax);
  readonly #parts = new WeakMap<Connection, Semaphore>();

  /** Takes `bytes`, waiting for them; resolves with what gives `count` of them back. */
  async acquire(connection: Connection, bytes: number): Promise<(count: number) => void> {
    let part = this.#parts.get(connection);
    if (!part) this.#parts.set(connection, (part = new Semaphore(connectionReadBytesMax)));
    const own = part;
    await own.acquire(bytes);
    await this.#all.acquire(bytes);
    return (count) => {
      own.release(count);
      this.#all.release(count);
    };
  }
}
