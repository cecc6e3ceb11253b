import { writeSync } from "node:fs";
import { numberKey } from "../../master/store/bytes.ts";
import { openRealStore } from "../support/journaled-store.ts";

/**
 * Commits numbers, one after the other, into the store in the directory that is its argument, and
 * prints each when it is committed, until it is killed. Checkpoints are always under way.
 */
const limits = { journalBytes: 20_000, sliceRows: 20, checkpointAfterMs: 50 };
const store = await openRealStore(process.argv[2] ?? "", { limits });
const last = Buffer.from("last");
for (let n = Number(store.get("meta", last)?.toString() ?? 0) + 1; ; n += 1) {
  store.write((writer) => {
    writer.put("inode", numberKey(n), Buffer.alloc(100, n));
    writer.remove("inode", numberKey(Math.max(0, n - 50)));
    writer.put("meta", last, Buffer.from(String(n)));
  });
  writeSync(1, `${n}\n`);
  if (n % 5 === 0) {
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
}
