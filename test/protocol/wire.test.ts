import { createHash } from "node:crypto";
import t from "tap";
import { methodsByCode, protocolVersion } from "../../protocol/methods.ts";
import { statusCode, statusErrno, statusFromCode, statusRetry } from "../../protocol/status.ts";
import { constants } from "node:os";

/** The wire as text: every method's number, name and shapes. */
function wire(): string {
  return [...methodsByCode.values()]
    .toSorted((a, b) => a.code - b.code)
    .map(({ code, name, requestSchema, replySchema }) =>
      JSON.stringify([code, name, requestSchema, replySchema]),
    )
    .join("\n");
}

t.test("the wire only changes together with the protocol version", async (t) => {
  const hash = createHash("sha256").update(wire()).digest("hex").slice(0, 16);
  t.equal(
    `${protocolVersion}:${hash}`,
    "3:5a6e844601918a7b",
    "a declaration has changed: raise protocolVersion (protocol/methods.ts) and update this line",
  );
});

t.test("every status has a number of its own and an errno that exists", async (t) => {
  const seen = new Set<number>();
  const known: Record<string, number> = constants.errno;
  for (let code = 1; code < 100; code += 1) {
    const status = statusFromCode(code);
    if (statusCode(status) !== code) continue;
    t.notOk(seen.has(code), `${status}: number ${code} is its own`);
    seen.add(code);
    t.type(known[statusErrno(status)], "number", `${status}: ${statusErrno(status)} exists`);
    t.ok(["never", "later", "after-locate"].includes(statusRetry(status)));
  }
  t.ok(seen.size > 30, "the table was walked");
  t.equal(statusFromCode(9999), "internal", "an unknown number counts as internal");
});
