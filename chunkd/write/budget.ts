import { StatusError } from "../../protocol/status.ts";

/** Bytes of memory that requests may hold. Full: `overloaded`, as waiting would hold them too. */
export class Budget {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Runs `work`, which starts synchronously, while `bytes` count. */
  async with<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    if (this.#bytes + bytes > this.#bytesMax) {
      throw new StatusError("overloaded", `${this.#bytes} bytes of writes are under way already`);
    }
    this.#bytes += bytes;
    try {
      return await work();
    } finally {
      this.#bytes -= bytes;
    }
  }
}
