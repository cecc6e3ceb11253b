import { readlinkSync } from "node:fs";
import type { Log } from "../../common/log.ts";

/**
 * libfuse 2 starts a thread whenever all are busy, and ends one whenever more than 10 are idle.
 * fuse-native keeps a libuv handle for every thread that ever was, and libuv looks at each of them
 * at every wake-up: with 32 processes at work a stat(2) took 20 ms instead of 0.1 ms within a
 * minute, and it stays so.
 *
 * With 10 threads none ever ends. libfuse has no option for that, but before it starts a thread it
 * reads the size of its stack from the environment: one that is not possible makes the start fail,
 * and libfuse goes on with the threads it has. It prints a line each time, several per request
 * under load, which is why this is done only once standard error leads nowhere (see
 * standard-error.ts).
 */
const stackVariable = "FUSE_THREAD_STACK";
const stackPossible = "8388608";
/** As a size_t: the most there is. `atoi` makes -1 of it. */
const stackImpossible = "9223372036854775807";

/** One less than libfuse keeps: one more has been started when fuse-native sees this one. */
const threadsMost = 9;

/** What fuse-native calls in JavaScript for each new thread, once it has something to do. */
type Allocate = (bytes: number) => Buffer;

/** Before the mount: a variable that is there already is changed without moving the environment. */
export function allowThreads(): void {
  process.env[stackVariable] = stackPossible;
}

/** Wraps fuse-native's `_malloc`, to start no more threads from a certain number on. */
export function limitThreads(allocate: Allocate, log: Log): Allocate {
  let threads = 0;
  let limited = false;
  return (bytes) => {
    threads += 1;
    if (limited) log.debug("fuse-native.thread-beyond-limit", { threads });
    if (!limited && threads >= threadsMost && standardErrorIsNull()) {
      process.env[stackVariable] = stackImpossible;
      limited = true;
      log.debug("fuse-native.threads-limited", { threads });
    }
    return allocate(bytes);
  };
}

function standardErrorIsNull(): boolean {
  try {
    return readlinkSync("/proc/self/fd/2") === "/dev/null";
  } catch {
    return false;
  }
}
