/** Assertions are for bugs in this program, never for what a peer, a disk or a user can cause. */

/** A broken invariant: nothing catches it but the program's main, which logs it and exits. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws `AssertionError` unless `fact` holds. `what` states the fact that was expected. */
export function assert(fact: boolean, what: string): asserts fact {
  if (!fact) throw new AssertionError(`assertion failed: ${what}`);
}

/** Returns `value`, which is asserted to be neither null nor undefined. */
export function must<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new AssertionError(`missing: ${what}`);
  return value;
}
