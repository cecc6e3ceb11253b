import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { type Log, silentLog } from "../../common/log.ts";
import { decodeBatch, encodeBatch } from "../../master/store/batch.ts";
import { encodeJournalHead } from "../../master/store/journal.ts";
import type { Store } from "../../master/store/store.ts";
import { StatusError } from "../../protocol/status.ts";
import { JournalDisk, turn } from "../support/journal-disk.ts";
import { openRealStore } from "../support/journaled-store.ts";

/** Journals on a real disk: torn, damaged, foreign, and on a disk that is full. */

const directory = mkdtempSync(path.join(tmpdir(), "gfs-journal-"));
t.teardown(() => rmSync(directory, { recursive: true, force: true }));
let made = 0;

const put = (store: Store, n: number, bytes = 10): void =>
  store.write((writer) => writer.put("meta", Buffer.from(`k${n}`), Buffer.alloc(bytes, n)));

const keys = (store: Store): string =>
  [...store.range("meta", { from: Buffer.alloc(0) })].map(({ key }) => key.toString()).join(" ");

const journals = (data: string): string[] =>
  readdirSync(data).filter((name) => name.startsWith("journal"));

/** The files of a master that was killed after commits 1, 2 and 3. */
async function killed(): Promise<{ data: string; journal: string }> {
  const live = path.join(directory, `live${(made += 1)}`);
  const store = await openRealStore(live);
  for (const n of [1, 2, 3]) put(store, n);
  const data = path.join(directory, `killed${made}`);
  mkdirSync(data);
  for (const name of ["data.mdb", ...journals(live)]) {
    copyFileSync(path.join(live, name), path.join(data, name));
  }
  await store.close();
  const [name] = journals(data);
  return { data, journal: path.join(data, name ?? "no journal") };
}

async function found(data: string): Promise<{ keys: string; events: string[] }> {
  const events: string[] = [];
  const note = (event: string): void => void events.push(event);
  const log: Log = { ...silentLog, warn: note, error: note };
  const store = await openRealStore(data, { log });
  const is = { keys: keys(store), events };
  // It takes commits, and keeps them, after whatever it was opened on.
  put(store, 9);
  await store.close();
  const again = await openRealStore(data);
  t.equal(keys(again), `${is.keys} k9`.trim());
  await again.close();
  return is;
}

t.test("the journal is read when the master starts", async (t) => {
  const { data } = await killed();
  t.same(await found(data), { keys: "k1 k2 k3", events: [] });
});

t.test("recovery ends where a journal is torn, wherever that is, and says so", async (t) => {
  const { journal, data: whole } = await killed();
  const { size } = statSync(journal);
  const seen = new Set<string>();
  for (let cut = 44; cut < size; cut += 7) {
    const data = path.join(directory, `cut${cut}`);
    mkdirSync(data);
    for (const name of readdirSync(whole))
      copyFileSync(path.join(whole, name), path.join(data, name));
    truncateSync(path.join(data, path.basename(journal)), cut);
    seen.add((await found(data)).keys);
  }
  t.same([...seen], ["", "k1", "k1 k2"]);
});

t.test("garbage, zeros and a copy of an earlier record at the end are not used", async (t) => {
  const fifth = { table: "meta" as const, key: Buffer.from("k5"), value: Buffer.from("5") };
  const tails: [string, (bytes: Buffer) => Buffer][] = [
    ["zeros", () => Buffer.alloc(5_000)],
    ["garbage", () => Buffer.alloc(5_000, 0xa5)],
    ["an earlier record", (bytes) => bytes.subarray(44)],
    ["a record of another journal", () => encodeBatch(4, [fifth], 7)],
    ["a record after a gap", (bytes) => encodeBatch(5, [fifth], bytes.readUInt32BE(36))],
  ];
  for (const [name, tail] of tails) {
    const { data, journal } = await killed();
    const bytes = readFileSync(journal);
    writeFileSync(journal, Buffer.concat([bytes, tail(bytes)]));
    t.same(await found(data), { keys: "k1 k2 k3", events: ["journal.tail-dropped"] }, name);
  }
});

t.test("a flipped bit anywhere in a record ends recovery before it", async (t) => {
  const { data, journal } = await killed();
  const bytes = readFileSync(journal);
  const second = 44 + (bytes.length - 44) / 3;
  for (let at = second; at < 2 * second - 44; at += 1) {
    const flipped = Buffer.from(bytes);
    flipped.writeUInt8(flipped.readUInt8(at) ^ 0x10, at);
    const salt = flipped.readUInt32BE(36);
    t.equal(decodeBatch(flipped, second, salt), undefined, `byte ${at}`);
  }
  t.ok(data);
});

t.test("a journal that does not belong there is refused in one line, and kept", async (t) => {
  const refused = async (data: string): Promise<string> => {
    const before = journals(data);
    const message = await openRealStore(data).then(
      () => "opened",
      (error: Error) => error.message,
    );
    t.same(journals(data), before, "nothing is removed");
    return message;
  };
  const one = await killed();
  const two = await killed();
  copyFileSync(two.journal, one.journal);
  t.match(await refused(one.data), /^journal-0000000001 belongs to another data\.mdb/);
  const damaged = await killed();
  writeFileSync(damaged.journal, Buffer.alloc(200, 1));
  t.match(await refused(damaged.data), /^journal-0000000001 is damaged/);
  const gap = await killed();
  const id = readFileSync(gap.journal).subarray(12, 28);
  writeFileSync(gap.journal.replace(/1$/, "3"), encodeJournalHead(id, 3, 1));
  t.match(await refused(gap.data), /^journal-0000000002 is missing/);
  const renamed = await killed();
  renameSync(renamed.journal, renamed.journal.replace(/1$/, "2"));
  t.match(await refused(renamed.data), /journal 1 under another's name/);
});

t.test("a journal that was being made when the power went is cleaned up", async (t) => {
  const { data, journal } = await killed();
  writeFileSync(journal.replace(/1$/, "2.new"), "half a h");
  t.equal((await found(data)).keys, "k1 k2 k3");
  t.same(journals(data), []);
});

t.test("on a full disk commits fail with no-space, leave nothing, and go on later", async (t) => {
  const mounted = await smallDisk(t);
  if (!mounted) return;
  const data = path.join(mounted, "master");
  const store = await openRealStore(data, { limits: { retryMs: 20 } });
  const filler = path.join(mounted, "filler");
  put(store, 1);
  writeFileSync(filler, Buffer.alloc(statfsFree(mounted) - 40_000));
  let full = 0;
  for (let n = 2; full < 3 && n < 200; n += 1) {
    const before = keys(store);
    try {
      put(store, n, 4_000);
    } catch (error) {
      t.match(error, { status: "no-space" });
      t.equal(keys(store), before);
      full += 1;
    }
  }
  t.equal(full, 3);
  const before = keys(store);
  rmSync(filler);
  put(store, 999);
  await store.synced();
  await store.close();
  const again = await openRealStore(data);
  t.equal(keys(again), `${before} k999`);
  await again.close();
});

t.test("when fdatasync fails, nothing more is promised until a restart", async (t) => {
  const disk = new JournalDisk();
  const store = await disk.open();
  put(store, 1);
  await store.synced();
  put(store, 2);
  const soon = store.syncedSoon().then(
    () => "synced",
    (error: StatusError) => error.status,
  );
  disk.atStep = (site) => {
    if (site === "journal.sync") throw Object.assign(new Error("EIO"), { code: "EIO" });
  };
  await t.rejects(store.synced(), /the master's disk failed/);
  disk.atStep = () => undefined;
  t.equal(await soon, "io-error");
  await t.rejects(store.synced(), /the master's disk failed/);
  t.throws(() => store.syncNow(), /the master's disk failed/);
  t.throws(() => put(store, 3), /the master's disk failed/);
  t.equal(keys(store), "k1 k2", "what is there can be read");
  disk.end("power", () => 0);
  t.equal(keys(await disk.open()), "k1");
});

t.test("a sync that has begun does not count for what is committed after it", async (t) => {
  const disk = new JournalDisk();
  const store = await disk.open();
  put(store, 1);
  const first = store.synced();
  // It has got as far as the disk.
  for (let i = 0; i < 3; i += 1) await Promise.resolve();
  put(store, 2);
  await store.synced();
  disk.end("power", () => 0);
  await first;
  t.equal(keys(await disk.open()), "k1 k2");
});

t.test("when a checkpoint fails, commits go on, and the next one has them all", async (t) => {
  for (const site of ["journal.rotate", "checkpoint.write", "checkpoint.flush", "journal.remove"]) {
    const disk = new JournalDisk();
    const store = await disk.open();
    put(store, 1);
    let failures = 0;
    disk.atStep = (step) => {
      if (step !== site) return;
      failures += 1;
      throw Object.assign(new Error("ENOSPC"), { code: "ENOSPC" });
    };
    for (let n = 2; n < 5; n += 1) {
      disk.fireTimers();
      for (let i = 0; i < 30; i += 1) await turn();
      put(store, n);
    }
    t.ok(failures > 0, `${site} fails ${failures} times`);
    disk.atStep = () => undefined;
    await store.close();
    disk.end("power", () => 0);
    t.equal(keys(await disk.open()), "k1 k2 k3 k4", site);
  }
});

t.test("a crash at any named step loses nothing that was synced", async (t) => {
  const sites = [
    "journal.append",
    "journal.sync",
    "journal.rotate",
    "checkpoint.write",
    "checkpoint.flush",
    "journal.remove",
  ];
  for (const site of sites) {
    for (const how of ["power", "kill"] as const) {
      const disk = new JournalDisk();
      const store = await disk.open({ sliceRows: 1 });
      put(store, 1);
      put(store, 2);
      await store.synced();
      put(store, 3);
      let crashed = false;
      disk.atStep = (step) => {
        if (step !== site || crashed) return;
        crashed = true;
        disk.end(how, () => 0);
      };
      disk.fireTimers();
      for (let i = 0; i < 50 && !crashed; i += 1) await turn();
      if (!crashed) t.throws(() => put(store, 4));
      t.ok(crashed, `it crashes at ${site}`);
      const left = keys(await disk.open());
      const least = how === "kill" ? "k1 k2 k3" : "k1 k2";
      t.ok(left.startsWith(least), `${how} at ${site}: ${left}`);
    }
  }
});

t.test(
  "commits wait while the disk is behind, and are refused when it does not come back",
  async (t) => {
    const disk = new JournalDisk();
    const limits = { journalBytes: 1_000, waitBytes: 4_000, refuseBytes: 20_000 };
    const store = await disk.open(limits);
    let n = 0;
    while (!store.ready()) put(store, (n += 1), 200);
    await store.ready();
    for (let i = 0; i < 20; i += 1) await turn();
    t.equal(store.ready(), undefined, "after the checkpoint there is room");
    disk.atStep = (site) => {
      if (site === "checkpoint.write") throw new Error("broken");
    };
    let refused: unknown;
    while (!refused && n < 1_000) {
      const ready = store.ready();
      if (ready) await ready;
      try {
        put(store, (n += 1), 200);
      } catch (error) {
        refused = error;
      }
    }
    t.match(refused, { status: "no-space" });
  },
);

/** A disk of 4 MiB, or undefined with the reason printed. */
async function smallDisk(test: Test): Promise<string | undefined> {
  const mountpoint = path.join(directory, "small");
  mkdirSync(mountpoint);
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=32m", "tmpfs", mountpoint]);
  if (mounted.status !== 0) {
    test.pass(`not run: a tmpfs cannot be mounted here: ${mounted.stderr?.toString().trim()}`);
    return undefined;
  }
  test.teardown(() => void spawnSync("umount", ["-l", mountpoint]));
  return Promise.resolve(mountpoint);
}

function statfsFree(mountpoint: string): number {
  const out = spawnSync("df", ["-B1", "--output=avail", mountpoint]).stdout.toString();
  return Number(out.trim().split("\n").at(-1));
}
