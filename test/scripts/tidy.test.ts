import t from "tap";
import { findBreaches, type SourceFile } from "../../scripts/tidy.ts";

/** What tidy says about these files, without the lines that say a made-up file is unused. */
function breaches(files: Record<string, string>, executable = true): string[] {
  const sources: SourceFile[] = Object.entries(files).map(([path, text]) => ({
    path,
    text,
    executable,
  }));
  return findBreaches(sources)
    .filter(({ reason }) => !reason.endsWith("imported by no other file"))
    .map(({ path, line, reason }) => `${path}:${line}: ${reason}`);
}

const long = "x".repeat(101);

t.test("lines are 100 columns at most, except tables and URLs", (t) => {
  t.same(breaches({ "a.md": `# A\n${long}\n` }), ["a.md:2: 101 columns, 100 at most"]);
  t.same(breaches({ "common/a.ts": `\n// ${"é".repeat(97)}\n` }), []);
  t.same(breaches({ "a.md": `# A\n| ${long} |\nsee https://example.org/${long}\n` }), []);
  t.end();
});

t.test("no leftover notes to self", (t) => {
  const word = ["TO", "DO"].join("");
  t.same(breaches({ "a.md": `# A\n${word}: more\n` }), [`a.md:2: leftover ${word}`]);
  t.same(breaches({ "a.md": "# A\nmktemp gfs.XXXXXX\n" }), []);
  t.end();
});

t.test("a document has one title", (t) => {
  t.same(breaches({ "a.md": "text\n" }), ["a.md:1: has no `# Title`"]);
  t.same(breaches({ "a.md": "# A\n```sh\n# a comment\n```\n## B\n" }), []);
  t.match(breaches({ "a.md": "# A\n# B\n" }), [/^a.md:2: a second/]);
  t.end();
});

t.test("imports point from the programs to the common parts only", (t) => {
  const importing = (path: string): string => `import { a } from "${path}";\n`;
  t.match(breaches({ "common/a.ts": importing("../protocol/id.ts") }), [/^common\/a.ts:1: common/]);
  t.match(breaches({ "master/a.ts": `\n${importing("../mount/a.ts")}` }), [/^master\/a.ts:2:/]);
  t.match(breaches({ "cli/a.ts": importing("../master/main.ts") }), [/cli imports master\/main/]);
  t.match(breaches({ "mount/a.ts": 'await import("../chunkd/a.ts");\n' }), [
    /mount imports chunkd/,
  ]);
  t.same(breaches({ "mount/a.ts": importing("../protocol/id.ts") }), []);
  t.same(breaches({ "test/a.ts": importing("../master/a.ts") }), []);
  t.match(breaches({ "common/a.ts": 'export * from "../cli/a.ts";\n' }), [/common imports cli/]);
  t.match(breaches({ "common/a.ts": 'import "../cli/a.ts";\n' }), [/common imports cli/]);
  t.same(breaches({ "common/a.ts": 'export const a = f("../package.json");\n' }), []);
  t.end();
});

t.test("lmdb is known to one file per program", (t) => {
  const text = 'import { open } from "lmdb";\n';
  t.same(breaches({ "master/a.ts": text, "chunkd/b.ts": text }), []);
  t.same(breaches({ "master/a.ts": text, "master/b.ts": text }), [
    "master/b.ts:1: only master/a.ts knows lmdb",
  ]);
  t.same(breaches({ "mount/a.ts": text }), ["mount/a.ts:1: mount has no use for lmdb"]);
  t.end();
});

t.test("banned calls name their replacement, comments may mention them", (t) => {
  t.match(breaches({ "master/a.ts": "console.log(1);\n" }), [/console\.log\( — use Log/]);
  t.match(breaches({ "master/a.ts": 'import fs from "node:fs";\n' }), [/node:fs" — use/]);
  t.same(breaches({ "master/a.ts": 'import type { Stats } from "node:fs";\n' }), []);
  t.same(breaches({ "master/main.ts": 'import fs from "node:fs";\n' }), []);
  t.match(breaches({ "master/a.ts": "a = Date.now();\n" }), [/use a Clock/]);
  t.same(breaches({ "master/a.ts": "a = new Date(ms);\n" }), []);
  t.match(breaches({ "mount/a.ts": "const a = 1 as Ino;\n" }), [/protocol\/id\.ts/]);
  t.same(breaches({ "mount/a.ts": "/** Not console.log(). */\n// nor process.exit(1)\n" }), []);
  t.end();
});

t.test("a file that nothing names is dead", (t) => {
  const unused = (files: Record<string, string>): string[] =>
    findBreaches(
      Object.entries(files).map(([path, text]) => ({ path, text, executable: false })),
    ).map(({ path }) => path);
  t.same(unused({ "common/a.ts": "", "master/main.ts": "" }), ["common/a.ts"]);
  t.same(unused({ "common/a.ts": "", "master/main.ts": 'import "../common/a.ts";\n' }), []);
  t.same(unused({ "scripts/bench.ts": "", "package.json": "node build/scripts/bench.js" }), []);
  t.end();
});

t.test("what is exported is imported somewhere, be it by a test", (t) => {
  const declared = [
    ...["/** export const no = 1; */", "export const a = 1;", "export async function b() {}"],
    ...["export abstract class C {}", "export interface D {}", "export type E = 1;"],
    ...["const f = 1;", "export { f, a as g };", "const own = 1;", ""],
  ].join("\n");
  const idle = (user: string): string[] =>
    findBreaches([
      { path: "common/a.ts", text: declared, executable: false },
      { path: "master/main.ts", text: `${user}\n`, executable: false },
    ]).flatMap(({ reason }) => /^(\w+) is exported/.exec(reason)?.slice(1) ?? []);
  const from = '"../common/a.ts";';
  t.same(idle("").toSorted(), ["C", "D", "E", "a", "b", "f", "g"]);
  t.same(idle(`import { a, b, type C } from ${from}`), ["D", "E", "f", "g"]);
  const both = `import type { D } from ${from}\nexport { a, b, C, E, f as x, g } from ${from}`;
  t.same(idle(both), []);
  t.same(idle(`import {\n  a as z,\n  type D as Y,\n} from ${from}`), ["b", "C", "E", "f", "g"]);
  t.same(idle(`import * as all from ${from}`), []);
  t.same(idle('await import("../common/a.ts");'), []);
  t.end();
});

t.test("a script is executable", (t) => {
  t.same(breaches({ "scripts/up": "#!/bin/bash\n" }, false), [
    "scripts/up:1: starts with #! but is not executable",
  ]);
  t.end();
});
