import type { Argv, CommandModule } from "yargs";
import { addressFrom, UserError } from "../common/program.ts";
import type { Ino } from "../protocol/id.ts";
import type { ReplyOf } from "../protocol/method.ts";
import { getReplicas, replicasMax, setReplicas } from "../protocol/methods/namespace.ts";
import { isDirectory } from "../protocol/mode.ts";
import { type MasterOption, withMaster, withMasterOption } from "./admin.ts";
import { innerPath } from "./paths.ts";
import { createTally } from "./progress.ts";
import { NamespaceSession } from "./session.ts";

/**
 * `gfs replicas get|set`: how many replicas are wanted of what is in a directory. The master is
 * asked in steps, so a tree of any size holds nobody up; if it is broken off, running it again goes
 * on where it was.
 */

interface PathOptions extends MasterOption {
  path: string;
  json: boolean;
}

function withPath<T>(yargs: Argv<T>): Argv<T & PathOptions> {
  return withMasterOption(yargs)
    .positional("path", { type: "string", demandOption: true, describe: "a directory or a file" })
    .option("json", { type: "boolean", default: false, describe: "print JSON" });
}

type Items = { ino: Ino; from: number }[];

/** Calls `visit` with the inode of `path` and all below it, a page at a time, parents first. */
async function walkTree(
  session: NamespaceSession,
  path: string,
  visit: (items: Items) => Promise<void>,
): Promise<void> {
  const top = await session.resolve(innerPath(path));
  // A directory comes before what is listed in it: what is made meanwhile inherits the new number.
  await visit([{ ino: top.ino, from: 0 }]);
  const directories = isDirectory(top) ? [top.ino] : [];
  for (let next = directories.pop(); next !== undefined; next = directories.pop()) {
    let page: Items = [];
    for await (const { attr } of session.entries(next, undefined)) {
      page.push({ ino: attr.ino, from: 0 });
      if (isDirectory(attr)) directories.push(attr.ino);
      if (page.length < itemsPerStep) continue;
      await visit(page);
      page = [];
    }
    if (page.length > 0) await visit(page);
  }
}

/** Items in one question: few enough that the bar moves. */
const itemsPerStep = 500;

/** Repeats a step until all items are done. */
async function stepByStep<Reply extends { done: number; from: number }>(
  items: Items,
  step: (items: Items) => Promise<Reply>,
  note: (reply: Reply) => void,
): Promise<void> {
  for (let left = items; left.length > 0;) {
    const reply = await step(left);
    note(reply);
    const [next, ...rest] = left.slice(reply.done);
    left = next ? [{ ...next, from: reply.from }, ...rest] : [];
  }
}

interface SetResult {
  replicas: number;
  seen: number;
  inodes: number;
  chunks: number;
}

async function setAll(
  session: NamespaceSession,
  { path, replicas }: { path: string; replicas: number },
): Promise<SetResult> {
  const result = { replicas, seen: 0, inodes: 0, chunks: 0 };
  const tally = createTally();
  try {
    await walkTree(session, path, async (items) => {
      await stepByStep(
        items,
        (left) => session.mutate(setReplicas, { items: left, replicas }),
        ({ inodes, chunks }) => {
          result.inodes += inodes;
          result.chunks += chunks;
        },
      );
      result.seen += items.length;
      tally.show(`setting ${result.seen} files and directories`);
    });
  } finally {
    tally.end();
  }
  return result;
}

const setCommand: CommandModule<object, PathOptions & { number: number }> = {
  command: "set <path> <number>",
  describe: "want this many replicas of a file, or of a directory and all that is below it",
  builder: (yargs) =>
    withPath(yargs).positional("number", {
      type: "number",
      demandOption: true,
      describe: `1 to ${replicasMax}`,
    }),
  handler: ({ master, path, number, json }) => {
    if (!Number.isInteger(number) || number < 1 || number > replicasMax) {
      throw new UserError(`a number of replicas is from 1 to ${replicasMax}, not ${number}`);
    }
    return withMaster(addressFrom(master, "--master"), (connection) =>
      NamespaceSession.with(connection, async (session) => {
        const result = await setAll(session, { path, replicas: number });
        const { seen, inodes, chunks } = result;
        process.stdout.write(
          json
            ? `${JSON.stringify({ path, ...result }, undefined, 2)}\n`
            : `${seen} files and directories, ${inodes} changed, ${chunks} chunks changed\n`,
        );
      }),
    );
  },
};

type Counts = Pick<ReplyOf<typeof getReplicas>, "goals" | "chunks">;

function addCounts(sum: Counts, { goals, chunks }: Counts): void {
  for (const { goal, inodes } of goals) {
    const known = sum.goals.find((other) => other.goal === goal);
    if (known) known.inodes += inodes;
    else sum.goals.push({ goal, inodes });
  }
  sum.goals.sort((a, b) => a.goal - b.goal);
  sum.chunks.total += chunks.total;
  sum.chunks.atGoal += chunks.atGoal;
  sum.chunks.belowGoal += chunks.belowGoal;
  sum.chunks.aboveGoal += chunks.aboveGoal;
}

async function countAll(
  session: NamespaceSession,
  path: string,
): Promise<Counts & { replicas: number | undefined }> {
  const chunks = { total: 0, atGoal: 0, belowGoal: 0, aboveGoal: 0 };
  const counts: Counts = { goals: [], chunks };
  /** The first that is counted is what was named. */
  let replicas: number | undefined;
  let seen = 0;
  const tally = createTally();
  try {
    await walkTree(session, path, async (items) => {
      await stepByStep(
        items,
        (left) => session.read(getReplicas, { items: left }),
        (reply) => {
          replicas ??= reply.goals[0]?.goal;
          addCounts(counts, reply);
        },
      );
      seen += items.length;
      tally.show(`counting ${seen} files and directories`);
    });
  } finally {
    tally.end();
  }
  return { replicas, ...counts };
}

const getCommand: CommandModule<object, PathOptions> = {
  command: "get <path>",
  describe: "show how many replicas are wanted, and how many chunks have them",
  builder: (yargs) => withPath(yargs),
  handler: ({ master, path, json }) =>
    withMaster(addressFrom(master, "--master"), (connection) =>
      NamespaceSession.with(connection, async (session) => {
        const counts = await countAll(session, path);
        const text = json
          ? JSON.stringify({ path, ...counts }, undefined, 2)
          : asText(path, counts);
        process.stdout.write(`${text}\n`);
      }),
    ),
};

function asText(path: string, counts: Counts & { replicas: number | undefined }): string {
  const { total, atGoal, belowGoal, aboveGoal } = counts.chunks;
  return [
    counts.replicas === undefined
      ? `${path}: neither a file nor a directory`
      : `${path}: ${counts.replicas} replicas`,
    ...counts.goals.map(({ goal, inodes }) => `${goal} replicas: ${inodes} files and directories`),
    `chunks ${total}: at their goal ${atGoal}, below ${belowGoal}, above ${aboveGoal}`,
  ].join("\n");
}

export const replicasCommand: CommandModule = {
  command: "replicas",
  describe: "show and set how many replicas are wanted",
  builder: (yargs) =>
    yargs.command(getCommand).command(setCommand).demandCommand(1, "which one? get or set"),
  handler: () => undefined,
};
