import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t from "tap";
import { silentLog } from "../../common/log.ts";
import { systemJournalDirectory } from "../../common/os/journal-file.ts";
import { checkStore } from "../../master/check/check.ts";
import { runCheck } from "../../master/check/command.ts";
import { encodeReply } from "../../master/namespace/committer.ts";
import { makeDirectory, makeNode } from "../../master/namespace/ops/create.ts";
import { makeLink } from "../../master/namespace/ops/link.ts";
import { setXattr } from "../../master/namespace/ops/xattrs.ts";
import { nameKey, numberKey } from "../../master/store/bytes.ts";
import { historyKey } from "../../master/store/history.ts";
import { openLmdbBase } from "../../master/store/lmdb.ts";
import { createMemoryStore } from "../../master/store/memory.ts";
import type { Store, StoreWriter, Table } from "../../master/store/store.ts";
import * as tables from "../../master/store/tables.ts";
import { encodeCbor } from "../../protocol/codec.ts";
import { type Ino, ino as toIno, rootIno, serverId } from "../../protocol/id.ts";
import { chunkHandle as toHandle, epoch } from "../../protocol/id.ts";
import { openRealStore } from "../support/journaled-store.ts";
import { TestNamespace } from "../support/namespace.ts";

const owner = { uid: 0, gid: 0 };
const key = numberKey;

interface Made {
  dir: Ino;
  inner: Ino;
  file: Ino;
  linked: Ino;
}

/** A little of everything: directories, chunks, links, attributes, a snapshot with history. */
async function fill(real: TestNamespace): Promise<Made> {
  const name = (text: string): Buffer => Buffer.from(text);
  const make = (parent: Ino, text: string, isDir: boolean): Promise<Ino> =>
    real.run((txn) => {
      const mode = isDir ? 0o40755 : 0o100644;
      const wanted = { parent, name: name(text), mode, umask: 0, rdev: 0, ...owner };
      return isDir ? makeDirectory(txn, wanted).ino : makeNode(txn, wanted).ino;
    });
  const dir = await make(rootIno, "dir", true);
  const inner = await make(dir, "inner", true);
  const file = await make(inner, "file", false);
  const linked = await make(inner, "linked", false);
  await real.run((txn) => makeLink(txn, { ino: linked, parent: dir, name: name("again") }));
  for (const index of [0, 1]) await real.write(file, index, "abcd");
  await real.run((txn) => {
    setXattr(txn, { ino: file, name: name("user.a"), value: name("b"), mode: "any" });
  });
  await real.snapshot(dir, "s");
  await real.write(file, 1, "wxyz");
  await real.run((txn) => {
    txn.put("session", key(1, 0), encodeReply({ secret: "x", mountpoint: "/m", name: "n" }));
    txn.put("session", key(1, 4), encodeReply({}));
  });
  return { dir, inner, file, linked };
}

function faultsOf(store: Store): string[] {
  const faults: string[] = [];
  checkStore(store, (text) => faults.push(text));
  return faults;
}

function flipped(store: Store, table: Table, at: Buffer): Buffer {
  const record = Buffer.from(store.get(table, at) ?? Buffer.from("none"));
  record[record.length - 1] = (record.at(-1) ?? 0) ^ 1;
  return record;
}

type Damage = (writer: StoreWriter, made: Made, store: Store) => void;

const inodeWith =
  (which: keyof Made, change: Partial<tables.Inode>): Damage =>
  (writer, made, store) => {
    const inode = tables.decodeInode(store.get("inode", key(made[which])) ?? Buffer.alloc(0));
    writer.put("inode", key(made[which]), tables.encodeInode({ ...inode, ...change }));
  };

const chunkWith =
  (handle: number, change: Partial<tables.Chunk>): Damage =>
  (writer, _made, store) => {
    const chunk = tables.decodeChunk(store.get("chunk", key(handle)) ?? Buffer.alloc(0));
    writer.put("chunk", key(handle), tables.encodeChunk({ ...chunk, ...change }));
  };

/** Inodes: dir 2, inner 3, file 4, linked 5. Chunks 1, 2 (in history too) and 3. */
const damages: readonly (readonly [name: string, damage: Damage, faults: readonly RegExp[]])[] = [
  [
    "an inode's record",
    (w, { linked }, s) => w.put("inode", key(linked), flipped(s, "inode", key(linked))),
    [/^inode 5: the record is damaged$/],
  ],
  [
    "an inode too old",
    inodeWith("file", { since: epoch(99) }),
    [/inode 4: was written in epoch 99/],
  ],
  ["a count of chunks", inodeWith("file", { chunks: 3 }), [/inode 4: counts 3 chunks, 2 are/]],
  ["a count of attributes", inodeWith("file", { xattrs: 0 }), [/inode 4: counts 0 attributes, 1/]],
  ["a parent", inodeWith("file", { parent: toIno(2) }), [/"file" of directory 3: .* parent is 2/]],
  [
    "a directory's links",
    inodeWith("dir", { nlink: 4 }),
    [/^inode 2: counts 4 links, its directories make 3$/],
  ],
  [
    "a directory inside of itself",
    (w, made, s) => {
      inodeWith("dir", { parent: toIno(3), nlink: 3 })(w, made, s);
      w.remove("entry", nameKey(1, Buffer.from("dir")));
      const entry = { since: epoch(1), ino: toIno(2), type: 0o040000 };
      w.put("entry", nameKey(3, Buffer.from("dir")), tables.encodeEntry(entry));
      const inner = tables.decodeInode(s.get("inode", key(3)) ?? Buffer.alloc(0));
      w.put("inode", key(3), tables.encodeInode({ ...inner, nlink: 3 }));
      const root = tables.decodeInode(s.get("inode", key(1)) ?? Buffer.alloc(0));
      w.put("inode", key(1), tables.encodeInode({ ...root, nlink: 2 }));
    },
    [/^inode \d: a directory inside of itself$/],
  ],
  [
    "an entry that is gone",
    (w) => w.remove("entry", nameKey(3, Buffer.from("file"))),
    [/inode 4: counts 1 links, has 0/, /inode 4: no entry leads to it/],
  ],
  [
    "an entry's record",
    (w, _made, s) => {
      const at = nameKey(3, Buffer.from("file"));
      w.put("entry", at, flipped(s, "entry", at));
    },
    [/"file" of directory 3: the record is damaged/, /inode 4: counts/, /inode 4: no entry/],
  ],
  [
    "an entry of nothing",
    (w) => {
      const entry = { since: epoch(1), ino: toIno(77), type: 0o100000 };
      w.put("entry", nameKey(3, Buffer.from("ghost")), tables.encodeEntry(entry));
    },
    [/"ghost" of directory 3: inode 77 does not exist/],
  ],
  [
    "an entry of another type",
    (w) => {
      const entry = { since: epoch(1), ino: toIno(4), type: 0o120000 };
      w.put("entry", nameKey(3, Buffer.from("file")), tables.encodeEntry(entry));
    },
    [/"file" of directory 3: says type 120000/],
  ],
  [
    "a link's count",
    (w) => w.put("link", key(5, 2), tables.encodeLink({ since: epoch(1), count: 2 })),
    [/inode 5: counts 2 links, its parents count 3/, /inode 5: directory 2 has 1 fewer/],
  ],
  [
    "a chunk of nobody",
    (w) => {
      const ref = { since: epoch(1), handle: toHandle(1) };
      w.put("chunkmap", key(9, 0), tables.encodeChunkRef(ref));
    },
    [/chunkmap of inode 9: there is no such inode/, /chunk 1: counts 1 references, 2/],
  ],
  ["a count of references", chunkWith(1, { refs: 2 }), [/chunk 1: counts 2 references, 1 name it/]],
  ["references in history", chunkWith(2, { refs: 2 }), [/chunk 2: counts 2 references, 1 name it/]],
  [
    "an unknown server",
    chunkWith(1, { servers: [serverId(9)] }),
    [/chunk 1: server 9 of its set is not known/],
  ],
  [
    "a chunk that is gone",
    (w) => w.remove("chunk", key(1)),
    [/chunk 1: 1 rows name it, there is no record/],
  ],
  [
    "a chunk's record",
    (w, _made, s) => w.put("chunk", key(1), flipped(s, "chunk", key(1))),
    [/^chunk 1: the record is damaged$/],
  ],
  [
    "an attribute of nobody",
    (w, _made, s) => {
      const value = s.get("xattr", nameKey(4, Buffer.from("user.a"))) ?? Buffer.alloc(0);
      w.put("xattr", nameKey(9, Buffer.from("user.a")), value);
    },
    [/xattr of inode 9: there is no such inode/],
  ],
  [
    "an orphan with links",
    (w) => w.put("orphan", key(4), Buffer.alloc(0)),
    [/orphan 4: inode 4 has links/],
  ],
  [
    "trash of nothing",
    (w) => w.put("trash", key(5, 99), Buffer.alloc(0)),
    [/trash 99: inode 99 does not exist/],
  ],
  [
    "overlapping history",
    (w, _made, s) => {
      const current = s.get("chunkmap", key(4, 0)) ?? Buffer.alloc(0);
      w.put("history", historyKey("chunkmap", key(4, 0), 2), current);
    },
    [/history of chunkmap .* until 2: overlaps the current record/, /chunk 1: counts 1 ref.*, 2/],
  ],
  [
    "history from the future",
    (w, _made, s) => {
      const current = s.get("entry", nameKey(1, Buffer.from("dir"))) ?? Buffer.alloc(0);
      w.put("history", historyKey("entry", nameKey(1, Buffer.from("old")), 99), current);
    },
    [/history of entry .* until 99: it begins in epoch/],
  ],
  [
    "a snapshot of nothing",
    (w) => {
      const snapshot = { epoch: epoch(1), createdAt: 0n };
      w.remove("snapshot", nameKey(2, Buffer.from("s")));
      w.put("snapshot", nameKey(70, Buffer.from("s")), tables.encodeSnapshot(snapshot));
    },
    [/snapshot "s" of directory 70: the directory is not in history/],
  ],
  [
    "a reply of no session",
    (w) => w.put("session", key(8, 3), encodeReply({})),
    [/reply 3 of session 8: there is no such session/],
  ],
  [
    "a session's record",
    (w, _made, s) => w.put("session", key(1, 4), flipped(s, "session", key(1, 4))),
    [/reply 4 of session 1: the record is damaged/],
  ],
  [
    "an id counter that went back",
    (w) => w.put("meta", Buffer.from("next:ino"), encodeCbor(5)),
    [/inode 5: this id was never given out/],
  ],
  [
    "an epoch that went back",
    (w) => w.put("meta", Buffer.from("epoch"), encodeCbor(1)),
    [
      /inode 4: was written in epoch 2/,
      /chunk 1 of/,
      /until 2/,
      /until 2/,
      /snapshot "s" of directory 2: is of epoch 1, now is 1/,
    ],
  ],
  [
    "an unknown number",
    (w) => w.put("meta", Buffer.from("what"), encodeCbor(1)),
    [/meta what: is not known/],
  ],
];

for (const [name, damage, expected] of damages) {
  t.test(`the check finds ${name}, and nothing else`, async (t) => {
    const store = createMemoryStore();
    const made = await fill(new TestNamespace(store));
    t.same(faultsOf(store), [], "it was clean before");
    store.write((writer) => damage(writer, made, store));
    const faults = faultsOf(store);
    t.equal(faults.length, expected.length, faults.join("; "));
    for (const [i, pattern] of expected.entries()) t.match(faults[i], pattern);
  });
}

t.test("the check sees what is only in a journal, and changes no byte", async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), "gfs-check-test-"));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const store = await openRealStore(directory);
  const made = await fill(new TestNamespace(store));
  await store.synced();
  store.write((writer) => inodeWith("file", { chunks: 7 })(writer, made, store));
  await store.synced();
  // The store is not closed: as after kill -9, its rows are in the journal alone.
  const digests = (): string[] =>
    readdirSync(directory)
      .filter((name) => name !== "lock.mdb")
      .map((name) => {
        const bytes = readFileSync(path.join(directory, name));
        return `${name} ${createHash("sha256").update(bytes).digest("hex")}`;
      });
  const before = digests();
  const lines: string[] = [];
  const base = openLmdbBase(directory, { readOnly: true });
  const journals = systemJournalDirectory(directory);
  const code = runCheck({
    base,
    directory: journals,
    log: silentLog,
    print: (line) => lines.push(line),
  });
  await base.close();
  t.equal(code, 2);
  t.match(lines, ["inode 4: counts 7 chunks, 2 are mapped", /^rows: .*inode 5/, "faults: 1"]);
  t.same(digests(), before);
  await store.close();
});
