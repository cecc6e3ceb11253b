import { draftMsMax } from "../../chunkd/limits.ts";
import type { SyncMode } from "../../master/namespace/committer.ts";
import { checkQuiet, wound } from "./checks.ts";
import { SimCluster } from "./cluster.ts";
import { Nemesis, planFaults } from "./faults.ts";
import { leftOver } from "./leaks.ts";
import { Model } from "./model.ts";
import { paths, Workload } from "./workload.ts";
import { inWorld, World } from "./world.ts";

/** One seed, from an empty cluster to the last check. */

interface RunOptions {
  seed: number;
  /** Virtual time with faults. */
  forMs?: number;
  /** Note every message too. */
  messages?: boolean;
  /** Receives each line of the event log. */
  record?: (line: string) => void;
}

export interface RunResult {
  seed: number;
  /** What was wrong first; undefined if nothing was. */
  violation: string | undefined;
  /** Of the event log. */
  hash: string;
  events: number;
  virtualMs: number;
  /** Faults injected, operations done, checks made. */
  counts: ReadonlyMap<string, number>;
}

const forMsDefault = 30_000;
const startMsMax = 60_000;
/**
 * All must be whole again this long after the last fault: a server counts as dead after a minute,
 * then its chunks are copied, two at a time; sessions of clients that ended take 30 s.
 */
const healMsMax = 240_000;
/** What takes longest in the background: a draft of a copy that nobody finishes. */
const backgroundMs = 1.2 * draftMsMax;
/** Then nothing may come up again: a few heartbeats and rounds of repair. */
const quietMs = 20_000;
/** How often is looked whether something has come about. */
const lookEveryMs = 20;
/** Nothing goes on for so many events in such a run: more is a circle. */
const eventsMax = 1_500_000;

export async function simulate(options: RunOptions): Promise<RunResult> {
  const { seed, record = () => undefined } = options;
  const world = new World({ seed, record });
  await inWorld(world, () => runSeed(world, options));
  const { violation, hash, events, nowMs: virtualMs, counts } = world;
  return { seed, violation, hash, events, virtualMs, counts };
}

async function runSeed(world: World, options: RunOptions): Promise<void> {
  const { forMs = forMsDefault, messages = false } = options;
  const plan = planFaults(world.random);
  const sync: SyncMode = world.random.chance(0.25) ? "always" : "batch";
  world.note(`sync=${sync} faults=${[...plan.kinds].join(",")}`);
  const cluster = new SimCluster({ world, sync });
  cluster.network.traced = messages;
  cluster.disksFail = plan.kinds.has("bad-disk");
  const model = new Model({ paths: paths(), durable: sync === "always" });
  const workload = new Workload({ cluster, model, tolerated: plan.tolerated });
  const nemesis = new Nemesis({ cluster, model, plan });
  workload.beforeWrite = (where) => nemesis.beforeWrite(where);
  cluster.start();
  const { clients, servers } = cluster;
  const isUp = (): boolean =>
    clients.every(({ fileSystem }) => fileSystem) && servers.every(({ id }) => id !== undefined);
  await until(world, "the cluster is up", isUp, startMsMax);
  let started = false;
  workload.start().then(
    () => (started = true),
    (error: unknown) => world.failed("start", error),
  );
  await until(world, "the workload begins", () => started, startMsMax);
  nemesis.start();
  await world.run(() => false, { untilMs: world.nowMs + forMs, eventsMax });
  await heal(world, { cluster, nemesis, workload });
}

async function heal(
  world: World,
  { cluster, nemesis, workload }: { cluster: SimCluster; nemesis: Nemesis; workload: Workload },
): Promise<void> {
  if (world.violation !== undefined) return;
  world.note("faults end");
  nemesis.end();
  workload.stop();
  const wait = { what: () => `operations under way end: ${workload.unanswered}` };
  await until(world, wait.what, () => workload.idle, healMsMax);
  const isWhole = (): boolean => wound(cluster) === undefined;
  await until(world, () => `all is whole again: ${wound(cluster)}`, isWhole, healMsMax);
  const left = (): string | undefined => leftOver(cluster);
  await until(
    world,
    () => `nothing is left over: ${left()}`,
    () => !left(),
    backgroundMs,
  );
  // What is told in heartbeats, and cleaned in the background, has the time to be.
  await world.run(() => false, { untilMs: world.nowMs + quietMs, eventsMax });
  await until(world, () => `all is whole still: ${wound(cluster)}`, isWhole, healMsMax);
  if (world.violation !== undefined) return;
  checkQuiet(cluster, nemesis.bitsTurned);
  let checked = false;
  workload.checkAll().then(
    () => (checked = true),
    (error: unknown) => world.failed("last look", error),
  );
  await until(
    world,
    () => `everything has been read: ${workload.unanswered}`,
    () => checked,
    healMsMax,
  );
}

async function until(
  world: World,
  what: string | (() => string),
  done: () => boolean,
  msMax: number,
): Promise<void> {
  if (world.violation !== undefined) return;
  let nextMs = world.nowMs;
  const isDone = (): boolean => {
    if (world.nowMs < nextMs) return false;
    nextMs = world.nowMs + lookEveryMs;
    return done();
  };
  const reached = await world.run(isDone, { untilMs: world.nowMs + msMax, eventsMax });
  if (!reached && world.violation === undefined) {
    world.violate(`waited ${msMax} ms in vain until ${typeof what === "string" ? what : what()}`);
  }
}
