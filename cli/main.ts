#!/usr/bin/env node
import yargs from "yargs";
import { UserError, runMain, usageError } from "../common/program.ts";
import { StatusError } from "../protocol/status.ts";
import { downCommand } from "./down.ts";
import { drainCommand } from "./drain.ts";
import { forgetCommand, maintenanceCommand } from "./maintenance.ts";
import { fsckCommand } from "./fsck.ts";
import { replicasCommand } from "./replicas.ts";
import { snapshotCommand } from "./snapshot.ts";
import { statusCommand } from "./status.ts";
import { upCommand } from "./up.ts";

/** `gfs`, the operator's command. Each subcommand has a file of its own. */
async function main(): Promise<void> {
  // `gfs … | head` is no reason to stop half-way: what nobody reads is not written.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
  try {
    await yargs(process.argv.slice(2))
      .scriptName("gfs")
      .usage("$0 <command>: run, watch and snapshot a gfs cluster")
      .command(upCommand)
      .command(downCommand)
      .command(statusCommand)
      .command(fsckCommand)
      .command(snapshotCommand)
      .command(drainCommand)
      .command(maintenanceCommand)
      .command(forgetCommand)
      .command(replicasCommand)
      .completion("completion", "print a completion script for bash or zsh")
      .demandCommand(1, "a command is missing")
      .strictCommands()
      .strict()
      .locale("en")
      .help()
      .alias("help", "h")
      .wrap(process.stdout.columns ? Math.min(100, process.stdout.columns) : 100)
      // One line and the way to more, not the whole usage.
      .fail((message: string | null, error: Error | undefined) => {
        throw usageError("gfs", message, error);
      })
      .parseAsync();
  } catch (error) {
    if (error instanceof StatusError) throw new UserError(error.message, { cause: error });
    throw error;
  }
}

await runMain("gfs", main);
