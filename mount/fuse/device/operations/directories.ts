import { StatusError } from "../../../../protocol/status.ts";
import type { DirectoryPage, Node, Opened } from "../../filesystem.ts";
import type { Cursor } from "../cursor.ts";
import { FUSE_FSYNC_FDATASYNC } from "../flags.ts";
import { requestBytesMax } from "../init.ts";
import { roundUp } from "../layout.ts";
import type { Request } from "../request.ts";
import { type AnyOperation, operation, plain, type Session, validityOf } from "../session.ts";
import * as s from "../structures.ts";

/** File types of a directory entry are those of a mode (S_IFMT), shifted. */
const typeShift = 12;
const typeDirectory = 0o040000 >>> typeShift;
/** "." and ".." have offsets of their own. */
const dots = [Buffer.from("."), Buffer.from("..")] as const;

export function directoryOperations(session: Session) {
  const { fileSystem, open, replies, log } = session;
  return {
    OPENDIR: operation<Opened>({
      start: (request) => fileSystem.opendir(request.node, request),
      finish: (request, opened) =>
        replies.opened(request, opened, open.addDirectory(request.node, opened)),
      undo(_request, { file }) {
        open.removeDirectory(file);
        fileSystem
          .releasedir(file)
          .catch((error: unknown) => log.warn("fuse.release-failed", { file, error }));
      },
    }),
    READDIR: listOperation(session, new Lister(session, false)),
    READDIRPLUS: listOperation(session, new Lister(session, true)),
    RELEASEDIR: plain(session, (request) => {
      const { file } = open.directory(s.releaseIn.fh.get(request.message, request.body));
      open.removeDirectory(file);
      return fileSystem.releasedir(file);
    }),
    FSYNCDIR: plain(session, (request) => {
      const { message, body } = request;
      const { file } = open.directory(s.fsyncIn.fh.get(message, body));
      const dataOnly = (s.fsyncIn.fsyncFlags.get(message, body) & FUSE_FSYNC_FDATASYNC) !== 0;
      return fileSystem.fsyncdir(file, dataOnly, request);
    }),
  };
}

/** Answered within `start`, in the cursor's turn: the next READDIR sees what this one delivered. */
function listOperation({ open }: Session, lister: Lister): AnyOperation {
  return operation<number>({
    async start(request) {
      const { message, body } = request;
      const cursor = open.directory(s.readIn.fh.get(message, body));
      const offset = s.readIn.offset.get(message, body);
      const size = Math.min(s.readIn.size.get(message, body), requestBytesMax);
      return cursor.inTurn(async () => {
        const page = await cursor.read(offset, request);
        return lister.answer(request, cursor, { page, offset, size });
      });
    },
    finish: (_request, result) => result,
  });
}

interface Listing {
  page: DirectoryPage;
  offset: number;
  size: number;
}

/** Puts entries into the answer of READDIR, or of READDIRPLUS. */
class Lister {
  readonly #session: Session;
  readonly #plus: boolean;
  /** Where the fuse_dirent begins, and where its name does. */
  readonly #dirent: number;
  readonly #name: number;
  /** Used again for each answer, and grown as the kernel asks for more. */
  #bytes = Buffer.alloc(0);
  #size = 0;
  #end = 0;

  constructor(session: Session, plus: boolean) {
    this.#session = session;
    this.#plus = plus;
    this.#dirent = plus ? s.direntplus.byteLength - s.dirent.byteLength : 0;
    this.#name = this.#dirent + s.dirent.byteLength;
  }

  /** Answers with what of `page` finds room. Returns what `Channel.reply` did. */
  answer(request: Request, cursor: Cursor, { page, offset, size }: Listing): number {
    if (size > this.#bytes.length) this.#bytes = Buffer.alloc(size);
    this.#size = size;
    this.#end = 0;
    const adopted: Node[] = [];
    let delivered = false;
    try {
      const fits = this.#putDots(cursor, page, offset);
      if (fits) this.#putEntries(request, cursor, page, adopted);
      if (this.#end === 0 && (!fits || page.entries.length > 0))
        throw new StatusError("invalid", `no entry fits into ${size} bytes`);
      const list = this.#bytes.subarray(0, this.#end);
      const result = this.#session.replies.data(request, [list]);
      delivered = result >= 0;
      return result;
    } finally {
      if (!delivered) for (const node of adopted) this.#session.references.remove(node, 1);
    }
  }

  /** Returns false when there was no room for them. */
  #putDots(cursor: Cursor, { self, parent }: DirectoryPage, offset: number): boolean {
    for (const at of [1, 2] as const) {
      if (offset >= at) continue;
      const name = dots[at - 1] ?? dots[0];
      if (!this.#hasRoom(name)) return false;
      cursor.deliverDot(at);
      this.#bytes.fill(0, this.#end, this.#end + this.#dirent);
      this.#put({ name, ino: at === 1 ? self : parent, type: typeDirectory, offset: at });
    }
    return true;
  }

  /** `adopted` becomes the list of nodes that the kernel is given. */
  #putEntries(request: Request, cursor: Cursor, { entries }: DirectoryPage, adopted: Node[]): void {
    const { fileSystem, references, replies } = this.#session;
    // What may be out of date is listed, but not believed: names are then looked up.
    const known = this.#plus && !cursor.outdated;
    let count = 0;
    for (const one of entries) {
      const { name, attr } = one;
      if (!this.#hasRoom(name)) break;
      count += 1;
      const offset = cursor.deliver(name);
      const entry = known ? fileSystem.adopt(cursor.file, one) : undefined;
      // A node of 0: the kernel lists the name and will look it up. And what an entry leaves out
      // is 0: inodes whose generation differs from what it was are bad to the kernel for ever.
      this.#bytes.fill(0, this.#end, this.#end + this.#dirent);
      if (entry !== undefined) {
        references.add(entry.node);
        adopted.push(entry.node);
        const valid = validityOf(this.#session, request.node, entry.node);
        replies.putEntry(this.#bytes, this.#end, s.direntplus.entry, entry, valid);
      }
      this.#put({ name, ino: attr.ino, type: (attr.mode >>> typeShift) & 0o17, offset });
    }
    cursor.taken(count);
  }

  #hasRoom(name: Buffer): boolean {
    return this.#end + roundUp(this.#name + name.length, 8) <= this.#size;
  }

  #put(entry: { name: Buffer; ino: number; type: number; offset: number }): void {
    const { name, ino, type, offset } = entry;
    const bytes = this.#bytes;
    const at = this.#end + this.#dirent;
    s.dirent.ino.set(bytes, at, ino);
    s.dirent.off.set(bytes, at, offset);
    s.dirent.namelen.set(bytes, at, name.length);
    s.dirent.type.set(bytes, at, type);
    const nameAt = this.#end + this.#name;
    name.copy(bytes, nameAt);
    const end = roundUp(nameAt + name.length, 8);
    bytes.fill(0, nameAt + name.length, end);
    this.#end = end;
  }
}
