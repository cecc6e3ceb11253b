import * as admin from "./methods/admin.ts";
import * as chunk from "./methods/chunk.ts";
import * as fleet from "./methods/fleet.ts";
import * as lock from "./methods/lock.ts";
import * as namespace from "./methods/namespace.ts";
import * as session from "./methods/session.ts";
import { assert } from "../common/assert.ts";
import type { Method } from "./method.ts";

/** Raised with every change of a declaration; both sides of a connection must have the same. */
export const protocolVersion = 3;

function isMethod(value: unknown): value is Method {
  return typeof value === "object" && value !== null && "requestSchema" in value;
}

/** Every method by its number. */
export const methodsByCode: ReadonlyMap<number, Method> = (() => {
  const byCode = new Map<number, Method>();
  for (const group of [session, namespace, lock, chunk, fleet, admin]) {
    for (const declared of Object.values(group)) {
      if (!isMethod(declared)) continue;
      assert(!byCode.has(declared.code), `method number ${declared.code} is used once`);
      byCode.set(declared.code, declared);
    }
  }
  return byCode;
})();
