import fc from "fast-check";
import t from "tap";
import { assert, must } from "../../../common/assert.ts";
import { LockSpace, type Ready } from "../../../master/locks/space.ts";
import type { LockType } from "../../../master/locks/table.ts";
import { sessionId } from "../../../protocol/id.ts";
import { statusOf } from "../../../protocol/status.ts";
import { outcome } from "../../support/outcome.ts";

/** The toy model: for each byte of each file, who has it and how. Slow, and plainly right. */

const bytes = 3;
const sessions = 2;
const files = 2;

type Kind = "posix" | "flock";

interface Wish {
  /** Two of each session. */
  owner: number;
  file: number;
  start: number;
  end: number;
  type: LockType;
}

interface Waiting extends Wish {
  ticket: number;
}

class Model {
  readonly kind: Kind;
  readonly held = Array.from({ length: files }, () =>
    Array.from({ length: bytes }, () => new Map<number, LockType>()),
  );
  /** In the order in which they came. */
  waiting: Waiting[] = [];

  constructor(kind: Kind) {
    this.kind = kind;
  }

  #of(file: number): Map<number, LockType>[] {
    return must(this.held[file], "file");
  }

  blockers({ owner, file, start, end, type }: Wish): Set<number> {
    const found = new Set<number>();
    for (const byte of this.#of(file).slice(start, end + 1)) {
      for (const [other, its] of byte) {
        if (other !== owner && (its === "write" || type === "write")) found.add(other);
      }
    }
    return found;
  }

  set({ owner, file, start, end }: Omit<Wish, "type">, type: LockType | undefined): void {
    for (const byte of this.#of(file).slice(start, end + 1)) {
      if (type) byte.set(owner, type);
      else byte.delete(owner);
    }
  }

  clear(owner: number): void {
    for (let file = 0; file < files; file += 1) {
      this.set({ owner, file, start: 0, end: bytes - 1 }, undefined);
    }
  }

  /** True if `wish` would wait, perhaps through others, for its own owner. */
  hopeless(wish: Wish): boolean {
    const reached = this.blockers(wish);
    for (let size = -1; size !== reached.size;) {
      size = reached.size;
      for (const one of this.waiting.filter(({ owner }) => reached.has(owner))) {
        for (const owner of this.blockers(one)) reached.add(owner);
      }
    }
    return reached.has(wish.owner);
  }

  lock(wish: Waiting, wait: boolean): string {
    if (this.blockers(wish).size === 0) {
      this.set(wish, wish.type);
      return "done";
    }
    if (this.kind === "flock") this.set(wish, undefined);
    if (!wait) return "would-block";
    if (this.kind === "posix" && this.hopeless(wish)) return "deadlock";
    this.waiting.push(wish);
    return "waiting";
  }

  /** Follows what the real one did by itself; checks that it had to, and in this order. */
  follow(ready: readonly Ready[]): void {
    for (const { ticket } of ready) {
      const one = this.waiting.find((waiting) => waiting.ticket === ticket);
      assert(one !== undefined, "only who waits is told to ask again");
      if (this.blockers(one).size > 0) {
        assert(this.hopeless(one), "only who waits for himself is sent away");
      } else {
        const first = this.waiting.find(
          (other) => other.file === one.file && this.blockers(other).size === 0,
        );
        assert(first === one, "who came first is served first");
        this.set(one, one.type);
      }
      this.waiting = this.waiting.filter((other) => other !== one);
    }
    for (const one of this.waiting) {
      assert(this.blockers(one).size > 0, "nobody waits for what is free");
      assert(this.kind === "flock" || !this.hopeless(one), "nobody waits for himself");
    }
    for (const file of this.held) {
      for (const byte of file) {
        assert(byte.size < 2 || ![...byte.values()].includes("write"), "a writer is alone");
      }
    }
  }
}

const sessionOf = (owner: number) => sessionId(1 + Math.floor(owner / 2));

/** Whether the real one shows to everybody what the model says of each byte. */
function agree(space: LockSpace, model: Model): boolean {
  for (let owner = 0; owner < sessions * 2; owner += 1) {
    for (let file = 0; file < files; file += 1) {
      for (let at = 0; at < bytes; at += 1) {
        for (const type of ["read", "write"] as const) {
          const range = { start: BigInt(at), end: BigInt(at) };
          const found = space.get(sessionOf(owner), BigInt(owner), file, { ...range, type });
          const expected = model.blockers({ owner, file, start: at, end: at, type });
          const shown = found ? expected.has(Number(found.owner.number)) : expected.size === 0;
          if (!shown) return false;
        }
      }
    }
  }
  return true;
}

const wish = fc
  .record({
    owner: fc.nat(sessions * 2 - 1),
    file: fc.nat(files - 1),
    ends: fc.tuple(fc.nat(bytes - 1), fc.nat(bytes - 1)),
    type: fc.constantFrom<LockType>("read", "write"),
  })
  .map(({ ends, ...rest }) => ({ ...rest, start: Math.min(...ends), end: Math.max(...ends) }));

const mostly = fc.nat(3).map((n) => n > 0);
const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("lock"), wish, wait: mostly }) },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant("unlock"), wish, wait: fc.constant(false) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("cancel"), wish, wait: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("end"), wish, wait: fc.boolean() }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

function lockBoth(space: LockSpace, model: Model, one: Waiting, wait: boolean): void {
  const { owner, file, type, ticket } = one;
  const wanted = { start: BigInt(one.start), end: BigInt(one.end), type };
  const request = { session: sessionOf(owner), owner: BigInt(owner), file, wanted, pid: 1 };
  const ask = (): string => {
    try {
      return space.lock({ ...request, wait, ticket });
    } catch (error) {
      return statusOf(error);
    }
  };
  const outcome = ask();
  const expected = model.lock(one, wait);
  assert(outcome === expected, `${outcome} is ${expected}`);
  model.follow(space.takeReady());
  // The answer was lost, and the request is sent again.
  if (outcome === "done" || outcome === "waiting") {
    assert(ask() === outcome, "asking again changes nothing");
    assert(space.takeReady().length === 0, "and wakes nobody");
  }
}

function takeStep(space: LockSpace, model: Model, { do: what, wish: one, wait }: Step, n: number) {
  const session = sessionOf(one.owner);
  switch (what) {
    case "lock":
      return lockBoth(space, model, { ...one, ticket: n }, wait);
    case "unlock": {
      const range = { start: BigInt(one.start), end: BigInt(one.end) };
      space.unlock(session, BigInt(one.owner), one.file, range);
      model.set(one, undefined);
      return model.follow(space.takeReady());
    }
    case "cancel": {
      const waiting = model.waiting.find(({ owner }) => owner === one.owner);
      const ticket = waiting?.ticket ?? n;
      assert(space.cancel(session, ticket) === (waiting !== undefined), "it waited");
      model.waiting = model.waiting.filter((other) => other !== waiting);
      return model.follow(space.takeReady());
    }
    default: {
      space.end(session);
      model.waiting = model.waiting.filter(({ owner }) => sessionOf(owner) !== session);
      for (let owner = 0; owner < sessions * 2; owner += 1) {
        if (sessionOf(owner) === session) model.clear(owner);
      }
      return model.follow(space.takeReady());
    }
  }
}

function run(kind: Kind, steps: readonly Step[]): boolean {
  const space = new LockSpace(kind);
  const model = new Model(kind);
  for (const [n, one] of steps.entries()) {
    const whole = { ...one.wish, start: 0, end: bytes - 1 };
    takeStep(space, model, kind === "flock" ? { ...one, wish: whole } : one, n);
    if (!agree(space, model)) return false;
  }
  for (let session = 1; session <= sessions; session += 1) space.end(sessionId(session));
  return space.isEmpty;
}

t.test("who comes to wait for himself by another's grant is sent away", async (t) => {
  const space = new LockSpace("posix");
  const ask = (owner: bigint, file: number, ticket: number): string => {
    const wanted = { start: 0n, end: 9n, type: "write" } as const;
    const request = { session: sessionId(1), owner, file, wanted, pid: 1, wait: true };
    return space.lock({ ...request, ticket });
  };
  const free = (owner: bigint, file: number): void =>
    space.unlock(sessionId(1), owner, file, { start: 0n, end: 9n });
  t.equal(ask(1n, 1, 1), "done");
  t.equal(ask(2n, 2, 2), "done");
  t.equal(ask(3n, 1, 3), "waiting", "one thread of 3, for what 1 has");
  t.equal(ask(3n, 2, 4), "waiting", "another thread of 3, for what 2 has");
  t.equal(ask(2n, 1, 5), "waiting", "2 waits for what 1 has, after 3");
  free(1n, 1);
  const told = space.takeReady().map(({ ticket }) => ticket);
  t.same(told, [3, 5], "3 is granted it; 2 would wait for 3, who waits for 2, and is sent away");
  t.equal(await outcome(() => ask(2n, 1, 5)), "deadlock");
  free(2n, 2);
  t.same(space.takeReady(), [{ session: sessionId(1), ticket: 4 }]);
});

for (const kind of ["posix", "flock"] as const) {
  t.test(`${kind}: every byte is held by whom the model says, deadlocks included`, async () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => run(kind, steps)),
      { numRuns: 1_500 },
    );
  });
}
