import { type FileSystem, type Node, rootNode } from "../filesystem.ts";

/**
 * How many references to each node the kernel has been given and has not taken back (`nlookup` in
 * fs/fuse/inode.c): one with each entry that it has received. The root is always known and is not
 * counted.
 */
export class References {
  readonly #fileSystem: Pick<FileSystem, "forget">;
  readonly #counts = new Map<Node, number>();

  constructor(fileSystem: Pick<FileSystem, "forget">) {
    this.#fileSystem = fileSystem;
  }

  get size(): number {
    return this.#counts.size;
  }

  has(node: Node): boolean {
    return node === rootNode || this.#counts.has(node);
  }

  /** Called with each entry that is given out. */
  add(node: Node): void {
    this.#counts.set(node, (this.#counts.get(node) ?? 0) + 1);
  }

  /**
   * Takes references back, at most as many as there are. Returns false if there were fewer, which
   * the kernel never asks for.
   */
  remove(node: Node, references: number): boolean {
    const known = this.#counts.get(node);
    if (known === undefined) return node === rootNode;
    if (references <= 0) return references === 0;
    if (references >= known) this.#counts.delete(node);
    else this.#counts.set(node, known - references);
    this.#fileSystem.forget(node, Math.min(references, known));
    return references <= known;
  }

  /** As they are now; later ones are not among them. */
  nodes(): Node[] {
    return [rootNode, ...this.#counts.keys()];
  }

  /** The mount is gone, and with it everything that the kernel knew. */
  removeAll(): void {
    const counts = [...this.#counts];
    this.#counts.clear();
    for (const [node, references] of counts) this.#fileSystem.forget(node, references);
  }
}

/** Counts what is under way, by node. */
export class Busy {
  readonly #counts = new Map<Node, number>();

  has(node: Node): boolean {
    return this.#counts.has(node);
  }

  get size(): number {
    return this.#counts.size;
  }

  begin(node: Node): void {
    this.#counts.set(node, (this.#counts.get(node) ?? 0) + 1);
  }

  end(node: Node): void {
    const left = (this.#counts.get(node) ?? 1) - 1;
    if (left === 0) this.#counts.delete(node);
    else this.#counts.set(node, left);
  }
}
