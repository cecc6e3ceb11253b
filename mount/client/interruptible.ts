import { StatusError } from "../../protocol/status.ts";

/**
 * Waits for `work`, but no longer than until the application is interrupted: a process that waits
 * for servers that are gone can be killed (P6). The work goes on, and what comes of it is dropped.
 */
export async function interruptible<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  if (!signal) return work;
  let onAbort = (): void => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(new StatusError("interrupted", "interrupted while waiting"));
  });
  // Whichever loses the race may still reject.
  work.catch(() => undefined);
  aborted.catch(() => undefined);
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([aborted, work]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** What was asked for was interrupted before it was begun. */
export function interrupted(message: string): StatusError {
  return new StatusError("interrupted", message);
}
