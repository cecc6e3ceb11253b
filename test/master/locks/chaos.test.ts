import fc from "fast-check";
import t from "tap";
import { assert, must } from "../../../common/assert.ts";
import { newTestStore } from "../../support/test-store.ts";
import { MasterCluster } from "../../support/master-cluster.ts";
import { LockMount, turns, type Wish } from "../../support/lock-mount.ts";

/**
 * Processes on three mounts lock and unlock, are interrupted, lose their connection and the answers
 * that were on it, and the master restarts. What each believes to have is written down here.
 */

const bytes = 4;
const files = 2;
const ranges: [number, number][] = [
  [0, 3],
  [0, 1],
  [1, 2],
  [3, 3],
];

class Belief {
  readonly held = Array.from({ length: files * 2 * bytes }, () => new Map<string, string>());

  #slots({ file = 0, flock = false, bytes: [start, end] = [0, bytes - 1] }: Wish) {
    const first = (file * 2 + Number(flock)) * bytes;
    return this.held.slice(first + start, first + end + 1);
  }

  has(who: string, wish: Wish): (string | undefined)[] {
    return this.#slots(wish).map((slot) => slot.get(who));
  }

  put(who: string, wish: Wish, types: readonly (string | undefined)[]): void {
    for (const [i, slot] of this.#slots(wish).entries()) {
      const type = types[i];
      if (type === undefined) {
        slot.delete(who);
        continue;
      }
      slot.set(who, type);
      const alone = slot.size === 1 || ![...slot.values()].includes("write");
      assert(alone, `a writer is alone: ${JSON.stringify([...slot])}`);
    }
  }
}

/** What it surely still has from the moment of asking on. */
function lowered(wish: Wish, has: readonly (string | undefined)[]): (string | undefined)[] {
  if (wish.type === "unlock") return has.map(() => undefined);
  if (wish.flock) return has.map((type) => (type === wish.type ? type : undefined));
  return has.map((type) => (wish.type === "read" && type ? "read" : type));
}

async function act(mount: LockMount, belief: Belief, wish: Wish, interruptAfter: number) {
  const who = `${mount.name}:${wish.owner}`;
  const before = belief.has(who, wish);
  const during = lowered(wish, before);
  belief.put(who, wish, during);
  const abort = new AbortController();
  const work = mount.try({ ...wish, signal: abort.signal });
  if (wish.wait) void turns(interruptAfter).then(() => abort.abort());
  const outcome = await work;
  if (outcome === "done") {
    const type = wish.type === "unlock" ? undefined : wish.type;
    belief.put(
      who,
      wish,
      before.map(() => type),
    );
  } else if (outcome !== "interrupted" && !wish.flock) {
    belief.put(who, wish, before);
  }
}

const wish = fc.record({
  file: fc.nat(files - 1),
  type: fc.constantFrom("read", "write", "unlock", "unlock" as const),
  bytes: fc.constantFrom(...ranges),
  flock: fc.boolean(),
  wait: fc.boolean(),
});
const life = fc.array(fc.record({ wish, interruptAfter: fc.nat(40) }), {
  minLength: 5,
  maxLength: 15,
});
const trouble = fc.record({
  what: fc.constantFrom("cut", "deaf", "deaf", "restart"),
  mount: fc.nat(2),
  after: fc.nat(60),
});

async function makeTrouble(
  cluster: MasterCluster,
  mounts: readonly LockMount[],
  { what, mount, after }: { what: string; mount: number; after: number },
): Promise<void> {
  await turns(after);
  const one = must(mounts[mount], "mount");
  if (what === "restart") {
    for (const each of mounts) each.leave();
    await cluster.restart();
    for (const each of mounts) each.reachable = true;
  } else {
    if (what === "deaf") one.deaf = true;
    await turns(after);
    one.cut();
  }
}

t.test("no two ever have the same lock, whatever breaks, and none is left over", async (t) => {
  const property = fc.asyncProperty(
    fc.array(life, { minLength: 6, maxLength: 6 }),
    fc.array(trouble, { maxLength: 4 }),
    async (lives, troubles) => {
      const cluster = new MasterCluster(await newTestStore());
      await cluster.start();
      const mounts = [0, 1, 2].map((i) => new LockMount(cluster, `m${i}`));
      for (const mount of mounts) await mount.start();
      const belief = new Belief();
      const processes = lives.map(async (steps, i) => {
        const mount = must(mounts[i % 3], "mount");
        for (const step of steps) {
          const its = { ...step.wish, owner: i };
          if (its.flock) its.bytes = [0, bytes - 1];
          await act(mount, belief, its, step.interruptAfter);
        }
        for (const slot of belief.held) slot.delete(`${mount.name}:${i}`);
        for (const target of mount.locks.through(i)) await mount.locks.end(target);
      });
      const breaking = (async () => {
        for (const one of troubles) await makeTrouble(cluster, mounts, one);
      })();
      await Promise.all([...processes, breaking]);
      const [first] = mounts;
      for (let file = 0; file < files; file += 1) {
        for (const flock of [false, true]) {
          // What is in doubt is put right in the background.
          while ((await first?.shown(file, flock)) !== "free") await turns();
        }
      }
      for (const mount of mounts) await mount.stop();
      await cluster.stop();
      return mounts.every(({ lost }) => lost.length === 0);
    },
  );
  await fc.assert(property, { numRuns: 20 });
  t.pass("all lives have ended");
});
