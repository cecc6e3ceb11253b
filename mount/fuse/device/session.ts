import type { Log } from "../../../common/log.ts";
import { StatusError } from "../../../protocol/status.ts";
import type { Entry, FileSystem, Node, Opened } from "../filesystem.ts";
import type { KernelCacheControl } from "./caches.ts";
import type { Agreement } from "./init.ts";
import type { OpenTable } from "./open-table.ts";
import type { References } from "./references.ts";
import type { Replies, Validity } from "./reply.ts";
import type { Request } from "./request.ts";

/** What the operations share, from FUSE_INIT on. */
export interface Session {
  readonly fileSystem: FileSystem;
  readonly replies: Replies;
  readonly references: References;
  readonly open: OpenTable;
  readonly caches: KernelCacheControl;
  readonly agreement: Agreement;
  readonly log: Log;
}

/** How a request becomes a call of the filesystem, and its outcome an answer. */
interface Operation<T> {
  /** The message may be read until this returns. Failures may be thrown or rejected. */
  start(request: Request): T | Promise<T>;
  /** Answers; returns what `Channel.reply` did. */
  finish(request: Request, result: T): number;
  /** The answer did not arrive: what it gave out is taken back. */
  undo?(request: Request, result: T): void;
  /** Answers a failure in a way of its own, or returns undefined. */
  fail?(request: Request, error: unknown): number | undefined;
}

export type AnyOperation = Operation<unknown>;

/** Forgets the type of the result, which only `start` and its own `finish` see. */
export function operation<T>(one: Operation<T>): AnyOperation {
  return one;
}

/** Of an operation that is answered without data. */
export function plain(
  { replies }: Session,
  start: (request: Request) => Promise<void>,
): AnyOperation {
  return operation<void>({ start, finish: (request) => replies.empty(request) });
}

/** Used again for each answer: it is read at once. */
const validity: Validity = { names: 0, attributes: 0 };

/** How long the kernel may believe an entry of `parent` that leads to `node`. */
export function validityOf(session: Session, parent: Node, node: Node): Validity {
  validity.names = namesValidMs(session, parent);
  validity.attributes = session.fileSystem.validMs(node, "attributes");
  return validity;
}

export function namesValidMs({ fileSystem, caches }: Session, parent: Node): number {
  return Math.min(fileSystem.validMs(parent, "names"), caches.namesMsMax);
}

/** Of an operation that is answered with an entry of the directory asked for. */
export function entryOperation(
  session: Session,
  start: (request: Request) => Promise<Entry>,
  fail?: Operation<Entry>["fail"],
): AnyOperation {
  const { replies, references } = session;
  return operation<Entry>({
    start,
    finish(request, entry) {
      references.add(entry.node);
      return replies.entry(request, entry, validityOf(session, request.node, entry.node));
    },
    undo: (_request, { node }) => void references.remove(node, 1),
    ...(fail && { fail }),
  });
}

/** Of an operation that makes and opens a file. */
export function createOperation(
  session: Session,
  start: (request: Request) => Promise<Entry & Opened>,
): AnyOperation {
  const { replies, references, open } = session;
  return operation<Entry & Opened>({
    start,
    finish(request, made) {
      references.add(made.node);
      const flags = open.addFile(made.node, made);
      const valid = validityOf(session, request.node, made.node);
      return replies.created(request, made, valid, flags);
    },
    undo(_request, { node, file }) {
      releaseUndelivered(session, file);
      references.remove(node, 1);
    },
  });
}

/** The process that wanted it open was interrupted. */
export function releaseUndelivered({ open, fileSystem, log }: Session, file: number): void {
  open.removeFile(file);
  fileSystem
    .release(file)
    .catch((error: unknown) => log.warn("fuse.release-failed", { file, error }));
}

/** `stale` unless the kernel has been given this node and has not forgotten it. */
export function checkNode({ references }: Session, node: Node): Node {
  if (!references.has(node)) throw new StatusError("stale", `node ${node} is not known`);
  return node;
}

/** Offsets and lengths above this are no exact numbers any more; files are far smaller. */
export function checkSize(value: number): number {
  if (value > Number.MAX_SAFE_INTEGER) throw new StatusError("too-large", `offset ${value}`);
  return value;
}
