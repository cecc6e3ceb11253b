import { homedir } from "node:os";
import { join } from "node:path";
import yargs from "yargs";
import { hideBin } from "yargs/helpers";
import { type Address, masterAddressDefault } from "../common/address.ts";
import { releaseVersion } from "../common/os/version.ts";
import { addressFrom, usageError, UserError } from "../common/program.ts";
import { deadMs } from "../protocol/limits.ts";
import { replicasMax } from "../protocol/methods/namespace.ts";
import type { RepairOptions } from "./background/repair/repair.ts";
import { copiesPerServerDefault } from "./background/repair/slots.ts";
import type { SyncMode } from "./namespace/committer.ts";

const chunkMiBDefault = 64;
const chunkMiBMax = 1024;
/** A longer grace leaves chunks with too few copies for longer than a second failure takes. */
const graceSMax = 86_400;
const copiesPerServerMax = 64;

/** What the command line says, checked. */
interface Arguments {
  address: Address;
  data: string;
  /** Verify the metadata and end. */
  check: boolean;
  chunkBytes: number;
  sync: SyncMode;
  graceMs: number;
  minReplicas: number;
  repair: RepairOptions;
}

/**
 * Throws a `UserError` that names the flag and what it can be. `fallback`: the address to listen on
 * if the command line names none, as the environment has it.
 */
export function parseArguments(
  argv: readonly string[],
  fallback: string = masterAddressDefault,
): Arguments {
  const parsed = yargs(hideBin([...argv]))
    .scriptName("gfs-master")
    .usage("$0 [IP:PORT] --data DIR\n\nKeeps the metadata of a gfs cluster.")
    .option("data", {
      type: "string",
      default: join(homedir(), ".local/share/gfs/master"),
      describe: "directory for the metadata, made if missing",
    })
    .option("chunk-size", {
      type: "number",
      default: chunkMiBDefault,
      describe: "MiB per chunk; fixed when the filesystem is made",
    })
    .option("sync", {
      choices: ["batch", "always"] as const,
      default: "batch" as const,
      describe:
        "answer a change when it survives kill -9 (batch; power loss within a second, or by " +
        "fsync), or when it survives power loss (always)",
    })
    .option("grace", {
      type: "number",
      default: deadMs / 1000,
      describe: "seconds that a chunk server may be away before its chunks are copied elsewhere",
    })
    .option("repair-copies", {
      type: "number",
      default: copiesPerServerDefault,
      describe: "copies at a time that a chunk server takes part in, as source or as target",
    })
    .option("rebalance", {
      type: "boolean",
      default: true,
      describe: "move chunks from fuller chunk servers to emptier ones; --no-rebalance: do not",
    })
    .option("min-replicas", {
      type: "number",
      default: 1,
      describe: "a chunk is written to only while so many of its servers are there: writers wait",
    })
    .option("check", {
      type: "boolean",
      default: false,
      describe: "verify the metadata of a master that does not run, change nothing, and end",
    })
    .version(releaseVersion())
    .strict()
    .demandCommand(0, 1)
    .fail((message, error) => {
      throw usageError("gfs-master", message, error);
    })
    .parseSync();
  const { data, sync, check, grace, rebalance } = parsed;
  const copiesPerServer = parsed["repair-copies"];
  const minReplicas = parsed["min-replicas"];
  checkRange("--grace", grace, { least: 1, most: graceSMax, whole: false });
  checkRange("--repair-copies", copiesPerServer, { least: 1, most: copiesPerServerMax });
  checkRange("--min-replicas", minReplicas, { least: 1, most: replicasMax });
  return {
    ...{ data, sync, check, minReplicas, repair: { copiesPerServer, rebalance } },
    address: addressOf(parsed._[0], fallback),
    chunkBytes: chunkBytesOf(parsed["chunk-size"]),
    graceMs: grace * 1000,
  };
}

function addressOf(given: string | number | undefined, fallback: string): Address {
  if (given !== undefined) return addressFrom(String(given), "the address to listen on");
  return addressFrom(fallback, "GFS_MASTER");
}

function chunkBytesOf(mib: number): number {
  if (!Number.isInteger(mib) || mib < 1 || mib > chunkMiBMax || (mib & (mib - 1)) !== 0) {
    throw new UserError(`--chunk-size: a power of two from 1 to ${chunkMiBMax} MiB, not ${mib}`);
  }
  return mib * 1024 * 1024;
}

function checkRange(
  flag: string,
  value: number,
  { least, most, whole = true }: { least: number; most: number; whole?: boolean },
): void {
  if (value >= least && value <= most && (!whole || Number.isInteger(value))) return;
  const kind = whole ? "a whole number" : "a number";
  throw new UserError(`${flag}: ${kind} from ${least} to ${most}, not ${value}`);
}
