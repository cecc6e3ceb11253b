import { LRUCache } from "lru-cache";

/** What lru-cache wants of keys and values. */
type Some = object | string | number | boolean;

/**
 * A cache of the `countMax` entries that were used last. It takes memory for those that it has, not
 * for those that it may have: LRUCache with `max` makes room for all of them at once, and again at
 * each `clear`, which is milliseconds and megabytes for a mount that has just begun.
 */
export function lastUsed<K extends Some, V extends Some>(
  countMax: number,
  onEvict?: (value: V, key: K) => void,
): LRUCache<K, V> {
  return new LRUCache<K, V>({
    maxSize: countMax,
    sizeCalculation: () => 1,
    ...(onEvict && {
      dispose: (value: V, key: K, why: LRUCache.DisposeReason) => {
        if (why === "evict") onEvict(value, key);
      },
    }),
  });
}
