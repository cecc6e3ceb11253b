import type { JournalDirectory } from "../../common/journal-file.ts";
import type { Log } from "../../common/log.ts";
import { UserError } from "../../common/program.ts";
import type { BaseStore } from "../store/base.ts";
import { Layers } from "../store/layers.ts";
import { pendingRows } from "../store/recover.ts";
import { checkStore } from "./check.ts";

/** Faults that are printed: of one cause there may be millions. */
const printedMax = 1_000;

/**
 * `gfs-master --check`: looks at the metadata of a master that does not run, journals included, and
 * changes nothing. Returns the exit code: 0, or 2 if anything is wrong.
 */
export function runCheck(options: {
  base: BaseStore;
  directory: JournalDirectory;
  log: Log;
  print: (line: string) => void;
}): number {
  const { base, print } = options;
  if (!base.marked && base.count("meta") === 0) {
    throw new UserError("there is no filesystem in it yet");
  }
  const store = new Layers(base, pendingRows(options));
  let printed = 0;
  const { faults, rows } = checkStore(store, (text) => {
    printed += 1;
    if (printed <= printedMax) print(text);
  });
  if (faults > printedMax) print(`and ${faults - printedMax} more`);
  const looked = [...rows].map(([table, count]) => `${table} ${count}`).join(", ");
  print(`rows: ${looked}`);
  print(faults === 0 ? "no faults" : `faults: ${faults}`);
  return faults === 0 ? 0 : 2;
}
