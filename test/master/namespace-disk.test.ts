import fc from "fast-check";
import t from "tap";
import { aclTag, encodeAcl } from "../../master/namespace/acl.ts";
import { setAttributes } from "../../master/namespace/ops/attributes.ts";
import { truncate } from "../../master/namespace/ops/contents.ts";
import {
  createFile,
  makeDirectory,
  makeNode,
  makeSymlink,
} from "../../master/namespace/ops/create.ts";
import { makeLink, removeDirectory, unlink } from "../../master/namespace/ops/link.ts";
import { rename } from "../../master/namespace/ops/rename.ts";
import { removeXattr, setXattr } from "../../master/namespace/ops/xattrs.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import { type Ino, rootIno } from "../../protocol/id.ts";
import type { Attr } from "../../protocol/shapes.ts";
import { StatusError, statusErrno } from "../../protocol/status.ts";
import { type DiskNode, type DiskOp, type DiskStep, runOnDisk } from "../support/disk-control.ts";
import { chunkBytes, TestNamespace } from "../support/namespace.ts";
import { outcome } from "../support/outcome.ts";

/**
 * The same sequences of system calls on the namespace and on the local disk: equal errors, and
 * after every step an equal tree, times that have moved included. What the kernel does for every
 * filesystem before it asks one is done here by `Kernel`.
 */

const typeMask = 0o170000;
const isDir = (attr: { mode: number }): boolean => (attr.mode & typeMask) === 0o040000;
const isRegular = (attr: { mode: number }): boolean => (attr.mode & typeMask) === 0o100000;
const isLink = (attr: { mode: number }): boolean => (attr.mode & typeMask) === 0o120000;
const fail = (status: ConstructorParameters<typeof StatusError>[0]): never => {
  throw new StatusError(status, "kernel");
};

class Kernel {
  readonly #real: TestNamespace;

  constructor(real: TestNamespace) {
    this.#real = real;
  }

  #walk(path: readonly string[]): Attr {
    let attr = this.#real.reader.getattr(rootIno, undefined);
    for (const name of path) {
      if (isLink(attr)) return fail("not-found");
      attr = this.#real.reader.lookup(attr.ino, Buffer.from(name), undefined);
    }
    return attr;
  }

  find(path: string): Attr {
    return this.#walk(path.split("/"));
  }

  place(path: string): { parent: Ino; name: Buffer } {
    const parts = path.split("/");
    const name = Buffer.from(parts.pop() ?? "");
    const dir = this.#walk(parts);
    if (isLink(dir)) return fail("not-found");
    if (!isDir(dir)) return fail("not-directory");
    return { parent: dir.ino, name };
  }

  /** Of a call that follows symlinks: these are dangling or loops here. */
  followed(path: string): Attr {
    const attr = this.find(path);
    return isLink(attr) ? fail("not-found") : attr;
  }

  run(op: DiskOp): Promise<unknown> {
    const real = this.#real;
    const owner = { uid: 0, gid: 0 };
    const isOpen = (): boolean => false;
    switch (op.op) {
      case "create": {
        const wanted = { ...this.place(op.path), mode: op.mode, umask: op.umask, ...owner };
        return real.run((txn) => createFile(txn, { ...wanted, exclusive: true }));
      }
      case "mkdir": {
        const { umask } = op;
        const wanted = { ...this.place(op.path), mode: op.mode & 0o1777, umask, ...owner };
        return real.run((txn) => makeDirectory(txn, wanted));
      }
      case "mkfifo":
      case "mknod": {
        const { umask } = op;
        const mode = op.mode | (op.op === "mkfifo" ? 0o010000 : 0o020000);
        const wanted = { ...this.place(op.path), mode, umask, rdev: 0x103, ...owner };
        return real.run((txn) => makeNode(txn, wanted));
      }
      case "symlink": {
        const wanted = { ...this.place(op.path), target: Buffer.from(op.target), ...owner };
        return real.run((txn) => makeSymlink(txn, wanted));
      }
      case "link": {
        const { ino } = this.find(op.path);
        const place = this.place(op.to);
        return real.run((txn) => makeLink(txn, { ino, ...place }));
      }
      case "rename":
        return this.#rename(op);
      case "unlink": {
        const place = this.place(op.path);
        return real.run((txn) => unlink(txn, { ...place, isOpen }));
      }
      case "rmdir": {
        const place = this.place(op.path);
        return real.run((txn) => removeDirectory(txn, place));
      }
      default:
        return this.#change(op);
    }
  }

  #rename(op: Extract<DiskOp, { op: "rename" }>): Promise<unknown> {
    if ((op.flags & 2) !== 0 && (op.flags & 5) !== 0) return fail("invalid");
    const [from, to] = [this.place(op.path), this.place(op.to)];
    const wanted = {
      ...{ ...from, newParent: to.parent, newName: to.name, isOpen: () => false },
      ...{ noReplace: (op.flags & 1) !== 0, exchange: (op.flags & 2) !== 0 },
      whiteout: (op.flags & 4) === 0 ? undefined : { uid: 0, gid: 0 },
    };
    return this.#real.run((txn) => rename(txn, wanted));
  }

  #change(
    op: Extract<DiskOp, { op: "chmod" | "chown" | "truncate" | "utimens" | `${string}xattr` }>,
  ): Promise<unknown> {
    const real = this.#real;
    switch (op.op) {
      case "chmod": {
        const { ino } = this.followed(op.path);
        return real.run((txn) => setAttributes(txn, ino, { mode: op.mode }));
      }
      case "chown": {
        const attr = this.find(op.path);
        const uid = op.uid === -1 ? undefined : op.uid;
        const gid = op.gid === -1 ? undefined : op.gid;
        const changes = { uid, gid, killSuidGid: !isDir(attr) };
        return real.run((txn) => setAttributes(txn, attr.ino, changes));
      }
      case "truncate": {
        const attr = this.followed(op.path);
        if (isDir(attr)) return fail("is-directory");
        if (!isRegular(attr)) return fail("invalid");
        return real.run((txn) => truncate(txn, { ino: attr.ino, size: op.size, chunkBytes }));
      }
      case "utimens": {
        const attr = this.find(op.path);
        // Python gives both times; what it gives back is the one there was.
        const atime = op.atime === null ? attr.atime : BigInt(op.atime);
        const mtime = op.mtime === null ? attr.mtime : BigInt(op.mtime);
        return real.run((txn) => setAttributes(txn, attr.ino, { atime, mtime }));
      }
      case "setxattr":
      case "removexattr":
        return this.#xattr(op);
    }
  }

  #xattr(op: Extract<DiskOp, { op: `${string}xattr` }>): Promise<unknown> {
    const attr = this.find(op.path);
    const { ino } = attr;
    const name = Buffer.from(op.name);
    const isAcl = op.name.startsWith("system.posix_acl_");
    if (isAcl && isLink(attr)) return fail("not-supported");
    if (op.name.startsWith("user.") && !isRegular(attr) && !isDir(attr)) {
      return fail("not-permitted");
    }
    if (op.op === "removexattr") return this.#real.run((txn) => removeXattr(txn, { ino, name }));
    const value = Buffer.from(op.value, "hex");
    const mode = isAcl ? "any" : ((["any", "create", "replace"] as const)[op.flags] ?? "any");
    return this.#real.run((txn) => setXattr(txn, { ino, name, value, mode }));
  }

  /** As the control shows it. `times` has those of the last step, and is moved on. */
  tree(times: Map<Ino, bigint[]>): Record<string, DiskNode> {
    const { reader } = this.#real;
    const nodes: Record<string, DiskNode> = {};
    const seen = new Map<Ino, bigint[]>();
    const visit = (attr: Attr, name: string): void => {
      const { ino, mode, nlink, uid, gid, rdev, atime, mtime, ctime } = attr;
      const now = [atime, mtime, ctime];
      const old = times.get(ino);
      const letters = [isLink(attr) ? "" : "a", "m", "c"];
      const moved = letters.filter((_, i) => old && old[i] !== now[i]).join("");
      seen.set(ino, now);
      const size = isRegular(attr) || isLink(attr) ? attr.size : 0;
      const target = isLink(attr) ? reader.readlink(ino, undefined).toString() : null;
      const xattrs: Record<string, string> = {};
      for (const key of reader.listxattr(ino, undefined)) {
        xattrs[key.toString()] = reader.getxattr(ino, key, undefined).toString("hex");
      }
      if (Object.keys(xattrs).length !== attr.xattrs) throw new Error(`${name}: xattrs miscounted`);
      nodes[name] = { mode, nlink, uid, gid, size, rdev, target, xattrs, moved };
      if (!isDir(attr)) return;
      const { entries } = reader.readdir(ino, undefined, { after: undefined, limit: 1000 });
      for (const entry of entries) {
        const child = entry.name.toString();
        visit(entry.attr, name === "." ? child : `${name}/${child}`);
      }
    };
    visit(reader.getattr(rootIno, undefined), ".");
    times.clear();
    for (const [ino, now] of seen) times.set(ino, now);
    return nodes;
  }
}

const name = fc.constantFrom("a", "b", "c");
const path = fc.oneof(
  name,
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom("a", "b"), name).map((p) => p.join("/")) },
  fc.array(name, { minLength: 3, maxLength: 3 }).map((parts) => parts.join("/")),
);
const umask = fc.constantFrom(0, 0o22, 0o77);
const mode = fc.oneof(
  fc.constantFrom(0o644, 0o755, 0o777, 0o6777, 0o2755, 0o4644, 0o2644, 0o1777),
  fc.nat({ max: 0o7777 }),
);
const perms = fc.nat({ max: 7 });
/** Mostly valid. */
const acl = fc
  .record({
    ...{ owner: perms, group: perms, other: perms, user: fc.option(perms), mask: fc.option(perms) },
    wrong: fc.integer({ min: 0, max: 9 }),
  })
  .map(({ owner, group, other, user, mask, wrong }) => {
    const id = 0xffff_ffff;
    const masked = mask ?? (user === null || wrong === 0 ? null : 7);
    const entries = [
      { tag: aclTag.userObject, permissions: owner, id },
      ...(user === null ? [] : [{ tag: aclTag.user, permissions: user, id: 1000 }]),
      { tag: aclTag.groupObject, permissions: group, id },
      ...(masked === null ? [] : [{ tag: aclTag.mask, permissions: masked, id }]),
      { tag: aclTag.other, permissions: other, id },
    ];
    return encodeAcl(wrong === 1 ? entries.slice(1) : entries).toString("hex");
  });
const nanoseconds = fc.option(fc.bigInt({ min: -(10n ** 17n), max: 4n * 10n ** 18n }).map(String));
const xattrName = fc.constantFrom("user.a", "user.b", "trusted.a", "security.a", "system.x", "x");
const aclName = fc.constantFrom("system.posix_acl_access", "system.posix_acl_default");

const operation = fc.oneof(
  { weight: 4, arbitrary: fc.record({ op: fc.constant("create"), path, mode, umask }) },
  { weight: 5, arbitrary: fc.record({ op: fc.constant("mkdir"), path, mode, umask }) },
  fc.record({ op: fc.constantFrom("mkfifo", "mknod"), path, mode, umask }),
  fc.record({ op: fc.constant("symlink"), path, target: fc.constantFrom("nowhere", "x/y") }),
  { weight: 2, arbitrary: fc.record({ op: fc.constant("link"), path, to: path }) },
  {
    weight: 4,
    arbitrary: fc.record({
      ...{ op: fc.constant("rename"), path, to: path },
      flags: fc.constantFrom(0, 0, 0, 1, 2, 2, 4, 3, 6),
    }),
  },
  fc.record({ op: fc.constantFrom("unlink", "rmdir"), path }),
  { weight: 2, arbitrary: fc.record({ op: fc.constant("chmod"), path, mode }) },
  fc.record({
    ...{ op: fc.constant("chown"), path },
    ...{ uid: fc.constantFrom(-1, 0, 1000), gid: fc.constantFrom(-1, 0, 1000) },
  }),
  fc.record({ op: fc.constant("truncate"), path, size: fc.constantFrom(0, 1, 100) }),
  fc.record({ op: fc.constant("utimens"), path, atime: nanoseconds, mtime: nanoseconds }),
  fc.record({
    ...{ op: fc.constant("setxattr"), path, name: xattrName },
    ...{ value: fc.constantFrom("", "00ff", "61"), flags: fc.nat({ max: 2 }) },
  }),
  {
    weight: 4,
    arbitrary: fc.record({
      ...{ op: fc.constant("setxattr"), path, name: aclName, value: acl, flags: fc.constant(0) },
    }),
  },
  fc.record({ op: fc.constant("removexattr"), path, name: fc.oneof(xattrName, aclName) }),
) as fc.Arbitrary<DiskOp>;

/** A step line by line, what cannot be compared left out. */
function comparable(step: DiskStep, fine: boolean): string[] {
  const tree = Object.entries(step.tree).map(([where, node]) => {
    const compared = fine ? node : { ...node, moved: "" };
    return `${where} ${compared.mode.toString(8)} ${JSON.stringify(compared)}`;
  });
  return [step.outcome, ...tree];
}

async function difference(
  ops: readonly DiskOp[],
  disk: readonly DiskStep[],
  fine: boolean,
): Promise<string | undefined> {
  const real = new TestNamespace(createMemoryStore());
  const kernel = new Kernel(real);
  const times = new Map<Ino, bigint[]>();
  kernel.tree(times);
  for (const [i, op] of ops.entries()) {
    const status = await outcome(async () => {
      await kernel.run(op);
    });
    const is = { outcome: status === "ok" ? "ok" : statusErrno(status), tree: kernel.tree(times) };
    const should = disk[i];
    if (!should) throw new Error("the control has lost a step");
    // ext4 makes a whiteout before it finds out that it cannot rename, and times move.
    const failed = op.op === "rename" && (op.flags & 4) !== 0 && should.outcome !== "ok";
    const [one, two] = [is, should].map((step) => comparable(step, fine && !failed));
    if (!one || !two) throw new Error("two sides");
    const odd = one.filter((line) => !two.includes(line));
    const missing = two.filter((line) => !one.includes(line));
    if (odd.length + missing.length === 0) continue;
    const before = ops.slice(0, i + 1).map((o) => JSON.stringify(o));
    return [...before, "--- is", ...odd, "--- on disk", ...missing].join("\n");
  }
  const wrong = real.check();
  return wrong.length > 0 ? wrong.join("; ") : undefined;
}

t.test("any sequence of system calls does what it does on the local disk", async (t) => {
  const seed = Number(process.env["GFS_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  t.comment(`GFS_SEED=${seed}`);
  const numRuns = Number(process.env["GFS_RUNS"] ?? 40);
  const arbitrary = fc.array(operation, { minLength: 10, maxLength: 40, size: "max" });
  const start: DiskOp[] = ["a", "b", "a/c"].map((path) => ({
    ...{ op: "mkdir", path, mode: 0o777, umask: 0 },
  }));
  const sequences = fc.sample(arbitrary, { seed, numRuns }).map((ops) => [...start, ...ops]);
  const control = runOnDisk(sequences);
  if (typeof control === "string") {
    t.pass("there is no control here", { skip: control });
    return;
  }
  if (!control.fine) t.comment("the disk's times are too coarse to be compared");
  const outcomes = new Map<string, number>();
  for (const [i, ops] of sequences.entries()) {
    const disk = control.sequences[i] ?? [];
    for (const step of disk) outcomes.set(step.outcome, (outcomes.get(step.outcome) ?? 0) + 1);
    const found = await difference(ops, disk, control.fine);
    if (!found) continue;
    t.comment(found);
    t.fail(`sequence ${i} differs from the disk`);
    return;
  }
  t.comment(`outcomes: ${JSON.stringify(Object.fromEntries(outcomes))}`);
  t.ok((outcomes.get("ok") ?? 0) > numRuns, "many steps succeeded");
});
