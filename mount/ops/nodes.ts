import { assert, must } from "../../common/assert.ts";
import { type Epoch, type Ino, ino as toIno } from "../../protocol/id.ts";
import { nameBytesMax } from "../../protocol/limits.ts";
import { fileType, permissionMask } from "../../protocol/mode.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Node, NodeAttr } from "../fuse/filesystem.ts";

/**
 * What a node number stands for:
 *
 *   live       an inode as it is now; its node number is its inode number
 *   frozen     an inode as it was in a snapshot
 *   snapshots  the .snapshots of a live directory
 */
export type NodeRef =
  | { kind: "live"; ino: Ino }
  | { kind: "frozen"; ino: Ino; at: Epoch }
  | { kind: "snapshots"; ino: Ino };

/** Refuses a name that is longer than names can be: the kernel passes on up to 1,024 bytes. */
export function checkNameLength(name: Buffer): void {
  if (name.length > nameBytesMax) throw new StatusError("name-too-long", "the name is too long");
}

/** Node numbers from here on are in the table; below are inode numbers. */
const firstTableNode = 2 ** 52;

interface TableRow {
  ref: NodeRef;
  references: number;
}

/** Numbers for nodes that are not simply inodes, as long as the kernel knows them. */
export class Nodes {
  readonly #byNode = new Map<Node, TableRow>();
  readonly #byKey = new Map<string, Node>();
  #next = firstTableNode;

  ref(node: Node): NodeRef {
    const ref = this.find(node);
    if (!ref) throw new StatusError("stale", "this node has been forgotten");
    return ref;
  }

  find(node: Node): NodeRef | undefined {
    if (node < firstTableNode) return { kind: "live", ino: toIno(node) };
    return this.#byNode.get(node)?.ref;
  }

  /** The inode of a node in which something is to be changed: snapshots are read-only. */
  live(node: Node): Ino {
    const ref = this.ref(node);
    if (ref.kind === "live") return ref.ino;
    if (ref.kind === "frozen") throw new StatusError("read-only", "snapshots are read-only");
    throw new StatusError("not-permitted", "only snapshots can be in .snapshots");
  }

  /** The node of `ref`, with one more reference. */
  remember(ref: NodeRef): Node {
    if (ref.kind === "live") return ref.ino;
    const key = keyOf(ref);
    const known = this.#byKey.get(key);
    if (known !== undefined) {
      must(this.#byNode.get(known), "row of a node").references += 1;
      return known;
    }
    const node = this.#next;
    this.#next += 1;
    assert(Number.isSafeInteger(node), "node numbers do not run out");
    this.#byNode.set(node, { ref, references: 1 });
    this.#byKey.set(key, node);
    return node;
  }

  forget(node: Node, references: number): void {
    const row = this.#byNode.get(node);
    if (!row) return;
    row.references -= references;
    if (row.references > 0) return;
    this.#byNode.delete(node);
    this.#byKey.delete(keyOf(row.ref));
  }
}

function keyOf(ref: NodeRef): string {
  return ref.kind === "frozen" ? `${ref.ino}@${ref.at}` : `${ref.kind}:${ref.ino}`;
}

/**
 * st_ino of what is not a live inode: it must differ from the live one's, or cp takes a file and
 * its snapshot for the same. Above 2^31, so that it also survives a binding with 32 bits.
 */
function otherIno(ino: Ino, salt: number): number {
  const mixed = Math.imul(ino ^ Math.imul(salt + 1, 0x9e37_79b1), 0x85eb_ca6b) ^ (salt * 7919);
  return 0x8000_0000 + ((mixed ^ (mixed >>> 15)) & 0x7fff_ffff);
}

/** The st_ino of a node. */
export function shownIno(ref: NodeRef): number {
  switch (ref.kind) {
    case "live":
      return ref.ino;
    case "frozen":
      return otherIno(ref.ino, ref.at);
    case "snapshots":
      return otherIno(ref.ino, -2);
  }
}

export function nodeAttr(ref: NodeRef, attr: Attr): NodeAttr {
  switch (ref.kind) {
    case "live":
      return { ...attr };
    case "frozen":
      return { ...attr, ino: shownIno(ref) };
    case "snapshots":
      // Who may write the directory may take snapshots of it.
      return {
        ...attr,
        ino: shownIno(ref),
        mode: fileType.directory | (attr.mode & permissionMask),
        nlink: 2,
      };
  }
}
