import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";

/**
 * The named disk steps of a program (common/disk.ts, common/journal-file.ts), read from its
 * sources: a step that is added is found here, and the test that crashes at every step wants to
 * know of it.
 */

/** Methods of `Disk`, `OpenFile`, `JournalFile`, … and helpers that are given a step's name. */
const takers = [
  ..."open readFile writeFile makeDirectory list rename remove reflink syncDirectory".split(" "),
  ..."space lockDirectory read write truncate datasync size".split(" "),
  ..."append sync syncNow create cut apply mark".split(" "),
];
const word = "[a-z]+(?:-[a-z]+)*";
const named = `"(${word}\\.${word})"`;
const step = new RegExp(`\\b(?:${takers.join("|")})\\(\\s*(?:store, chunk, file, )?${named}`, "g");
const replaced = new RegExp(`\\breplaceFile\\(\\s*[^,()]+,\\s*"(${word})"`, "g");
/** Steps of `replaceFile`. */
const replacing = ["write", "open", "sync", "publish", "publish-dir"];
/** Anything that looks like the name of a step, but for events of a log. */
const suspect = new RegExp(`(?<!\\.(?:event|debug|info|warn|error)\\(\\s*)${named}`, "g");

interface Sites {
  /** In order of the alphabet. */
  names: string[];
  /** What looks like a step and is not at a call that takes one. */
  unknown: string[];
}

/** The steps in the TypeScript sources below `directories` of the repository. */
export function sitesIn(...directories: string[]): Sites {
  const names = new Set<string>();
  const unknown = new Set<string>();
  for (const file of directories.flatMap(sourcesBelow)) {
    const text = readFileSync(file, "utf8").replaceAll(/^\s*(?:\/\/|\*|\/\*\*).*$/gm, "");
    for (const [, name] of text.matchAll(step)) names.add(String(name));
    for (const [, name] of text.matchAll(replaced)) {
      for (const part of replacing) names.add(`${name}.${part}`);
    }
    for (const [, name] of text.matchAll(suspect)) unknown.add(String(name));
  }
  for (const name of names) unknown.delete(name);
  return { names: [...names].toSorted(), unknown: [...unknown].toSorted() };
}

function sourcesBelow(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts"))
    .map((name) => path.join(directory, name));
}
