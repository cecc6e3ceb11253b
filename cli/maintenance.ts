import type { CommandModule } from "yargs";
import { addressFrom, UserError } from "../common/program.ts";
import { forgetServer, maintenance } from "../protocol/methods/admin.ts";
import { withMaster } from "./admin.ts";
import { type ServerOption, tell, withServerOption } from "./drain.ts";

/** `gfs maintenance` and `gfs forget`: chunk servers that are away, for a while or for good. */

const unitMs: Record<string, number> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `30m`, `2h`, `1d` in milliseconds. */
function durationMs(text: string): number {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  const ms = Number(match?.[1]) * (unitMs[match?.[2] ?? ""] ?? 0);
  if (!(ms > 0)) throw new UserError(`--for: '${text}' is no time such as 90s, 30m, 2h or 1d`);
  return ms;
}

interface MaintenanceOptions extends ServerOption {
  for: string;
  undo: boolean;
}

export const maintenanceCommand: CommandModule<object, MaintenanceOptions> = {
  command: "maintenance <server>",
  describe: "a chunk server will be away for a while: do not copy its chunks elsewhere",
  builder: (yargs) =>
    withServerOption(yargs)
      .option("for", {
        type: "string",
        default: "30m",
        requiresArg: true,
        describe: "how long at most: 90s, 30m, 2h, 1d",
      })
      .option("undo", { type: "boolean", default: false, describe: "it is back" }),
  handler: async ({ master, server, json, undo, for: time }) => {
    const forMs = undo ? {} : { forMs: durationMs(time) };
    const state = await withMaster(addressFrom(master, "--master"), (connection) =>
      connection.call(maintenance, { server, ...forMs }),
    );
    tell(state, json);
  },
};

export const forgetCommand: CommandModule<object, ServerOption> = {
  command: "forget <server>",
  describe: "take a chunk server that is gone off the list; nothing may depend on it",
  builder: withServerOption,
  handler: async ({ master, server, json }) => {
    const gone = await withMaster(addressFrom(master, "--master"), (connection) =>
      connection.call(forgetServer, { server }),
    );
    const line = json
      ? JSON.stringify(gone)
      : `server ${gone.server} (${gone.address}) is forgotten`;
    process.stdout.write(`${line}\n`);
  },
};
