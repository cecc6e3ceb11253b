/**
 * Every way an operation can fail, in one table: its number on the wire (forever: a retired number
 * is never reused), the errno an application sees, and what the sender should do.
 *
 *   never         the answer is final
 *   later         the same request may succeed once servers are back: wait and send it again
 *   after-locate  what the client knows of the chunk is out of date: ask the master, then again
 */
type Retry = "never" | "later" | "after-locate";

interface StatusRow {
  code: number;
  errno: string;
  retry: Retry;
}

const table = {
  // Errors of POSIX, for what POSIX says they mean.
  "not-permitted": { code: 1, errno: "EPERM", retry: "never" },
  "not-found": { code: 2, errno: "ENOENT", retry: "never" },
  "no-access": { code: 3, errno: "EACCES", retry: "never" },
  exists: { code: 4, errno: "EEXIST", retry: "never" },
  "not-directory": { code: 5, errno: "ENOTDIR", retry: "never" },
  "is-directory": { code: 6, errno: "EISDIR", retry: "never" },
  invalid: { code: 7, errno: "EINVAL", retry: "never" },
  "too-large": { code: 8, errno: "EFBIG", retry: "never" },
  "no-space": { code: 9, errno: "ENOSPC", retry: "never" },
  "read-only": { code: 10, errno: "EROFS", retry: "never" },
  "too-many-links": { code: 11, errno: "EMLINK", retry: "never" },
  "name-too-long": { code: 12, errno: "ENAMETOOLONG", retry: "never" },
  "not-empty": { code: 13, errno: "ENOTEMPTY", retry: "never" },
  "too-many-symlinks": { code: 14, errno: "ELOOP", retry: "never" },
  "no-attribute": { code: 15, errno: "ENODATA", retry: "never" },
  "cross-device": { code: 16, errno: "EXDEV", retry: "never" },
  "not-supported": { code: 17, errno: "EOPNOTSUPP", retry: "never" },
  stale: { code: 18, errno: "ESTALE", retry: "never" },
  "bad-file": { code: 19, errno: "EBADF", retry: "never" },
  busy: { code: 20, errno: "EBUSY", retry: "never" },
  range: { code: 21, errno: "ERANGE", retry: "never" },
  interrupted: { code: 22, errno: "EINTR", retry: "never" },
  "bad-name": { code: 23, errno: "EILSEQ", retry: "never" },
  "too-big": { code: 24, errno: "E2BIG", retry: "never" },
  "would-block": { code: 25, errno: "EAGAIN", retry: "never" },
  deadlock: { code: 26, errno: "EDEADLK", retry: "never" },
  "no-such-offset": { code: 27, errno: "ENXIO", retry: "never" },
  "no-locks": { code: 28, errno: "ENOLCK", retry: "never" },
  quota: { code: 29, errno: "EDQUOT", retry: "never" },
  /** The kernel does not ask for such a thing again. */
  "not-implemented": { code: 30, errno: "ENOSYS", retry: "never" },
  // Faults of disks and data.
  "io-error": { code: 40, errno: "EIO", retry: "never" },
  corrupt: { code: 41, errno: "EIO", retry: "after-locate" },
  "no-chunk": { code: 42, errno: "EIO", retry: "after-locate" },
  "stale-version": { code: 43, errno: "EIO", retry: "after-locate" },
  "stale-epoch": { code: 44, errno: "EIO", retry: "after-locate" },
  "replica-failed": { code: 45, errno: "EIO", retry: "after-locate" },
  lost: { code: 46, errno: "EIO", retry: "never" },
  // Faults of the network and of programs.
  unavailable: { code: 60, errno: "EIO", retry: "later" },
  overloaded: { code: 61, errno: "EAGAIN", retry: "later" },
  deadline: { code: 62, errno: "ETIMEDOUT", retry: "later" },
  disconnected: { code: 63, errno: "EIO", retry: "later" },
  "session-lost": { code: 64, errno: "EIO", retry: "later" },
  "lease-expired": { code: 65, errno: "EIO", retry: "later" },
  protocol: { code: 66, errno: "EPROTO", retry: "never" },
  "wrong-cluster": { code: 67, errno: "EPROTO", retry: "never" },
  internal: { code: 68, errno: "EIO", retry: "never" },
} as const satisfies Record<string, StatusRow>;

export type Status = keyof typeof table;

const byCode = new Map<number, Status>(
  Object.entries(table).map(([status, row]) => [row.code, status as Status]),
);

export const statusCode = (status: Status): number => table[status].code;
/** The errno's name, for example "ENOENT". */
export const statusErrno = (status: Status): string => table[status].errno;
export const statusRetry = (status: Status): Retry => table[status].retry;
/** The status of a number from the wire; one this program does not know counts as `internal`. */
export const statusFromCode = (code: number): Status => byCode.get(code) ?? "internal";

/** The statuses up to this one are those of POSIX, for what POSIX says they mean. */
const lastAnswer = 39;

/** An operation's failure, as opposed to a bug (`AssertionError`). Crosses the wire whole. */
export class StatusError extends Error {
  override readonly name = "StatusError";
  readonly status: Status;
  /** Server ids, for `replica-failed`: which replicas did not take part. */
  readonly servers: readonly number[];

  constructor(
    status: Status,
    message: string,
    options?: { cause?: unknown; servers?: readonly number[] },
  ) {
    // That a name does not exist is an answer, of which there are many, and no fault to be traced:
    // the stack would cost more than all the rest of it.
    const { stackTraceLimit } = Error;
    if (statusCode(status) <= lastAnswer) Error.stackTraceLimit = 0;
    super(message, options?.cause === undefined ? undefined : { cause: options.cause });
    Error.stackTraceLimit = stackTraceLimit;
    this.status = status;
    this.servers = options?.servers ?? [];
  }
}

/** The status of any error: what is not a `StatusError` is `internal`. */
export function statusOf(error: unknown): Status {
  return error instanceof StatusError ? error.status : "internal";
}
