import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import t, { type Test } from "tap";
import { must } from "../../common/assert.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { systemDisk } from "../../common/os/disk.ts";
import { recover } from "../../chunkd/store/recover.ts";
import { DataDirectory } from "../../chunkd/store/directory.ts";
import { openStore, type Store } from "../../chunkd/store/store.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { sitesIn } from "../support/sites.ts";
import { type Contents, type Scenario, scenarios } from "./crash-scenarios.ts";
import {
  type Crash,
  crashes,
  digestOf,
  FlushedIndex,
  type Moment,
  PowerDisk,
  rowsOf,
} from "./power-disk.ts";
import { get } from "./store-support.ts";
import { h, statusFrom } from "./support.ts";

/**
 * The chunk server is stopped at every named step of its disk: before it, after it, and with half
 * of what it writes; by kill -9 and by the end of power. Then it starts on what is left.
 *
 * A chunk that is clean then has exactly the bytes from before the operation or those from after
 * it. A dirty one, which the master compares with other replicas, may have some of both; but bytes
 * that the operation does not change are there, and what was answered survives a kill.
 */

const seen = new Set<string>();

/** In memory, where there is such a disk: what is synced is counted in `PowerDisk`. */
const base = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const made: string[] = [];

function newDirectory(): string {
  const directory = mkdtempSync(path.join(base, "gfs-crash-points-"));
  made.push(directory);
  return directory;
}

function removeDirectories(): void {
  for (const at of made.splice(0)) rmSync(at, { recursive: true, force: true });
}

t.teardown(removeDirectories);

/** A chunk server's disk side, from its start on. */
class Process {
  readonly power: PowerDisk;
  store: Store | undefined;
  directory: DataDirectory | undefined;
  #flushed: FlushedIndex | undefined;
  readonly #root: string;

  constructor(root: string, shares = false) {
    this.#root = root;
    this.power = new PowerDisk(root, systemDisk);
    this.power.shares = shares;
  }

  async start(): Promise<Store> {
    const { disk } = this.power;
    const root = this.#root;
    this.directory = await DataDirectory.open(disk, root);
    const store = openStore({ root, disk, clock: systemClock, log: silentLog, reserveBytes: 0 });
    this.store = store;
    this.#flushed = new FlushedIndex(store.index);
    const registered = this.directory.identity !== undefined;
    await recover(store, { registered });
    await store.space.refresh();
    return store;
  }

  async close(): Promise<void> {
    this.store?.files.closeAll();
    await this.store?.index.close();
  }

  /** What a crash leaves, as a text that is the same for the same. */
  digest(crash: Crash): string {
    const { index } = this.store ?? {};
    const rows = crash.index === "flushed" ? this.#flushed?.rows : index && rowsOf(index);
    return `${this.power.digest(crash.files)} ${digestOf(rows)}`;
  }

  /** Makes `target` what a crash leaves of it. */
  async leave(target: string, crash: Crash): Promise<void> {
    this.power.leave(target, crash.files);
    const index = path.join(target, "index");
    const file = path.join(this.#root, "index/data.mdb");
    if (!existsSync(file) || !this.power.hasIndex(crash.files)) return;
    if (this.#flushed && crash.index === "flushed") return this.#flushed.leave(index);
    mkdirSync(index, { recursive: true });
    copyFileSync(file, path.join(index, "data.mdb"));
  }
}

/** Everything that a scenario starts from is on the disk. */
async function prepared(scenario: Scenario): Promise<string> {
  const root = newDirectory();
  if (scenario.prepare) {
    const process = new Process(root);
    await scenario.prepare(await process.start(), must(process.directory, "it is open"));
    await process.close();
  }
  scenario.litter?.(root);
  return root;
}

/** Runs a scenario up to its crash, if it comes so far. Resolves with the steps it has made. */
async function play(
  process: Process,
  scenario: Scenario,
  endsAt: (site: string, moment: Moment) => boolean,
): Promise<{ steps: string[]; answered: boolean }> {
  const { power } = process;
  const begin = (): void => {
    power.steps.length = 0;
    power.endsAt = endsAt;
    power.failure = (site) => (site === scenario.fails?.site ? scenario.fails.code : undefined);
  };
  if (scenario.isStart) begin();
  const run = async (): Promise<boolean> => {
    const store = await process.start();
    await scenario.before?.(store);
    if (!scenario.isStart) begin();
    const done = scenario.run(store, must(process.directory, "it is open"));
    if (!scenario.fails) return done.then(() => true);
    return (await statusFrom(done)) === "ok";
  };
  const answered = await Promise.race([run(), power.ended.then(() => false)]);
  // What was given to the index is in the page cache, or will be in a moment.
  await process.store?.index.flushed.call(process.store.index);
  return { steps: [...power.steps], answered };
}

/** The chunk's bytes under whatever version it has; a status if it cannot be read. */
async function found(store: Store, handle: ChunkHandle): Promise<Buffer | string> {
  for (const version of [1, 2]) {
    const status = await statusFrom(get(store, handle, { version }));
    if (status === "ok") return Buffer.from(await get(store, handle, { version }));
    if (status !== "stale-version") return status;
  }
  return "stale-version";
}

const none = Buffer.alloc(0);

/** What is wrong with a chunk after a crash; undefined if nothing is. */
function fault(
  is: Buffer | string,
  { was, crash, dirty }: { was: Contents; crash: Crash; dirty: boolean },
): string | undefined {
  const old = crash.files === "kill" ? was.answered : was.synced;
  const states = crash.files === "kill" ? [old, was.after] : [was.synced, was.answered, was.after];
  if (is === "no-chunk") {
    const mayBeGone = was.mayBeGone ?? states.includes(undefined);
    return mayBeGone ? undefined : "it is gone";
  }
  if (typeof is === "string") return was.mayBeBad && crash.files !== "kill" ? undefined : is;
  if (states.some((state) => state?.equals(is))) return undefined;
  if (!dirty) return `clean, with ${is.length} other bytes`;
  const sizes = states.map((state) => state?.length ?? 0);
  if (is.length < Math.min(...sizes) || is.length > Math.max(...sizes)) {
    return `${is.length} bytes, not ${sizes.join(" or ")}`;
  }
  for (let i = 0; i < is.length; i += 1) {
    const wanted = states.map((state) => (state ?? none)[i]);
    const settled = wanted.every((byte) => byte === wanted[0]);
    // What was not synced may read as zeros: a length is on the disk before its bytes.
    const mayBeZero = !settled && crash.files !== "kill";
    if (!wanted.includes(is[i]) && !(mayBeZero && is[i] === 0)) return `byte ${i} was never there`;
  }
  return undefined;
}

/** Files that nothing refers to, and files that are missing. */
function strays(store: Store, root: string): string[] {
  const wrong = readdirSync(store.files.stagingDirectory).map((name) => `staging/${name}`);
  for (const fan of readdirSync(path.join(root, "chunks"))) {
    for (const name of readdirSync(path.join(root, "chunks", fan))) {
      const record = store.index.get(h(Number.parseInt(name, 16)));
      const small = store.index.getSmall(h(Number.parseInt(name, 16)));
      if (!record || small) wrong.push(`chunks/${fan}/${name}`);
    }
  }
  return wrong;
}

/** Starts on what a crash left, and checks it: what is wrong, in words. */
async function faultsAfter(
  root: string,
  scenario: Scenario,
  { crash, answered }: { crash: Crash; answered: boolean },
): Promise<string[]> {
  const process = new Process(root, scenario.shares);
  const store = await process.start();
  const wrong: string[] = [];
  for (const [number, was] of Object.entries(scenario.chunks)) {
    const handle = h(Number(number));
    const is = await found(store, handle);
    const dirty = store.faults.isDoubtful(handle);
    const only = { ...was, synced: was.after, answered: was.after, mayBeGone: !was.after };
    const must = answered && (scenario.isDurable || crash.files === "kill");
    const what = fault(is, { was: must ? only : was, crash, dirty });
    if (what !== undefined) wrong.push(`chunk ${number}: ${what}`);
  }
  // An index that is older than the files does not know them: they are kept, and nothing refers to
  // them.
  const mayLose = scenario.loses ?? crash.index === "flushed";
  if (existsSync(store.files.lostDirectory) && !mayLose) wrong.push("lost/");
  wrong.push(...strays(store, root));
  const corrupt = store.faults.corruptBlocks;
  const mayBeBad = Object.values(scenario.chunks).some((was) => was.mayBeBad);
  if (corrupt > 0 && !(mayBeBad && crash.files !== "kill")) wrong.push(`${corrupt} corrupt blocks`);
  const again = await statusFrom(scenario.run(store, must(process.directory, "it is open")));
  if (again !== "ok") wrong.push(`repeated: ${again}`);
  for (const [number, was] of Object.entries(scenario.chunks)) {
    const is = await found(store, h(Number(number)));
    const only = { ...was, synced: was.after, answered: was.after, mayBeGone: !was.after };
    const repeats = was.synced === was.answered;
    const what = fault(is, { was: repeats ? only : was, crash, dirty: true });
    if (what !== undefined) wrong.push(`chunk ${number}, repeated: ${what}`);
  }
  wrong.push(...strays(store, root));
  await process.close();
  return wrong;
}

/** The first and the last time that each step is made: `"site" → occurrences`. */
function occurrences(steps: readonly string[]): Map<string, Set<number>> {
  const found = new Map<string, Set<number>>();
  const counts = new Map<string, number>();
  for (const site of steps) counts.set(site, (counts.get(site) ?? 0) + 1);
  for (const [site, count] of counts) found.set(site, new Set([1, count]));
  return found;
}

/** Plays the scenario up to one crash, and checks everything that this may leave. */
async function crashOnce(
  t: Test,
  scenario: Scenario,
  checked: Set<string>,
  point?: { site: string; occurrence: number; moment: Moment },
): Promise<boolean> {
  const process = new Process(await prepared(scenario), scenario.shares);
  let count = 0;
  let reached = point === undefined;
  const { answered } = await play(process, scenario, (site, moment) => {
    if (site !== point?.site || moment !== point.moment) return false;
    count += 1;
    reached ||= count === point.occurrence;
    return count === point.occurrence;
  });
  if (!reached) return false; // It writes nothing of which there is a half.
  for (const crash of crashes) {
    const state = `${crash.files} ${answered} ${process.digest(crash)}`;
    if (checked.has(state)) continue;
    checked.add(state);
    const left = newDirectory();
    await process.leave(left, crash);
    const at = point ? `${point.moment} ${point.site} #${point.occurrence}` : "its answer";
    const how = `${crash.files}, index ${crash.index}`;
    const wrong = await faultsAfter(left, scenario, { crash, answered });
    if (wrong.length > 0) t.same(wrong, [], `crash at ${at}: ${how}`);
  }
  await process.close();
  removeDirectories();
  return true;
}

for (const [name, scenario] of Object.entries(scenarios)) {
  t.test(`a crash at any step of ${name} leaves the old or the new`, async (t) => {
    const rehearsal = new Process(await prepared(scenario), scenario.shares);
    const { steps } = await play(rehearsal, scenario, () => false);
    await rehearsal.close();
    let crashed = 0;
    // Many crashes leave the same: that is looked at once.
    const checked = new Set<string>();
    for (const [site, numbers] of occurrences(steps)) {
      seen.add(site);
      for (const occurrence of numbers) {
        for (const moment of ["before", "half", "after"] as const) {
          if (await crashOnce(t, scenario, checked, { site, occurrence, moment })) crashed += 1;
        }
      }
    }
    await crashOnce(t, scenario, checked);
    const sizes = `${new Set(steps).size} steps, ${checked.size} different states`;
    t.ok(crashed >= 2, `${crashed} crashes at ${sizes}`);
  });
}

t.test("every named step of the chunk server's disk is crashed at", async (t) => {
  const { names, unknown } = sitesIn("chunkd");
  t.same(
    names.filter((site) => !seen.has(site)),
    [],
    "a new step wants a scenario in crash-scenarios.ts",
  );
  // Names of files, and two events of the log.
  t.same(
    unknown,
    ["id.new", "master.lost", "master.unreachable", "port.new"],
    "else: is it a step?",
  );
});
