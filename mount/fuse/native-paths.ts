import { must } from "../../common/assert.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Caller, Entry, FileSystem, Node, NodeAttr } from "./filesystem.ts";
import { rootNode } from "./filesystem.ts";
import { bytesFromText } from "./native-names.ts";

/** Where a path led. Whoever gets one gives it back, once, with `Paths.forget`. */
export interface Resolved {
  readonly node: Node;
  /** As the last `lookup` gave it; undefined where there was none: the root and hidden files. */
  readonly attr: NodeAttr | undefined;
  /** st_ino of the directory it is in; the root's own for the root. */
  readonly parentIno: number;
  /** Who uses the reference to the node together; it is given back with the last. */
  readonly users: { count: number };
}

const root: Resolved = {
  node: rootNode,
  attr: undefined,
  parentIno: rootNode,
  users: { count: Infinity },
};

/**
 * How libfuse names a file that it renames because it is unlinked while it is open (`hidden_name`).
 */
const hiddenName = /(?:^|\/)(\.fuse_hidden[0-9a-f]{16})$/;

/**
 * Paths to nodes, by `lookup` of one component after the other. It remembers nothing: the
 * filesystem behind caches what may be cached, so no second cache can be stale. Every reference
 * that a lookup gives is taken back by exactly one `forget`, also when a later component fails.
 *
 * The exception are hidden files: libfuse knows a file by its path as long as it is open, so it
 * renames what is unlinked instead of unlinking it. Here it is really unlinked, and the path that
 * libfuse believes it to have leads to its node. So nothing is left behind when a driver is killed,
 * and nobody sees `.fuse_hidden` files.
 */
export class Paths {
  readonly #fileSystem: FileSystem;
  readonly #caller: Caller;
  /** By the last name that libfuse gave it, which it makes only once per mount. */
  readonly #hidden = new Map<string, Resolved>();

  constructor(fileSystem: FileSystem, caller: Caller) {
    this.#fileSystem = fileSystem;
    this.#caller = caller;
  }

  async resolve(path: string): Promise<Resolved> {
    const hidden = this.#hidden.size > 0 ? this.#hidden.get(hiddenKey(path) ?? "") : undefined;
    if (hidden === undefined) return this.#walk(components(path));
    hidden.users.count += 1;
    return { ...hidden, attr: undefined };
  }

  /** What a creating call made, as if it had been resolved. */
  created({ node, attr }: Entry): Resolved {
    return { node, attr, parentIno: rootNode, users: { count: 1 } };
  }

  forget({ node, users }: Resolved): void {
    users.count -= 1;
    if (users.count === 0) this.#fileSystem.forget(node, 1);
  }

  /** Runs `use` on the node of `path`, which stays referenced until `use` has settled. */
  async withNode<T>(path: string, use: (found: Resolved) => Promise<T>): Promise<T> {
    return this.#use(await this.resolve(path), use);
  }

  /** Runs `use` on the directory of `path` and its last name. */
  async withParent<T>(path: string, use: (parent: Node, name: Buffer) => Promise<T>): Promise<T> {
    const names = components(path);
    const name = names.pop();
    // The kernel answers these for the root of a mount by itself.
    if (name === undefined) throw new StatusError("busy", "the root has no directory");
    return this.#use(await this.#walk(names), ({ node }) => use(node, name));
  }

  /** Makes `path`, a name of libfuse's for a hidden file, lead to where `found` leads. */
  hide(path: string, found: Resolved): void {
    found.users.count += 1;
    this.#hidden.set(must(hiddenKey(path), "name of a hidden file"), found);
  }

  /** Ends what `hide` made for `node`: its last open file was closed. */
  reveal(node: Node): void {
    for (const [key, hidden] of this.#hidden) {
      if (hidden.node !== node) continue;
      this.#hidden.delete(key);
      this.forget(hidden);
    }
  }

  async #use<T>(found: Resolved, use: (found: Resolved) => Promise<T>): Promise<T> {
    try {
      return await use(found);
    } finally {
      this.forget(found);
    }
  }

  async #walk(names: Buffer[]): Promise<Resolved> {
    let found = root;
    for (const name of names) {
      const directory = found;
      try {
        const { node, attr } = await this.#fileSystem.lookup(directory.node, name, this.#caller);
        const parentIno = directory.attr?.ino ?? rootNode;
        found = { node, attr, parentIno, users: { count: 1 } };
      } finally {
        this.forget(directory);
      }
    }
    return found;
  }
}

/** The name of a hidden file at the end of `path`, if there is one. */
function hiddenKey(path: string): string | undefined {
  return hiddenName.exec(path)?.[1];
}

/** The number in the name that libfuse makes up when it hides `source` as `target`, if it does. */
export function hiddenNumber(source: string, target: string): number | undefined {
  const key = hiddenKey(target);
  const directory = (path: string): string => path.slice(0, path.lastIndexOf("/"));
  if (key === undefined || directory(source) !== directory(target)) return undefined;
  return Number.parseInt(key.slice(-8), 16);
}

function components(path: string): Buffer[] {
  return path
    .split("/")
    .filter((name) => name !== "")
    .map(bytesFromText);
}
