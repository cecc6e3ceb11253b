import { constants } from "node:os";
import { type Opcode, type OpcodeName, opcodes } from "../opcodes.ts";
import { type AnyOperation, operation, type Session } from "../session.ts";
import { attributeOperations } from "./attributes.ts";
import { directoryOperations } from "./directories.ts";
import { fileOperations } from "./files.ts";
import { lockOperations } from "./locks.ts";
import { nameOperations } from "./names.ts";

const { ENOSYS, ENOTTY } = constants.errno;

/** A row of the table of opcodes and what to do about it. */
export interface Handler {
  readonly name: string;
  readonly row: Opcode;
  readonly operation: AnyOperation;
}

/** Those that the dispatcher sees to itself. */
type Internal = "INIT" | "FORGET" | "BATCH_FORGET" | "INTERRUPT";

/** All opcodes by their numbers. */
export function handlersFor(session: Session): (Handler | undefined)[] {
  const operations: Record<Exclude<OpcodeName, Internal>, AnyOperation> = {
    ...nameOperations(session),
    ...attributeOperations(session),
    ...fileOperations(session),
    ...lockOperations(session),
    ...directoryOperations(session),
    ...refusals(session),
    DESTROY: operation<void>({
      start: () => undefined,
      finish: (request) => session.replies.empty(request),
    }),
  };
  const handlers: (Handler | undefined)[] = [];
  for (const [name, one] of Object.entries(operations)) {
    const row: Opcode = opcodes[name as OpcodeName];
    handlers[row.code] = { name, row, operation: one };
  }
  return handlers;
}

/**
 * What the filesystem has no use for. ENOSYS is meant: the kernel does not ask again and does what
 * it does for filesystems without such a thing (poll(2) says ready, STATX becomes GETATTR).
 * ioctl(2) is asked each time: whether a file has one is up to the number.
 */
function refusals({ replies }: Session) {
  const refuse = (errno: number): AnyOperation =>
    operation<void>({
      start: () => undefined,
      finish: (request) => replies.error(request, errno),
    });
  return {
    ACCESS: refuse(ENOSYS),
    BMAP: refuse(ENOSYS),
    POLL: refuse(ENOSYS),
    STATX: refuse(ENOSYS),
    IOCTL: refuse(ENOTTY),
  };
}
