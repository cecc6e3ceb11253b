import fc from "fast-check";
import t from "tap";
import { type Epoch, type Ino, rootIno } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { discard, orphanKey } from "../../master/namespace/ops/common.ts";
import { createFile, createTmpfile, makeDirectory } from "../../master/namespace/ops/create.ts";
import { makeLink, removeDirectory, unlink } from "../../master/namespace/ops/link.ts";
import { rename } from "../../master/namespace/ops/rename.ts";
import { setAttributes } from "../../master/namespace/ops/attributes.ts";
import { removeXattr, setXattr } from "../../master/namespace/ops/xattrs.ts";
import type { Table } from "../../master/store/store.ts";
import { outcome } from "../support/outcome.ts";
import { chunkBytes, TestNamespace } from "../support/namespace.ts";
import { newTestStore } from "../support/test-store.ts";

/** The toy model: what a filesystem is, without any of the machinery. */
interface ModelFile {
  kind: "file";
  contents: string;
  mode: number;
  /** Attribute user.tag. */
  tag?: string;
}
interface ModelDirectory {
  kind: "directory";
  entries: Map<string, ModelNode>;
  snapshots: Map<string, unknown>;
}
type ModelNode = ModelFile | ModelDirectory;

const fail = (status: ConstructorParameters<typeof StatusError>[0]): never => {
  throw new StatusError(status, "model");
};
const newDirectory = (): ModelDirectory => ({
  kind: "directory",
  entries: new Map(),
  snapshots: new Map(),
});

class Model {
  readonly root = newDirectory();

  find(path: readonly string[]): ModelNode {
    let node: ModelNode = this.root;
    for (const name of path) {
      if (node.kind !== "directory") return fail("not-directory");
      node = node.entries.get(name) ?? fail("not-found");
    }
    return node;
  }

  dir(path: readonly string[]): ModelDirectory {
    const node = this.find(path);
    return node.kind === "directory" ? node : fail("not-directory");
  }

  file(path: readonly string[]): ModelFile {
    const node = this.find(path);
    return node.kind === "file" ? node : fail("is-directory");
  }

  #links(wanted: ModelNode, from: ModelNode = this.root): number {
    if (from === wanted) return 1;
    if (from.kind === "file") return 0;
    return [...from.entries.values()].reduce((sum, node) => sum + this.#links(wanted, node), 0);
  }

  tree(node: ModelNode = this.root): unknown {
    if (node.kind === "file") {
      const { contents, mode, tag } = node;
      const shown = { nlink: this.#links(node), mode: mode | 0o100000, contents };
      return tag === undefined ? shown : { ...shown, xattrs: { "user.tag": tag } };
    }
    const names = [...node.entries.keys()].toSorted();
    return Object.fromEntries(
      names.map((name) => [name, this.tree(node.entries.get(name) ?? fail("internal"))]),
    );
  }

  isInside(outer: ModelNode, inner: ModelNode): boolean {
    if (outer === inner) return true;
    if (outer.kind === "file") return false;
    return [...outer.entries.values()].some((node) => this.isInside(node, inner));
  }
}

type Path = readonly string[];
type Op =
  | { op: "create" | "mkdir" | "unlink" | "rmdir"; path: Path }
  | { op: "write"; path: Path; index: number; value: string }
  | { op: "truncate"; path: Path; size: number }
  | { op: "chmod"; path: Path; mode: number }
  | { op: "tag"; path: Path; value: string }
  | { op: "untag" | "tmpfile"; path: Path }
  | { op: "rename" | "exchange" | "link"; path: Path; to: Path }
  | { op: "snapshot" | "drop"; path: Path; name: string }
  | { op: "reclaim" };

const name = fc.constantFrom("a", "b", "c");
const path = fc.array(name, { minLength: 1, maxLength: 3 });
const dirPath = fc.array(name, { maxLength: 2 });
const snapshot = fc.constantFrom("s1", "s2", "s3");
const operation: fc.Arbitrary<Op> = fc.oneof(
  fc.record({ op: fc.constantFrom("create", "mkdir", "unlink", "rmdir"), path }),
  fc.record({
    op: fc.constant("write"),
    path,
    index: fc.nat({ max: 2 }),
    value: fc.string({ minLength: chunkBytes, maxLength: chunkBytes, unit: "grapheme-ascii" }),
  }),
  fc.record({ op: fc.constant("truncate"), path, size: fc.nat({ max: 3 * chunkBytes }) }),
  fc.record({ op: fc.constant("chmod"), path, mode: fc.constantFrom(0o600, 0o755) }),
  fc.record({ op: fc.constant("tag"), path, value: fc.constantFrom("x", "y") }),
  fc.record({ op: fc.constantFrom("untag", "tmpfile"), path }),
  fc.record({ op: fc.constantFrom("rename", "exchange", "link"), path, to: path }),
  fc.record({ op: fc.constantFrom("snapshot", "drop"), path: dirPath, name: snapshot }),
  fc.record({ op: fc.constant("reclaim") }),
) as fc.Arbitrary<Op>;

const split = (p: Path): [Path, string] => [p.slice(0, -1), p.at(-1) ?? ""];

function applyToModel(model: Model, op: Op): void {
  switch (op.op) {
    case "create":
    case "mkdir": {
      const [parent, last] = split(op.path);
      const dir = model.dir(parent);
      if (dir.entries.has(last)) return fail("exists");
      const made = op.op === "mkdir" ? newDirectory() : newFile();
      dir.entries.set(last, made);
      return;
    }
    case "unlink":
    case "rmdir":
      return removeFromModel(model, op.path, op.op);
    case "write":
      return writeToModel(model.file(op.path), op.index * chunkBytes, op.value);
    case "truncate": {
      const file = model.file(op.path);
      file.contents = file.contents.slice(0, op.size).padEnd(op.size, "\0");
      return;
    }
    case "chmod":
      model.file(op.path).mode = op.mode;
      return;
    case "tag":
      model.file(op.path).tag = op.value;
      return;
    case "untag": {
      const file = model.file(op.path);
      if (file.tag === undefined) return fail("no-attribute");
      delete file.tag;
      return;
    }
    case "tmpfile": {
      const [parent, last] = split(op.path);
      const dir = model.dir(parent);
      if (dir.entries.has(last)) return fail("exists");
      dir.entries.set(last, { ...newFile(), contents: "tmp\0" });
      return;
    }
    case "link":
      return linkInModel(model, op.path, op.to);
    case "rename":
    case "exchange":
      return renameInModel(model, op);
    case "snapshot": {
      const dir = model.dir(op.path);
      if (dir.snapshots.has(op.name)) return fail("exists");
      dir.snapshots.set(op.name, structuredClone(model.tree(dir)));
      return;
    }
    case "drop":
      if (!model.dir(op.path).snapshots.delete(op.name)) return fail("not-found");
      return;
    case "reclaim":
      return;
  }
}

const newFile = (): ModelFile => ({ kind: "file", contents: "", mode: 0o644 });

function writeToModel(file: ModelFile, start: number, value: string): void {
  const padded = file.contents.padEnd(start, "\0");
  file.contents = padded.slice(0, start) + value + padded.slice(start + value.length);
}

function removeFromModel(model: Model, p: Path, kind: "unlink" | "rmdir"): void {
  const [parent, last] = split(p);
  const dir = model.dir(parent);
  const node = dir.entries.get(last) ?? fail("not-found");
  if (kind === "unlink" && node.kind === "directory") return fail("is-directory");
  if (kind === "rmdir") checkEmpty(node);
  dir.entries.delete(last);
}

function checkEmpty(node: ModelNode): void {
  if (node.kind !== "directory") return fail("not-directory");
  if (node.entries.size > 0 || node.snapshots.size > 0) fail("not-empty");
}

function linkInModel(model: Model, from: Path, to: Path): void {
  const node = model.find(from);
  const [parent, last] = split(to);
  const dir = model.dir(parent);
  if (dir.entries.has(last)) return fail("exists");
  if (node.kind === "directory") return fail("not-permitted");
  dir.entries.set(last, node);
}

function renameInModel(model: Model, op: { op: string; path: Path; to: Path }): void {
  const [fromParent, fromName] = split(op.path);
  const [toParent, toName] = split(op.to);
  const from = model.dir(fromParent);
  const to = model.dir(toParent);
  const source = from.entries.get(fromName) ?? fail("not-found");
  const target = to.entries.get(toName);
  if (op.op === "exchange") {
    if (!target) return fail("not-found");
    if (model.isInside(source, to) || model.isInside(target, from)) return fail("invalid");
    from.entries.set(fromName, target);
    to.entries.set(toName, source);
    return;
  }
  if (model.isInside(source, to)) return fail("invalid");
  if (target?.kind === "directory" && model.isInside(target, from)) return fail("not-empty");
  if (source === target) return;
  if (target?.kind === "directory") {
    if (source.kind === "file") return fail("is-directory");
    checkEmpty(target);
  } else if (target && source.kind === "directory") return fail("not-directory");
  from.entries.delete(fromName);
  to.entries.set(toName, source);
}

/** The same operation on the real namespace. */
async function applyToReal(real: TestNamespace, op: Op): Promise<void> {
  const find = (p: Path): Ino => resolve(real, p);
  const owner = { uid: 0, gid: 0 };
  const isOpen = (): boolean => false;
  switch (op.op) {
    case "create": {
      const wanted = { ...named(real, op.path), mode: 0o644, exclusive: true, ...owner };
      await real.run((txn) => createFile(txn, wanted));
      return;
    }
    case "mkdir": {
      const wanted = { ...named(real, op.path), mode: 0o755, ...owner };
      await real.run((txn) => makeDirectory(txn, wanted));
      return;
    }
    case "unlink":
      await real.run((txn) => unlink(txn, { ...named(real, op.path), isOpen }));
      return;
    case "rmdir":
      await real.run((txn) => removeDirectory(txn, named(real, op.path)));
      return;
    case "write":
      return real.write(regular(real, op.path), op.index, op.value);
    case "truncate":
      return real.truncate(regular(real, op.path), op.size);
    case "chmod": {
      const ino = regular(real, op.path);
      await real.run((txn) => setAttributes(txn, ino, { mode: op.mode }));
      return;
    }
    case "tag": {
      const ino = regular(real, op.path);
      const value = Buffer.from(op.value);
      await real.run((txn) => setXattr(txn, { ino, name: tagName, value, mode: "any" }));
      return;
    }
    case "untag": {
      const ino = regular(real, op.path);
      await real.run((txn) => removeXattr(txn, { ino, name: tagName }));
      return;
    }
    case "tmpfile":
      return makeTmpfile(real, named(real, op.path));
    case "link": {
      const wanted = { ino: find(op.path), ...named(real, op.to) };
      await real.run((txn) => makeLink(txn, wanted));
      return;
    }
    case "rename":
    case "exchange": {
      const [from, to] = [named(real, op.path), named(real, op.to)];
      const flags = { noReplace: false, exchange: op.op === "exchange", isOpen };
      const target = { newParent: to.parent, newName: to.name };
      await real.run((txn) => rename(txn, { ...from, ...target, ...flags }));
      return;
    }
    case "snapshot":
      await real.snapshot(directory(real, op.path), op.name);
      return;
    case "drop":
      return real.dropSnapshot(directory(real, op.path), op.name);
    case "reclaim":
      return real.reclaim();
  }
}

const tagName = Buffer.from("user.tag");

/** O_TMPFILE, a write, and link(2). */
async function makeTmpfile(real: TestNamespace, to: { parent: Ino; name: Buffer }): Promise<void> {
  const wanted = { parent: to.parent, mode: 0o644, uid: 0, gid: 0, linkable: true };
  const { ino } = await real.run((txn) => createTmpfile(txn, wanted));
  await real.write(ino, 0, "tmp\0");
  try {
    await real.run((txn) => makeLink(txn, { ino, ...to }));
  } catch (error) {
    await real.run((txn) => {
      txn.put("orphan", orphanKey(ino), undefined);
      discard(txn, ino, false);
    });
    throw error;
  }
}

function resolve(real: TestNamespace, p: Path): Ino {
  let ino: Ino = rootIno;
  for (const part of p) ino = real.reader.lookup(ino, Buffer.from(part), undefined).ino;
  return ino;
}

function isDirectory(real: TestNamespace, ino: Ino): boolean {
  return (real.reader.getattr(ino, undefined).mode & 0o170000) === 0o040000;
}

function directory(real: TestNamespace, p: Path): Ino {
  const ino = resolve(real, p);
  return isDirectory(real, ino) ? ino : fail("not-directory");
}

function regular(real: TestNamespace, p: Path): Ino {
  const ino = resolve(real, p);
  return isDirectory(real, ino) ? fail("is-directory") : ino;
}

function named(real: TestNamespace, p: Path): { parent: Ino; name: Buffer } {
  const [parent, last] = split(p);
  return { parent: directory(real, parent), name: Buffer.from(last) };
}

/** Every snapshot that the model has, with where it is. */
function* modelSnapshots(node: ModelNode, at: Path): Iterable<[Path, string, unknown]> {
  if (node.kind === "file") return;
  for (const [label, tree] of node.snapshots) yield [at, label, tree];
  for (const [part, child] of node.entries) yield* modelSnapshots(child, [...at, part]);
}

async function compare(ops: readonly Op[]): Promise<void> {
  const model = new Model();
  const real = new TestNamespace(await newTestStore());
  for (const op of ops) {
    const [expected, actual] = [
      await outcome(() => applyToModel(model, op)),
      await outcome(() => applyToReal(real, op)),
    ];
    if (expected !== actual) throw new Error(`${op.op}: model ${expected}, real ${actual}`);
  }
  same("live tree", real.tree(), model.tree());
  for (const [where, label, tree] of modelSnapshots(model.root, [])) {
    const dir = directory(real, where);
    const found = real.committer.snapshots.find(dir, Buffer.from(label));
    const at: Epoch = found?.epoch ?? fail("internal");
    same(`snapshot ${label} of /${where.join("/")}`, real.tree(dir, at), tree);
  }
  const wrong = real.check();
  if (wrong.length > 0) throw new Error(wrong.join("; "));
  await real.reclaim();
  same("live tree after reclaiming", real.tree(), model.tree());
}

function same(what: string, actual: unknown, expected: unknown): void {
  const [one, two] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (one !== two) throw new Error(`${what}:\n  is     ${one}\n  should ${two}`);
}

t.test("any sequence of operations does what the toy model does, in snapshots too", async (t) => {
  const seed = Number(process.env["GFS_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  t.comment(`GFS_SEED=${seed}`);
  const numRuns = Number(process.env["GFS_RUNS"] ?? 250);
  const sequences = fc.array(operation, { maxLength: 60, size: "max" });
  const result = await fc.check(fc.asyncProperty(sequences, compare), { seed, numRuns });
  t.equal(result.failed, false, fc.defaultReportMessage(result) ?? "all sequences agree");
});

t.test("when all files and snapshots are gone, nothing is left of them", async (t) => {
  const real = new TestNamespace(await newTestStore());
  await applyToReal(real, { op: "mkdir", path: ["a"] });
  await applyToReal(real, { op: "create", path: ["a", "b"] });
  for (const index of [0, 1, 2]) {
    await applyToReal(real, { op: "write", path: ["a", "b"], index, value: "abcd" });
  }
  await applyToReal(real, { op: "snapshot", path: [], name: "s1" });
  await applyToReal(real, { op: "write", path: ["a", "b"], index: 1, value: "wxyz" });
  await applyToReal(real, { op: "snapshot", path: ["a"], name: "s2" });
  await applyToReal(real, { op: "truncate", path: ["a", "b"], size: 6 });
  await applyToReal(real, { op: "unlink", path: ["a", "b"] });
  await real.reclaim();
  t.equal(real.chunks.size, 4, "three chunks of s1, and the second as s2 has it");
  await applyToReal(real, { op: "drop", path: ["a"], name: "s2" });
  await applyToReal(real, { op: "drop", path: [], name: "s1" });
  await applyToReal(real, { op: "rmdir", path: ["a"] });
  await real.reclaim();
  t.equal(real.chunks.size, 0, "no chunk is left");
  await applyToReal(real, { op: "tmpfile", path: ["t"] });
  await applyToReal(real, { op: "tag", path: ["t"], value: "x" });
  await applyToReal(real, { op: "unlink", path: ["t"] });
  await real.reclaim();
  const tables = ["entry", "link", "chunkmap", "xattr", "chunk", "history", "trash", "orphan"];
  for (const table of tables as Table[]) {
    t.equal(real.store.count(table), 0, `table ${table} is empty`);
  }
  t.equal(real.store.count("inode"), 1, "only the root is left");
});
