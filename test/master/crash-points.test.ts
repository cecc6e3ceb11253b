import t from "tap";
import type { JournalLimits } from "../../master/store/journaled.ts";
import type { Store } from "../../master/store/store.ts";
import { type End, JournalDisk, turn } from "../support/journal-disk.ts";
import { sitesIn } from "../support/sites.ts";

/**
 * The master is stopped at every named step of its disk, by kill -9 and by the end of power, before
 * the step, after it and with half of what it appends. Then it starts on what is left: every commit
 * is there as a whole or not at all, in order; those that were answered are there after a kill, and
 * those that were synced after both; and what was broken off can be done again.
 */

/** Rows go into the base one by one: there is a crash between each. */
const limits: Partial<JournalLimits> = { sliceRows: 1, journalBytes: 200 };
const commitsMax = 18;

/** Rows in several tables, and one that says how many commits there were. */
function commit(store: Store, n: number): void {
  store.write((writer) => {
    writer.put("inode", Buffer.from(`k${n}`), Buffer.alloc(20, n));
    writer.put("entry", Buffer.from(`k${n}`), Buffer.alloc(20, n));
    writer.put("meta", Buffer.from("last"), Buffer.from(String(n)));
    if (n > 4) writer.remove("inode", Buffer.from(`k${n - 4}`));
  });
}

/** How many commits are there; throws if it is not whole commits, in order. */
function commitsIn(store: Store): number {
  const last = Number(store.get("meta", Buffer.from("last"))?.toString() ?? 0);
  const keys = (table: "inode" | "entry"): string =>
    [...store.range(table, { from: Buffer.from("k") })]
      .map(({ key, value }) => `${key.toString()}=${value.readUInt8(19)}`)
      .toSorted()
      .join(" ");
  const wanted = (first: number): string =>
    Array.from({ length: last - first + 1 }, (_, i) => `k${first + i}=${first + i}`)
      .toSorted()
      .join(" ");
  if (keys("entry") !== wanted(1)) throw new Error(`${last} commits, entries ${keys("entry")}`);
  if (keys("inode") !== wanted(Math.max(1, last - 3))) {
    throw new Error(`${last} commits, inodes ${keys("inode")}`);
  }
  return last;
}

interface Progress {
  answered: number;
  synced: number;
}

/** Opens, commits, syncs, makes checkpoints and closes: every step, up to a crash. */
async function work(disk: JournalDisk, progress: Progress): Promise<void> {
  const store = await disk.open(limits);
  progress.answered = commitsIn(store);
  progress.synced = progress.answered;
  for (let n = progress.answered + 1; n <= commitsMax; n += 1) {
    commit(store, n);
    progress.answered = n;
    // Most checkpoints begin because the journal is full, with commits that nobody has synced, and
    // are at work on those when others come.
    if (n === 9) await store.synced();
    if (n === 13) store.syncNow();
    if (n === 9 || n === 13) progress.synced = n;
    if (n % 6 === 0) disk.fireTimers();
    for (let i = 0; i < 9; i += 1) await turn();
  }
  await store.close();
  progress.synced = progress.answered;
}

/** A store that was killed in the middle of a checkpoint: there are journals to recover from. */
async function killedStore(): Promise<{ disk: JournalDisk; progress: Progress }> {
  const disk = new JournalDisk();
  const progress = { answered: 0, synced: 0 };
  const store = await disk.open({ ...limits, journalBytes: 1_000_000 });
  for (let n = 1; n <= 5; n += 1) commit(store, n);
  await store.synced();
  commit(store, 6);
  disk.end("kill", () => 0);
  return { disk, progress };
}

type Moment = "before" | "half" | "after";

interface Point {
  site: string;
  occurrence: number;
  moment: Moment;
  how: End;
  /** What of the unsynced bytes survives the end of power: 0 nothing, else all. */
  left: number;
}

/** Plays up to a crash. Resolves with what had been promised; undefined if it was not reached. */
async function crash(point: Point): Promise<{ disk: JournalDisk; before: Progress } | undefined> {
  const { disk, progress } = await killedStore();
  const end = (): void => disk.end(point.how, () => point.left);
  let count = 0;
  let before: Progress | undefined;
  disk.atStep = (site) => {
    if (before || site !== point.site) return;
    count += 1;
    if (count < point.occurrence) return;
    before = { ...progress };
    if (point.moment === "before") return end();
    const sizes = new Map([...disk.files].map(([name, { bytes }]) => [name, bytes.length]));
    // The step is made at once; whoever waits for it does not come to know.
    queueMicrotask(() => {
      if (point.moment === "half") tear(disk, sizes);
      end();
    });
  };
  // The process ends in the middle: what it was doing fails or never comes back.
  let ended = false;
  void work(disk, progress)
    .catch(() => undefined)
    .finally(() => void (ended = true));
  while (!ended && !before) await turn();
  await turn();
  disk.atStep = () => undefined;
  return before && { disk, before };
}

/** Of what was appended since files had these sizes, half is there. */
function tear(disk: JournalDisk, sizes: ReadonlyMap<string, number>): void {
  for (const [name, file] of disk.files) {
    const size = sizes.get(name) ?? file.bytes.length;
    if (size >= file.bytes.length) continue;
    file.bytes = file.bytes.subarray(0, size + Math.floor((file.bytes.length - size) / 2));
    file.synced = Math.min(file.synced, file.bytes.length);
  }
}

function momentsOf(site: string): Moment[] {
  return site === "journal.append" ? ["before", "half", "after"] : ["before", "after"];
}

async function stepsOfWork(): Promise<Map<string, number>> {
  const { disk, progress } = await killedStore();
  disk.steps.length = 0;
  await work(disk, progress);
  const counts = new Map<string, number>();
  for (const site of disk.steps) counts.set(site, (counts.get(site) ?? 0) + 1);
  return counts;
}

t.test("a crash at any step of the master's disk keeps what was promised", async (t) => {
  for (const [site, times] of await stepsOfWork()) {
    let crashes = 0;
    for (let occurrence = 1; occurrence <= times; occurrence += 1) {
      for (const moment of momentsOf(site)) {
        for (const how of ["kill", "power"] as const) {
          for (const left of [0, 0.999]) {
            const point = { site, occurrence, moment, how, left };
            const crashed = await crash(point);
            if (!crashed) continue;
            crashes += 1;
            const { disk, before } = crashed;
            const at = `${how} ${moment} ${site} #${occurrence} (${left})`;
            const found = commitsIn(await disk.open(limits));
            const least = how === "kill" ? before.answered : before.synced;
            if (found < least) t.fail(`${at}: ${found} of ${least} commits are there`);
            disk.end("power", () => 0);
            const again = { answered: 0, synced: 0 };
            await work(disk, again);
            if (again.synced !== commitsMax) t.fail(`${at}: it does not go on`);
            t.same([...disk.files.keys()], [], `${at}: no journal is left over`);
          }
        }
      }
    }
    t.ok(crashes > 0, `${crashes} crashes at ${site}`);
  }
});

t.test("every named step of the master's disk is crashed at", async (t) => {
  const seen = await stepsOfWork();
  const { names, unknown } = sitesIn("master");
  // A lock ends with the process, whatever that was doing: kill.test.ts starts it again.
  const elsewhere = ["data.lock"];
  t.same(
    names.filter((site) => !seen.has(site) && !elsewhere.includes(site)),
    [],
    "a new step is to be made by `work`",
  );
  t.same(unknown, ["data.mdb", "lock.mdb"], "else: is it a step?");
});
