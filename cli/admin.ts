import type { Argv } from "yargs";
import { type Address, formatAddress, masterAddressDefault } from "../common/address.ts";
import { silentLog } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import { UserError } from "../common/program.ts";
import { type Connection, Handlers } from "../protocol/connection.ts";
import { dial, websocketConnect } from "../protocol/dial.ts";
import { StatusError } from "../protocol/status.ts";

/** Connects to the master as an operator; rejects with a `StatusError`. */
export async function dialMaster(
  address: Address,
): Promise<{ connection: Connection; cluster: string }> {
  return dial({
    address,
    connect: websocketConnect(systemClock),
    role: "admin",
    name: `gfs (pid ${process.pid})`,
    cluster: "",
    handlers: new Handlers(),
    clock: systemClock,
    log: silentLog,
  });
}

/** Runs `work` with a connection to the master; what fails is told in one line. */
export async function withMaster<T>(
  address: Address,
  work: (connection: Connection, cluster: string) => Promise<T>,
): Promise<T> {
  try {
    const { connection, cluster } = await dialMaster(address);
    try {
      return await work(connection, cluster);
    } finally {
      connection.close("done");
    }
  } catch (error) {
    if (!(error instanceof StatusError)) throw error;
    const where = formatAddress(address);
    if (error.status === "unavailable" || error.status === "disconnected") {
      throw new UserError(`no master answers at ${where}: ${error.message}`, { cause: error });
    }
    throw new UserError(error.message, { cause: error });
  }
}

export interface MasterOption {
  master: string;
}

/** The option that says where the master is. */
export function withMasterOption<T>(yargs: Argv<T>): Argv<T & MasterOption> {
  return yargs.option("master", {
    type: "string",
    default: process.env["GFS_MASTER"] ?? masterAddressDefault,
    requiresArg: true,
    describe: "HOST:PORT of the master",
  });
}
