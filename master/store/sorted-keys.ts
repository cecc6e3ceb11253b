import { must } from "../../common/assert.ts";

/** Keys per block: moving a block's tail costs less than finding the block. */
const blockKeysMax = 512;

/**
 * A sorted set of keys, as text with one character per byte (latin1), whose order is that of the
 * bytes. A list of short sorted lists: adding one to 100,000 moves 512 at most.
 */
export class SortedKeys {
  #blocks: string[][] = [];

  /** `key` must not be in it. */
  add(key: string): void {
    const at = this.#blockOf(key);
    const block = this.#blocks[at];
    if (!block) return void this.#blocks.push([key]);
    block.splice(position(block, key), 0, key);
    if (block.length <= blockKeysMax) return;
    this.#blocks.splice(at + 1, 0, block.splice(block.length >> 1));
  }

  /** `key` must be in it. */
  delete(key: string): void {
    const at = this.#blockOf(key);
    const block = must(this.#blocks[at], "block of a key");
    block.splice(position(block, key), 1);
    if (block.length === 0) this.#blocks.splice(at, 1);
  }

  /** Up to `most` keys with from ≤ key < to, in order; all that follow `from` without a `to`. */
  slice(from: string, to: string | undefined, most: number): string[] {
    const found: string[] = [];
    let at = this.#blockOf(from);
    let block = this.#blocks[at];
    for (let i = block ? position(block, from) : 0; block; i = 0) {
      for (; i < block.length; i += 1) {
        const key = must(block[i], "key");
        if (found.length === most || (to !== undefined && key >= to)) return found;
        found.push(key);
      }
      at += 1;
      block = this.#blocks[at];
    }
    return found;
  }

  /** The last block that does not begin after `key`, or the first. */
  #blockOf(key: string): number {
    let low = 0;
    let high = this.#blocks.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (must(this.#blocks[middle]?.[0], "block's first key") <= key) low = middle;
      else high = middle;
    }
    return low;
  }
}

/** The index of the first key that is not below `key`. */
function position(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (must(keys[middle], "key") < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
