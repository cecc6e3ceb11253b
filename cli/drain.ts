import type { Argv, CommandModule } from "yargs";
import type { Address } from "../common/address.ts";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import { addressFrom, UserError } from "../common/program.ts";
import { drain, drainProgress, undrain } from "../protocol/methods/admin.ts";
import type { ReplyOf } from "../protocol/method.ts";
import { isPassing, type MasterOption, withMaster, withMasterOption } from "./admin.ts";
import { createCountdown } from "./progress.ts";

/** `gfs drain`: empties a chunk server. Exit code 2 when it cannot be emptied as things are. */

/** Asking costs the master next to nothing; a person does not see more than this. */
const pollMs = 500;
/** The master may be restarted meanwhile: it is asked again for so long. */
const masterAwayMsMax = 60_000;
/** A drain that gets no further for so long, and has a reason, is left to go on by itself. */
const stuckMsMax = 10_000;

type DrainState = ReplyOf<typeof drainProgress>;

export interface ServerOption extends MasterOption {
  server: string;
  json: boolean;
}

/** The options of every command about one chunk server. */
export function withServerOption<T>(yargs: Argv<T>): Argv<T & ServerOption> {
  return withMasterOption(yargs)
    .positional("server", {
      type: "string",
      demandOption: true,
      describe: "the chunk server: its id or HOST:PORT",
    })
    .option("json", { type: "boolean", default: false, describe: "print JSON lines" });
}

interface DrainOptions extends ServerOption {
  undo: boolean;
  force: boolean;
  wait: boolean;
}

export const drainCommand: CommandModule<object, DrainOptions> = {
  command: "drain <server>",
  describe: "empty a chunk server, so that it can be taken away",
  builder: (yargs) =>
    withServerOption(yargs)
      .option("undo", { type: "boolean", default: false, describe: "use the server again" })
      .option("force", {
        type: "boolean",
        default: false,
        describe: "even if the other servers cannot hold as many copies as are wanted",
      })
      .option("wait", {
        type: "boolean",
        default: true,
        describe: "until it is empty; --no-wait: it goes on by itself",
      })
      .check(({ undo, force }) => {
        if (undo && force) throw new UserError("give --undo or --force, not both");
        return true;
      }),
  handler: async (options) => {
    const address = addressFrom(options.master, "--master");
    const { server, force, undo, wait, json } = options;
    const state = await withMaster(address, (connection) =>
      undo ? connection.call(undrain, { server }) : connection.call(drain, { server, force }),
    );
    if (undo || !wait) return tell(state, json);
    await follow(address, state, json);
  },
};

/** One line about a server: JSON, or a sentence. */
export function tell(state: DrainState, json: boolean): void {
  process.stdout.write(json ? `${JSON.stringify(state)}\n` : `${sentence(state)}\n`);
}

function sentence({ server, address, mode, left }: DrainState): string {
  const name = `server ${server} (${address})`;
  switch (mode) {
    case "active":
      return `${name} is in use`;
    case "draining":
    case "emptying":
      return `${name} is being emptied: ${left} chunks are left`;
    case "drained":
      return `${name} is drained: it can be stopped and forgotten`;
    case "maintenance":
      return `${name} is in maintenance: its chunks are not copied elsewhere`;
  }
}

/** Shows how the server gets empty, also over a restart of the master. */
async function follow(address: Address, first: DrainState, json: boolean): Promise<void> {
  const bar = createCountdown(json ? 0 : first.left);
  let state = first;
  let progressMs = systemClock.nowMs();
  let told = "";
  const interrupted = (): void => {
    bar.end();
    const { server } = first;
    const next = `gfs drain ${server} shows it again, gfs drain --undo ${server} ends it`;
    process.stderr.write(`gfs: the drain goes on without being shown: ${next}\n`);
    process.exit(130);
  };
  process.once("SIGINT", interrupted);
  const isStuck = (): boolean =>
    state.stuck !== undefined && systemClock.nowMs() > progressMs + stuckMsMax;
  try {
    while (state.mode === "draining" && !isStuck()) {
      bar.show(state.left, state.stuck ?? `chunks have left server ${first.server}`);
      const line = JSON.stringify(state);
      if (json && line !== told) process.stdout.write(`${line}\n`);
      told = line;
      await sleep(systemClock, pollMs);
      const { left } = state;
      state = await progress(address, String(first.server));
      if (state.left < left) progressMs = systemClock.nowMs();
    }
  } finally {
    process.off("SIGINT", interrupted);
    bar.end();
  }
  tell(state, json);
  if (state.mode === "drained") return;
  process.exitCode = 2;
  if (isStuck()) process.stderr.write(`gfs: ${state.stuck}: it goes on when that has changed\n`);
}

async function progress(address: Address, server: string): Promise<DrainState> {
  const endMs = systemClock.nowMs() + masterAwayMsMax;
  for (;;) {
    try {
      return await withMaster(address, (connection) => connection.call(drainProgress, { server }));
    } catch (error) {
      const passing = error instanceof UserError && isPassing(error.cause);
      if (!passing || systemClock.nowMs() > endMs) throw error;
      await sleep(systemClock, pollMs);
    }
  }
}
