/**
 * The project's own rules, those that no linter has: `npm run tidy`. Prints `file:line: reason` for
 * each breach and exits 1 if there was any. (Function and file length are oxlint's, as warnings.)
 *
 * A breach is mended, not silenced: where a rule is wrong for a file, the exception stands here.
 */

import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { UserError, runMain } from "../common/program.ts";

export interface SourceFile {
  /** From the repository's root, with slashes. */
  path: string;
  text: string;
  executable: boolean;
}

interface Finding {
  path: string;
  line: number;
  reason: string;
}

const columnsMax = 100;

/** Each folder imports only what is named beside it: common ← protocol ← programs ← test. */
const mayImport: Record<string, readonly string[]> = {
  common: ["common"],
  protocol: ["common", "protocol"],
  master: ["common", "protocol", "master"],
  chunkd: ["common", "protocol", "chunkd"],
  mount: ["common", "protocol", "mount"],
  cli: ["common", "protocol", "cli"],
  scripts: ["common", "protocol", "cli", "scripts"],
};

/** What talks to the machine directly: the kernel's side of the mount, and every `main.ts`. */
const outer = /^(?:common\/os|mount\/fuse|cli|scripts|test)\/|\/(?:main|daemon)\.ts$/;

interface Ban {
  pattern: RegExp;
  /** Where it is allowed. */
  except: RegExp;
  instead: string;
}

/** What must not be called, where, and what to use instead. Comments are not looked at. */
const bans: readonly Ban[] = [
  {
    pattern: /^import (?!type\b)[^;]*"node:fs(?:\/promises)?"/,
    except: outer,
    instead: "take a Disk or a Files interface through the constructor; common/os has the real one",
  },
  {
    // Writing a given time as text is not telling the time: `new Date(ms)` is allowed.
    pattern: /\bperformance\.now\(|\bprocess\.hrtime\b|\bDate\.now\(|\bnew Date\(\)/,
    except: outer,
    instead: "a Clock (common/clock.ts) that came through the constructor",
  },
  {
    pattern: /\b(?:randomBytes|randomUUID|randomInt|getRandomValues)\(/,
    except: outer,
    instead: "take randomness through the constructor; main.ts has the real one",
  },
  {
    pattern: /\bprocess\.env\b/,
    except: outer,
    instead: "read the environment in main.ts and pass the value on",
  },
  {
    pattern: /\bprocess\.exit\(/,
    except: /^(?:common\/program\.ts|common\/os\/|cli\/|scripts\/|test\/)|\/main\.ts$/,
    instead: "throw, so that runMain (common/program.ts) ends the program in one way",
  },
  {
    pattern: /\bconsole\.(?:log|warn|error|info|debug)\(/,
    except: /^test\//,
    instead: "Log (common/log.ts), or process.stdout.write for what the user asked for",
  },
  {
    pattern: /"node:assert(?:\/strict)?"/,
    except: /^test\//,
    instead: "assert (common/assert.ts)",
  },
  {
    pattern: /\bas (?:Ino|ChunkHandle|Epoch|ChunkVersion|ServerId|SessionId)\b/,
    except: /^(?:protocol\/id|test\/scripts\/tidy\.test)\.ts$/,
    instead: "the function of that name in protocol/id.ts: casts live there only",
  },
  {
    pattern: /\.only\(/,
    except: /^$/,
    instead: "all tests: a focused test hides the others",
  },
];

/** Spelled so that this file passes its own rule. */
const leftover = /\b(TOD[O]|FIXM[E]|XX[X])\b/;

/** Checks files against all rules; pure, so that a test can make up the files. */
export function findBreaches(files: readonly SourceFile[]): Finding[] {
  const findings: Finding[] = [];
  for (const file of files) {
    findings.push(...lineBreaches(file));
    if (file.path.endsWith(".md")) findings.push(...titleBreaches(file));
    if (file.path.endsWith(".ts")) findings.push(...banBreaches(file), ...directionBreaches(file));
    if (file.text.startsWith("#!") && !file.path.endsWith(".ts") && !file.executable) {
      findings.push({ path: file.path, line: 1, reason: "starts with #! but is not executable" });
    }
  }
  findings.push(...unusedBreaches(files), ...doorBreaches(files), ...exportBreaches(files));
  return findings.toSorted((a, b) => a.path.localeCompare(b.path) || a.line - b.line);
}

function lineBreaches({ path: name, text }: SourceFile): Finding[] {
  const findings: Finding[] = [];
  for (const [i, line] of text.split("\n").entries()) {
    const columns = Array.from(line).length;
    const unbreakable = line.includes("://") || (name.endsWith(".md") && /^\s*\|/.test(line));
    if (columns > columnsMax && !unbreakable && !name.endsWith(".json")) {
      findings.push({
        path: name,
        line: i + 1,
        reason: `${columns} columns, ${columnsMax} at most`,
      });
    }
    const found = leftover.exec(line);
    if (found) findings.push({ path: name, line: i + 1, reason: `leftover ${found[1]}` });
  }
  return findings;
}

function titleBreaches({ path: name, text }: SourceFile): Finding[] {
  let fenced = false;
  const titles: number[] = [];
  for (const [i, line] of text.split("\n").entries()) {
    if (/^\s*(?:```|~~~)/.test(line)) fenced = !fenced;
    if (!fenced && /^# /.test(line)) titles.push(i + 1);
  }
  if (titles.length === 0) return [{ path: name, line: 1, reason: "has no `# Title`" }];
  return titles
    .slice(1)
    .map((line) => ({ path: name, line, reason: "a second `# Title`: use ## below the first" }));
}

function banBreaches({ path: name, text }: SourceFile): Finding[] {
  const findings: Finding[] = [];
  for (const [i, line] of withoutComments(text).split("\n").entries()) {
    for (const { pattern, except, instead } of bans) {
      const found = except.test(name) ? null : pattern.exec(line);
      if (found) {
        findings.push({ path: name, line: i + 1, reason: `${found[0]} — use ${instead}` });
      }
    }
  }
  return findings;
}

function directionBreaches(file: SourceFile): Finding[] {
  const from = file.path.split("/")[0] ?? "";
  const allowed = mayImport[from];
  if (!allowed) return [];
  return importsOf(file)
    .filter(({ target }) => target !== undefined && !allowed.includes(target.split("/")[0] ?? ""))
    .map(({ line, target }) => ({
      path: file.path,
      line,
      reason: `${from} imports ${target}: it may import ${allowed.join(", ")} only`,
    }));
}

/** `lmdb` is known to one file per program, so that the store can be exchanged there. */
function doorBreaches(files: readonly SourceFile[]): Finding[] {
  const findings: Finding[] = [];
  const doors = new Map<string, string>();
  for (const file of files.filter(({ path: name }) => /^(?!test\/).*\.ts$/.test(name))) {
    const found = importsOf(file).find(({ specifier }) => specifier === "lmdb");
    if (!found) continue;
    const folder = file.path.split("/")[0] ?? "";
    const door = doors.get(folder);
    if (folder !== "master" && folder !== "chunkd") {
      findings.push({ path: file.path, line: found.line, reason: `${folder} has no use for lmdb` });
    } else if (door) {
      findings.push({ path: file.path, line: found.line, reason: `only ${door} knows lmdb` });
    } else {
      doors.set(folder, file.path);
    }
  }
  return findings;
}

/** A source file that no other file names is dead, unless it is where a program starts. */
function unusedBreaches(files: readonly SourceFile[]): Finding[] {
  const used = new Set<string>();
  for (const file of files) {
    if (file.path.endsWith(".ts")) {
      for (const { target } of importsOf(file)) if (target) used.add(target);
    }
    // Also what is started by path: a worker, a child process, a script named in package.json.
    for (const [, named] of file.text.matchAll(/([\w-]+(?:\.test)?)\.[jt]s\b/g)) {
      if (named && path.basename(file.path) !== `${named}.ts`) used.add(`*/${named}.ts`);
    }
  }
  return files
    .filter(
      ({ path: name }) => /\.ts$/.test(name) && !/(?:^|\/)main\.ts$|\.(?:test|d)\.ts$/.test(name),
    )
    .filter(({ path: name }) => !used.has(name) && !used.has(`*/${path.basename(name)}`))
    .map(({ path: name }) => ({ path: name, line: 1, reason: "is imported by no other file" }));
}

/** What is exported and imported by no other file: a reader would look for who uses it. */
function exportBreaches(files: readonly SourceFile[]): Finding[] {
  const sources = files.filter(({ path: name }) => /(?<!\.d)\.ts$/.test(name));
  /** `file name`, or `file *` if any name may be used. */
  const used = new Set<string>();
  for (const { target, names } of sources.flatMap(importsOf)) {
    for (const name of names) used.add(`${target} ${name}`);
  }
  return sources
    .filter(({ path: name }) => !used.has(`${name} *`))
    .flatMap((file) =>
      exportsOf(file)
        .filter(({ name }) => !used.has(`${file.path} ${name}`))
        .map(({ name, line }) => ({
          path: file.path,
          line,
          reason: `${name} is exported and imported by no other file`,
        })),
    );
}

function exportsOf({ text }: SourceFile): { name: string; line: number }[] {
  const code = withoutComments(text);
  const what = "(?:const|let|function\\*?|class|interface|type)";
  const declaration = new RegExp(`^export (?:async |abstract |declare )*${what} (\\w+)`, "gm");
  const list = /^export (?:type )?\{([^}]*)\};/gm;
  const lineAt = (index: number): number => code.slice(0, index).split("\n").length;
  return [
    ...[...code.matchAll(declaration)].map((match) => ({
      name: match[1] ?? "",
      line: lineAt(match.index),
    })),
    ...[...code.matchAll(list)].flatMap((match) =>
      namesIn(match[1] ?? "").map(({ outside }) => ({ name: outside, line: lineAt(match.index) })),
    ),
  ];
}

/** The names between braces; `inside as outside` has two. */
function namesIn(braces: string): { inside: string; outside: string }[] {
  return braces.split(",").flatMap((item) => {
    const [, inside = "", outside = inside] =
      /^(?:type )?(\w+)(?: as (\w+))?$/.exec(item.trim()) ?? [];
    return inside === "" ? [] : [{ inside, outside }];
  });
}

interface Import {
  line: number;
  specifier: string;
  /** What is taken from it: "*" if that is anything, or cannot be told. */
  names: string[];
  /** The imported file from the repository's root; undefined for a package. */
  target: string | undefined;
}

function importsOf({ path: name, text }: SourceFile): Import[] {
  const code = withoutComments(text);
  const statement =
    /^(?:import\b|export\b[^;"'(]*?\bfrom\b)[^;"'(]*?"([^"\n]+)"|\bimport\("([^"\n]+)"\)/gm;
  return [...code.matchAll(statement)].map((match) => {
    const specifier = match[1] ?? match[2] ?? "";
    const relative = specifier.startsWith(".");
    const braces = /^(?:import|export)(?: type)? (?:\w+, )?\{([^}]*)\}/.exec(match[0]);
    return {
      names: braces ? namesIn(braces[1] ?? "").map(({ inside }) => inside) : ["*"],
      line: code.slice(0, match.index).split("\n").length,
      specifier,
      target: relative ? path.posix.join(path.posix.dirname(name), specifier) : undefined,
    };
  });
}

/** The same lines, with comments blanked. Good enough for code that Prettier has formatted. */
function withoutComments(text: string): string {
  return text
    .replaceAll(/^\s*\/\*[\s\S]*?\*\//gm, (comment) => comment.replaceAll(/[^\n]/g, " "))
    .replaceAll(/(^|\s)\/\/ .*$/gm, "$1");
}

/** What git tracks or would track, so that a new file is checked before it is added. */
function listFiles(root: string): SourceFile[] {
  const listed = spawnSync(
    "git",
    ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    { cwd: root, encoding: "utf8", maxBuffer: 1 << 26 },
  );
  if (listed.error || listed.status !== 0) {
    throw new UserError(`git ls-files: ${listed.error?.message ?? listed.stderr.trim()}`);
  }
  const text = /\.(?:ts|md|json|sh|ya?ml|service|c|h)$|^(?:scripts|\.ci)\/[^.]+$/;
  const names = [...new Set(listed.stdout.split("\0"))];
  return names
    .filter((name) => text.test(name) && name !== "package-lock.json")
    .filter((name) => !name.startsWith("test/golden/"))
    .flatMap((name) => {
      const stat = statSync(path.join(root, name), { throwIfNoEntry: false });
      if (!stat?.isFile()) return [];
      const body = readFileSync(path.join(root, name), "utf8");
      return [{ path: name, text: body, executable: (stat.mode & 0o111) !== 0 }];
    });
}

function main(): Promise<void> {
  const files = listFiles(process.cwd());
  const findings = findBreaches(files);
  for (const { path: name, line, reason } of findings) {
    process.stdout.write(`${name}:${line}: ${reason}\n`);
  }
  process.stdout.write(`tidy: ${files.length} files, ${findings.length} breaches\n`);
  if (findings.length > 0) process.exitCode = 1;
  return Promise.resolve();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await runMain("tidy", main);
