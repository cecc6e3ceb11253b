import type { CommandModule } from "yargs";
import { blockBytes } from "../common/crc32c.ts";
import { addressFrom, usageError, UserError } from "../common/program.ts";
import type { Connection } from "../protocol/connection.ts";
import { type ChunkHandle, chunkHandle } from "../protocol/id.ts";
import { fsckHandlesMax } from "../protocol/limits.ts";
import type { ReplyOf } from "../protocol/method.ts";
import { fsckChunks, fsckFiles } from "../protocol/methods/admin.ts";
import { type MasterOption, withMaster, withMasterOption } from "./admin.ts";

/**
 * `gfs fsck`: what is wrong with chunks, and with which bytes of which files. Exit code 0: nothing;
 * 1: what repair mends (copies are missing, or bad blocks are good elsewhere); 2: data is lost;
 * 3: it could not be found out, also because of a wrong command line.
 */

const notFoundOut = 3;

/** Problems that are listed: of a whole disk that is gone there may be millions. */
const problemsMax = 10_000;

interface FsckOptions extends MasterOption {
  json: boolean;
}

type Problem = ReplyOf<typeof fsckChunks>["problems"][number];

interface DamagedFile {
  path: string;
  ino: number;
  /** First and length, in bytes of the file. */
  ranges: { offset: number; length: number }[];
}

interface Report {
  chunks: number;
  belowGoal: number;
  /** How many problems there are; the first of them are listed. */
  counts: Record<Problem["problem"], number>;
  problems: { handle: number; problem: Problem["problem"]; files: DamagedFile[] }[];
}

export const fsckCommand: CommandModule<object, FsckOptions> = {
  command: "fsck",
  describe: "list chunks that are lost or corrupt, and the files that they belong to",
  builder: (yargs) =>
    withMasterOption(yargs)
      .fail((message: string | null, error: Error | undefined) => {
        throw usageError("gfs fsck", message, error, notFoundOut);
      })
      .option("json", { type: "boolean", default: false, describe: "print JSON" }),
  handler: async ({ master, json }) => {
    try {
      const report = await withMaster(addressFrom(master, "--master"), examine);
      process.stdout.write(json ? `${JSON.stringify(report, undefined, 2)}\n` : asText(report));
      process.exitCode = exitCodeOf(report);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError(error.message, { cause: error, exitCode: notFoundOut });
    }
  },
};

function exitCodeOf({ belowGoal, counts }: Report): number {
  if (counts.lost + counts.corrupt > 0) return 2;
  return belowGoal + counts.mendable > 0 ? 1 : 0;
}

async function examine(connection: Connection): Promise<Report> {
  const counts = { lost: 0, corrupt: 0, mendable: 0 };
  const report: Report = { chunks: 0, belowGoal: 0, counts, problems: [] };
  const found: Problem[] = [];
  for (let from: ChunkHandle | undefined = chunkHandle(0); from !== undefined;) {
    const page: ReplyOf<typeof fsckChunks> = await connection.call(fsckChunks, { from });
    report.chunks += page.chunks;
    report.belowGoal += page.belowGoal;
    for (const problem of page.problems) {
      counts[problem.problem] += 1;
      if (found.length < problemsMax) found.push(problem);
    }
    from = page.next;
  }
  for (let at = 0; at < found.length; at += fsckHandlesMax) {
    report.problems.push(...(await withFiles(connection, found.slice(at, at + fsckHandlesMax))));
  }
  return report;
}

async function withFiles(
  connection: Connection,
  problems: readonly Problem[],
): Promise<Report["problems"]> {
  const files = new Map<ChunkHandle, DamagedFile[]>();
  const handles = problems.map(({ handle }) => handle);
  const blocksOf = new Map(problems.map(({ handle, blocks }) => [handle, blocks]));
  let from: Buffer | undefined;
  do {
    const request = { handles, ...(from ? { from } : {}) };
    const page: ReplyOf<typeof fsckFiles> = await connection.call(fsckFiles, request);
    for (const { handle, ino, offset, path } of page.files) {
      const ranges = rangesOf(blocksOf.get(handle) ?? [], offset, page.chunkBytes);
      const named = { path: Buffer.from(path).toString(), ino, ranges };
      files.set(handle, [...(files.get(handle) ?? []), named]);
    }
    from = page.next && Buffer.from(page.next);
  } while (from);
  return problems.map(({ handle, problem }) => ({
    ...{ handle, problem },
    files: files.get(handle) ?? [],
  }));
}

/** Bytes of the file; blocks that follow one another are one range. */
function rangesOf(
  blocks: readonly number[],
  chunkOffset: number,
  chunkBytes: number,
): DamagedFile["ranges"] {
  if (blocks.length === 0) return [{ offset: chunkOffset, length: chunkBytes }];
  const ranges: DamagedFile["ranges"] = [];
  for (const block of blocks) {
    const offset = chunkOffset + block * blockBytes;
    const last = ranges.at(-1);
    if (last && last.offset + last.length === offset) last.length += blockBytes;
    else ranges.push({ offset, length: blockBytes });
  }
  return ranges;
}

function asText({ chunks, belowGoal, counts, problems }: Report): string {
  const lines: string[] = [];
  for (const { handle, problem, files } of problems) {
    for (const { path, ranges } of files) {
      const where = ranges.map(({ offset, length }) => `${offset}-${offset + length - 1}`);
      // A name may have any byte in it, and a line is a line.
      const bytes = problem === "mendable" ? "" : ` bytes ${where.join(", ")}`;
      lines.push(`${problem} chunk ${handle}: ${JSON.stringify(path)}${bytes}`);
    }
    if (files.length === 0) lines.push(`${problem} chunk ${handle}: of no file any more`);
  }
  const listed = problems.length;
  const all = counts.lost + counts.corrupt + counts.mendable;
  if (listed < all) lines.push(`and ${all - listed} more chunks`);
  lines.push(
    `chunks ${chunks}, below goal ${belowGoal}, lost ${counts.lost}, corrupt ${counts.corrupt}, ` +
      `mendable ${counts.mendable}`,
  );
  return `${lines.join("\n")}\n`;
}
