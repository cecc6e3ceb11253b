import fc from "fast-check";
import t from "tap";
import {
  type Acl,
  type AclEntry,
  aclTag,
  changedByMode,
  decodeAcl,
  encodeAcl,
  inheritedBy,
  isMinimal,
  permissionsOf,
} from "../../master/namespace/acl.ts";
import { outcome } from "../support/outcome.ts";

/** The toy model: an ACL by who is named in it, and the rules of acl(5) word for word. */
interface Model {
  owner: number;
  users: Record<string, number>;
  group: number;
  groups: Record<string, number>;
  mask: number | undefined;
  other: number;
}

const perms = fc.nat({ max: 7 });
const named = fc.dictionary(fc.constantFrom("1", "2", "1000"), perms, { maxKeys: 3 });
const model: fc.Arbitrary<Model> = fc
  .record({
    ...{ owner: perms, users: named, group: perms, groups: named, other: perms },
    mask: fc.option(perms, { nil: undefined }),
  })
  .map((acl) => (isNaming(acl) ? { ...acl, mask: acl.mask ?? 7 } : acl));

function isNaming({ users, groups }: Model): boolean {
  return Object.keys(users).length + Object.keys(groups).length > 0;
}

function listOf({ owner, users, group, groups, mask, other }: Model): AclEntry[] {
  const none = 0xffff_ffff;
  const named = (tag: number, of: Record<string, number>): AclEntry[] =>
    Object.entries(of).map(([id, permissions]) => ({ tag, permissions, id: Number(id) }));
  return [
    { tag: aclTag.userObject, permissions: owner, id: none },
    ...named(aclTag.user, users),
    { tag: aclTag.groupObject, permissions: group, id: none },
    ...named(aclTag.group, groups),
    ...(mask === undefined ? [] : [{ tag: aclTag.mask, permissions: mask, id: none }]),
    { tag: aclTag.other, permissions: other, id: none },
  ];
}

/** What somebody may do: the access check algorithm of acl(5). */
function allowed(acl: Model, who: { owner?: boolean; user?: string; group?: string }) {
  const mask = acl.mask ?? 7;
  if (who.owner) return acl.owner;
  const asUser = who.user === undefined ? undefined : acl.users[who.user];
  if (asUser !== undefined) return asUser & mask;
  if (who.group === "own") return acl.group & mask;
  const asGroup = who.group === undefined ? undefined : acl.groups[who.group];
  return asGroup === undefined ? acl.other : asGroup & mask;
}

const people = [
  { owner: true },
  ...["1", "2", "1000"].map((user) => ({ user })),
  ...["own", "1", "2", "1000"].map((group) => ({ group })),
  {},
];

/** The list as a model again, so that the rules can be asked of it. */
function modelOf(acl: Acl): Model {
  const one = (tag: number): number | undefined => acl.find((e) => e.tag === tag)?.permissions;
  const all = (tag: number): Record<string, number> =>
    Object.fromEntries(acl.filter((e) => e.tag === tag).map((e) => [e.id, e.permissions]));
  return {
    owner: one(aclTag.userObject) ?? NaN,
    users: all(aclTag.user),
    group: one(aclTag.groupObject) ?? NaN,
    groups: all(aclTag.group),
    mask: one(aclTag.mask),
    other: one(aclTag.other) ?? NaN,
  };
}

t.test("an ACL's bytes are read as they were written", async () => {
  fc.assert(
    fc.property(model, (m) => {
      const acl = listOf(m);
      const read = decodeAcl(encodeAcl(acl));
      return JSON.stringify(read) === JSON.stringify(acl);
    }),
  );
});

t.test("the bytes are those of linux/posix_acl_xattr.h", async (t) => {
  const acl = { owner: 7, users: { 1000: 6 }, group: 5, groups: {}, mask: 4, other: 0 };
  t.equal(
    encodeAcl(listOf({ ...acl })).toString("hex"),
    "02000000" +
      "01000700ffffffff" +
      "02000600e8030000" +
      "04000500ffffffff" +
      "10000400ffffffff" +
      "20000000ffffffff",
  );
});

t.test("any bytes are an ACL by the rules, or refused with a status", async (t) => {
  const wild = fc.oneof(
    fc.uint8Array({ maxLength: 60 }),
    fc
      .tuple(model, fc.nat({ max: 60 }), fc.nat({ max: 255 }))
      .map(([m, at, byte]) => withByte(encodeAcl(listOf(m)), at, byte)),
    fc
      .tuple(model, fc.array(fc.nat({ max: 8 }), { maxLength: 8 }))
      .map(([m, order]) => encodeAcl(order.flatMap((i) => listOf(m)[i] ?? []))),
  );
  const seen = new Map<string, number>();
  const check = async (bytes: Uint8Array): Promise<void> => {
    const buffer = Buffer.from(bytes);
    const status = await outcome(() => decodeAcl(buffer));
    seen.set(status, (seen.get(status) ?? 0) + 1);
    if (!["ok", "invalid", "not-supported"].includes(status)) throw new Error(status);
    const acl = status === "ok" ? decodeAcl(buffer) : undefined;
    if (!acl) return;
    // A list that is taken is one that the model can express, in the one order there is.
    const tags = acl.map(({ tag }) => tag);
    if (tags.join() !== tags.toSorted((a, b) => a - b).join()) throw new Error("not in order");
    const { owner, group, other, mask } = modelOf(acl);
    if ([owner, group, other].some(Number.isNaN)) throw new Error("a class is missing");
    if (isNaming(modelOf(acl)) && mask === undefined) throw new Error("no mask");
  };
  await fc.assert(fc.asyncProperty(wild, check), { numRuns: 2000 });
  for (const status of ["ok", "invalid", "not-supported"]) {
    t.ok(seen.get(status), `some were ${status}: ${seen.get(status)}`);
  }
});

t.test("an empty ACL is none, and one that names nobody says no more than a mode", async (t) => {
  t.equal(decodeAcl(Buffer.alloc(0)), undefined);
  t.equal(decodeAcl(Buffer.from([2, 0, 0, 0])), undefined);
  const plain = { owner: 6, users: {}, group: 4, groups: {}, mask: undefined, other: 0 };
  t.equal(isMinimal(listOf(plain)), true);
  t.equal(permissionsOf(listOf(plain)), 0o640);
  t.equal(isMinimal(listOf({ ...plain, mask: 4 })), false, "a mask hides what the group may do");
  t.equal(permissionsOf(listOf({ ...plain, mask: 2 })), 0o620, "the group's bits are the mask");
});

t.test("after chmod the classes may do what the mode says, and the mode shows it", async () => {
  fc.assert(
    fc.property(model, fc.nat({ max: 0o777 }), (m, mode) => {
      const acl = changedByMode(listOf(m), mode);
      const after = modelOf(acl);
      const [owner, group, other] = [mode >> 6, (mode >> 3) & 7, mode & 7];
      const classIs = m.mask === undefined ? after.group : after.mask;
      return (
        permissionsOf(acl) === mode &&
        after.owner === owner &&
        after.other === other &&
        classIs === group &&
        (m.mask === undefined || after.group === m.group) &&
        JSON.stringify([after.users, after.groups]) === JSON.stringify([m.users, m.groups])
      );
    }),
  );
});

t.test("who makes a file gives nobody more than the default ACL and the mode both do", async () => {
  fc.assert(
    fc.property(model, fc.nat({ max: 0o777 }), (m, mode) => {
      const { acl, permissions } = inheritedBy(listOf(m), mode);
      const child = modelOf(acl);
      for (const who of people) {
        const shift = "owner" in who ? 6 : "user" in who || "group" in who ? 3 : 0;
        const isOther = shift === 3 && allowed(m, who) === m.other && !isNamed(m, who);
        const most = allowed(m, who) & (mode >> (isOther ? 0 : shift));
        if (allowed(child, who) !== (most & 7)) return false;
      }
      return permissions === permissionsOf(acl) && (permissions & ~mode) === 0;
    }),
  );
});

function withByte(bytes: Buffer, at: number, byte: number): Buffer {
  bytes[at % bytes.length] = byte;
  return bytes;
}

/** True when it is an entry of the list, not that of the others, that decides. */
function isNamed(m: Model, who: object): boolean {
  if ("user" in who) return Object.hasOwn(m.users, String(who.user));
  if ("group" in who) return who.group === "own" || Object.hasOwn(m.groups, String(who.group));
  return false;
}
