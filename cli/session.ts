import type { Connection } from "../protocol/connection.ts";
import { type Epoch, type Ino, rootIno } from "../protocol/id.ts";
import { entriesPerPageMax } from "../protocol/limits.ts";
import type { Method, Sequence } from "../protocol/method.ts";
import { getattr, readdir, walk } from "../protocol/methods/namespace.ts";
import { closeSession, openSession } from "../protocol/methods/session.ts";
import type { Attr, DirEntry } from "../protocol/shapes.ts";
import { UserError } from "../common/program.ts";
import type { InnerPath } from "./paths.ts";

/** Longer than any snapshot's fence or a busy master takes. */
const deadlineMs = 120_000;

/**
 * Work on the namespace without a mount, over one connection. A lost connection ends it: the
 * commands that use it can simply be run again.
 */
export class NamespaceSession {
  readonly #connection: Connection;
  #seq = 0;

  private constructor(connection: Connection) {
    this.#connection = connection;
  }

  static async open(connection: Connection): Promise<NamespaceSession> {
    await connection.call(openSession, { secret: "", opens: [] });
    return new NamespaceSession(connection);
  }

  /** Runs `work` in a session of its own. */
  static async with<T>(
    connection: Connection,
    work: (session: NamespaceSession) => Promise<T>,
  ): Promise<T> {
    const session = await NamespaceSession.open(connection);
    try {
      return await work(session);
    } finally {
      await session.close();
    }
  }

  async close(): Promise<void> {
    if (!this.#connection.closed) await this.#connection.call(closeSession, {}).catch(() => ({}));
  }

  read<Request, Reply>(method: Method<Request, Reply>, params: Request): Promise<Reply> {
    return this.#connection.call(method, params, { deadlineMs });
  }

  mutate<Request extends Sequence, Reply>(
    method: Method<Request, Reply>,
    params: Omit<Request, "seq" | "acked">,
  ): Promise<Reply> {
    this.#seq += 1;
    const request = { ...params, seq: this.#seq, acked: this.#seq - 1 };
    return this.#connection.call(method, request as unknown as Request, { deadlineMs });
  }

  /** The inode of a path, or a `UserError` in the user's own words. */
  async resolve({ given, inner, mountpoint }: InnerPath): Promise<Attr> {
    const found = await this.find(inner);
    if (found) return found;
    const unmounted = mountpoint === undefined ? " (no gfs mount holds it)" : "";
    throw new UserError(`${given}: no such file or directory in the filesystem${unmounted}`);
  }

  /** The inode of a path from the root of the filesystem. */
  async find(path: string): Promise<Attr | undefined> {
    const names = path.split("/").filter((name) => name !== "" && name !== ".");
    if (names.length === 0) return this.attr(rootIno, undefined);
    const request = { from: rootIno, names: names.map((name) => Buffer.from(name)) };
    const { attrs } = await this.read(walk, request);
    return attrs[names.length - 1];
  }

  async attr(ino: Ino, at: Epoch | undefined): Promise<Attr> {
    return (await this.read(getattr, { ino, ...(at === undefined ? {} : { at }) })).attr;
  }

  /** All entries of a directory, page by page. */
  async *entries(ino: Ino, at: Epoch | undefined): AsyncIterable<DirEntry> {
    let after: Buffer | undefined;
    for (let more = true; more;) {
      const page = await this.read(readdir, {
        ino,
        limit: entriesPerPageMax,
        ...(at === undefined ? {} : { at }),
        ...(after ? { after } : {}),
      });
      yield* page.entries;
      after = page.entries.at(-1)?.name;
      more = page.more && after !== undefined;
    }
  }
}
