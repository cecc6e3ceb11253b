import type { Argv } from "yargs";
import { type Address, formatAddress, masterAddressDefault } from "../common/address.ts";
import { silentLog } from "../common/log.ts";
import { systemClock } from "../common/os/clock.ts";
import { UserError } from "../common/program.ts";
import { type Connection, Handlers } from "../protocol/connection.ts";
import { dial, websocketConnect } from "../protocol/dial.ts";
import { StatusError, statusRetry } from "../protocol/status.ts";

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
  const where = formatAddress(address);
  const { connection, cluster } = await dialMaster(address).catch((error: unknown) => {
    if (!isPassing(error)) throw told(error);
    const next = "start it with gfs up, or name it with --master or GFS_MASTER";
    throw told(error, `no master answers at ${where}: `, `: ${next}`);
  });
  try {
    return await work(connection, cluster);
  } catch (error) {
    if (!isPassing(error) || !["deadline", "disconnected"].includes(error.status))
      throw told(error);
    throw told(error, `the master at ${where} does not answer any more: `, ": see its log");
  } finally {
    connection.close("done");
  }
}

function told(error: unknown, before = "", after = ""): unknown {
  if (!(error instanceof StatusError)) return error;
  return new UserError(`${before}${error.message}${after}`, { cause: error });
}

/** True if the same may succeed later: the master is away, or has too much to do. */
export function isPassing(error: unknown): error is StatusError {
  return error instanceof StatusError && statusRetry(error.status) === "later";
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
