import { basename, dirname } from "node:path";
import type { CommandModule } from "yargs";
import { addressFrom, UserError } from "../common/program.ts";
import {
  createSnapshot,
  deleteSnapshot,
  listSnapshots,
  pathOf,
} from "../protocol/methods/admin.ts";
import { mkdir } from "../protocol/methods/namespace.ts";
import { isDirectory } from "../protocol/mode.ts";
import type { Attr, Snapshot } from "../protocol/shapes.ts";
import { type MasterOption, withMaster, withMasterOption } from "./admin.ts";
import { type InnerPath, innerPath } from "./paths.ts";
import { createTally } from "./progress.ts";
import { Restore } from "./restore.ts";
import { NamespaceSession } from "./session.ts";

/** `gfs snapshot create|list|delete|restore`. */

function withSession<T>(
  { master }: MasterOption,
  work: (session: NamespaceSession) => Promise<T>,
): Promise<T> {
  return withMaster(addressFrom(master, "--master"), (connection) =>
    NamespaceSession.with(connection, work),
  );
}

async function directory(session: NamespaceSession, path: InnerPath): Promise<Attr> {
  const attr = await session.resolve(path);
  if (!isDirectory(attr)) {
    throw new UserError(`${path.given}: not a directory`);
  }
  return attr;
}

const isoTime = (ns: bigint): string => new Date(Number(ns / 1_000_000n)).toISOString();

const createCommand: CommandModule<
  object,
  MasterOption & { dir: string; name: string | undefined }
> = {
  command: "create <dir> [name]",
  describe: "take a snapshot of a directory and everything below it",
  builder: (yargs) =>
    withMasterOption(yargs)
      .positional("dir", { type: "string", demandOption: true, describe: "the directory" })
      .positional("name", { type: "string", describe: "its name; by default the time in UTC" }),
  handler: (options) =>
    withSession(options, async (session) => {
      const path = innerPath(options.dir);
      const { ino } = await directory(session, path);
      const name = options.name === undefined ? {} : { name: Buffer.from(options.name) };
      const { snapshot } = await session.mutate(createSnapshot, { dir: ino, ...name });
      for (const mount of snapshot.unflushed) {
        process.stderr.write(
          `gfs: ${mount} did not flush in time: its last writes may be missing\n`,
        );
      }
      process.stdout.write(`${snapshot.name.toString()}\n`);
    }),
};

const listCommand: CommandModule<
  object,
  MasterOption & { dir: string | undefined; json: boolean }
> = {
  command: "list [dir]",
  describe: "list snapshots: all, or those that show a directory",
  builder: (yargs) =>
    withMasterOption(yargs)
      .positional("dir", { type: "string", describe: "a directory" })
      .option("json", { type: "boolean", default: false, describe: "print JSON" }),
  handler: (options) =>
    withSession(options, async (session) => {
      const dir =
        options.dir === undefined
          ? {}
          : { dir: (await directory(session, innerPath(options.dir))).ino };
      const { snapshots } = await session.read(listSnapshots, { ...dir, inherited: true });
      const rows: { directory: string; name: string; createdAt: string }[] = [];
      for (const snapshot of snapshots) rows.push(await described(session, snapshot));
      process.stdout.write(
        options.json
          ? `${JSON.stringify(rows, undefined, 2)}\n`
          : rows.map((row) => `${row.createdAt}  ${row.directory}  ${row.name}\n`).join(""),
      );
    }),
};

async function described(
  session: NamespaceSession,
  snapshot: Snapshot,
): Promise<{ directory: string; name: string; createdAt: string }> {
  const { path } = await session.read(pathOf, { ino: snapshot.dir });
  return {
    directory: path.toString() || "/",
    name: snapshot.name.toString(),
    createdAt: isoTime(snapshot.createdAt),
  };
}

const deleteCommand: CommandModule<object, MasterOption & { dir: string; name: string }> = {
  command: "delete <dir> <name>",
  describe: "delete a snapshot; its space comes back in the background",
  builder: (yargs) =>
    withMasterOption(yargs)
      .positional("dir", { type: "string", demandOption: true, describe: "the directory" })
      .positional("name", { type: "string", demandOption: true, describe: "the snapshot" }),
  handler: (options) =>
    withSession(options, async (session) => {
      const { ino } = await directory(session, innerPath(options.dir));
      await session.mutate(deleteSnapshot, { dir: ino, name: Buffer.from(options.name) });
    }),
};

interface RestoreOptions extends MasterOption {
  dir: string;
  name: string;
  target: string | undefined;
}

const restoreCommand: CommandModule<object, RestoreOptions> = {
  command: "restore <dir> <name> [target]",
  describe: "put a directory back as it was in a snapshot, in place or as a new directory",
  builder: (yargs) =>
    withMasterOption(yargs)
      .positional("dir", { type: "string", demandOption: true, describe: "the directory" })
      .positional("name", { type: "string", demandOption: true, describe: "the snapshot" })
      .positional("target", { type: "string", describe: "a new directory; without it, in place" }),
  handler: (options) => withSession(options, (session) => restore(session, options)),
};

/** In place, the present state is kept as a snapshot first: a restore can be undone. */
async function restore(session: NamespaceSession, options: RestoreOptions): Promise<void> {
  const { ino: dir } = await directory(session, innerPath(options.dir));
  const { snapshots } = await session.read(listSnapshots, { dir, inherited: true });
  const snapshot = snapshots.find(({ name }) => name.toString() === options.name);
  if (!snapshot) {
    const known = `gfs snapshot list ${options.dir} names those that there are`;
    throw new UserError(`${options.dir}: no snapshot is called '${options.name}': ${known}`);
  }
  const target =
    options.target === undefined
      ? await keepPresent(session, dir)
      : await newDirectory(session, innerPath(options.target));
  const tally = createTally();
  const work = new Restore(session, snapshot.epoch, ({ seen, restored }) =>
    tally.show(`restoring: ${seen} entries, ${restored} restored`),
  );
  try {
    await work.directory(await session.attr(dir, snapshot.epoch), target);
  } finally {
    tally.end();
  }
  const { seen, restored, removed } = work.counts;
  process.stdout.write(`${seen} entries, ${restored} restored, ${removed} removed\n`);
}

async function keepPresent(session: NamespaceSession, dir: Attr["ino"]): Promise<Attr["ino"]> {
  const { snapshot } = await session.mutate(createSnapshot, { dir });
  process.stdout.write(`the present state is kept as snapshot ${snapshot.name.toString()}\n`);
  return dir;
}

async function newDirectory(session: NamespaceSession, path: InnerPath): Promise<Attr["ino"]> {
  if (await session.find(path.inner)) throw new UserError(`${path.given}: exists already`);
  const above = { ...path, given: dirname(path.given), inner: dirname(path.inner) };
  const parent = await directory(session, above);
  const { attr } = await session.mutate(mkdir, {
    parent: parent.ino,
    name: Buffer.from(basename(path.inner)),
    mode: 0o700,
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
  });
  return attr.ino;
}

export const snapshotCommand: CommandModule = {
  command: "snapshot",
  describe: "take, list, delete and restore snapshots",
  builder: (yargs) =>
    yargs
      .command(createCommand)
      .command(listCommand)
      .command(deleteCommand)
      .command(restoreCommand)
      .demandCommand(1, "which one? create, list, delete or restore"),
  handler: () => undefined,
};
