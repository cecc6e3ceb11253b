import type { JournalDirectory } from "../../common/journal-file.ts";
import type { Log } from "../../common/log.ts";
import { UserError } from "../../common/program.ts";
import type { BaseStore } from "./base.ts";
import { checkJournalHead, journalName, journalNumber, readJournal } from "./journal.ts";
import { decodeMark, encodeMark, type Mark } from "./mark.ts";
import { keyText, Overlay } from "./overlay.ts";

/** Rows put into the base in one of its commits. */
const sliceRows = 2_000;

/**
 * Brings the base up to date with the journals beside it, and removes them. They are carried out in
 * order on top of the base. That it may have some of their rows already does no harm: a record says
 * what a row is, and the base is only ever given rows whose journal is on the disk as a whole. The
 * first record that is torn or out of sequence ends it: nothing from there on was on the disk for
 * certain, so nobody was told that it was.
 *
 * Throws a `UserError` for journals that do not belong to this base.
 */
export async function recover(options: {
  base: BaseStore;
  directory: JournalDirectory;
  log: Log;
  newId: () => Buffer;
}): Promise<Mark> {
  const { base, directory, log } = options;
  const names = directory.list("recover.list");
  // A journal that was being made has its name without the ending only once it is whole.
  const unfinished = names.filter(
    (name) => journalNumber(name.replace(/\.new$/, "")) !== undefined,
  );
  const numbers = names.flatMap((name) => journalNumber(name) ?? []).toSorted((a, b) => a - b);
  const stored = base.marked;
  const before: Mark | undefined = stored && decodeMark(stored);
  const { rows, mark } = replay(directory, log, { before, numbers });
  const after = mark ?? { store: options.newId(), journal: 0, sequence: 0 };
  if (!before || after.journal > before.journal) {
    for (const slice of rows.slices(sliceRows)) await base.apply("checkpoint.write", slice);
    await base.mark("checkpoint.flush", encodeMark(after));
  }
  for (const number of numbers) await directory.remove("journal.remove", journalName(number));
  for (const name of unfinished) {
    if (name.endsWith(".new")) await directory.remove("journal.remove", name);
  }
  return after;
}

/**
 * The rows that the journals have and the base has not, for one who only looks: nothing is changed
 * on the disk. Throws as `recover` does.
 */
export function pendingRows(options: {
  base: BaseStore;
  directory: JournalDirectory;
  log: Log;
}): Overlay {
  const { base, directory, log } = options;
  const names = directory.list("recover.list");
  const numbers = names.flatMap((name) => journalNumber(name) ?? []).toSorted((a, b) => a - b);
  const before = base.marked && decodeMark(base.marked);
  const looking = { ...directory, cut: () => undefined };
  return replay(looking, log, { before, numbers }).rows;
}

/** The journals after the base's mark, as one set of rows, and what to mark the base with then. */
function replay(
  directory: JournalDirectory,
  log: Log,
  { before, numbers }: { before: Mark | undefined; numbers: readonly number[] },
): { rows: Overlay; mark: Mark | undefined } {
  const rows = new Overlay();
  // All are looked at first: one of another store is neither used nor removed.
  const journals = numbers.map((number) => {
    const bytes = directory.read("recover.read", journalName(number));
    return { number, bytes, salt: checkJournalHead(bytes, before?.store, number) };
  });
  if (!before) return { rows, mark: undefined };
  const mark = { ...before };
  let torn = false;
  for (const { number, bytes, salt } of journals) {
    if (number <= before.journal) continue;
    if (number !== mark.journal + 1) throw missing(mark.journal + 1, number);
    mark.journal = number;
    // What follows a torn record in a later journal was not on the disk for certain either.
    if (torn) continue;
    const { next, end } = readJournal(bytes, salt, mark.sequence + 1, (changes) => {
      for (const { table, key, value } of changes) {
        rows.set(table, keyText(key), { key, value, hides: true });
      }
    });
    log.event("journal.replayed", { journal: number, commits: next - 1 - mark.sequence });
    mark.sequence = next - 1;
    // Its rows go into the base only when they are on the disk here.
    directory.cut("recover.cut", journalName(number), end);
    torn = end < bytes.length;
    if (torn) log.warn("journal.tail-dropped", { journal: number, bytes: bytes.length - end });
  }
  return { rows, mark };
}

function missing(expected: number, found: number): UserError {
  const names = `${journalName(expected)} is missing, and ${journalName(found)} is there`;
  return new UserError(`${names}: data.mdb is older than the journals beside it`);
}
