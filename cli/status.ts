import type { CommandModule } from "yargs";
import { addressFrom } from "../common/program.ts";
import { status } from "../protocol/methods/admin.ts";
import type { ReplyOf } from "../protocol/method.ts";
import { type MasterOption, withMaster, withMasterOption } from "./admin.ts";

/** `gfs status`: what the master knows of the cluster. Exit code 2 when chunks are in danger. */

interface StatusOptions extends MasterOption {
  json: boolean;
}

export const statusCommand: CommandModule<object, StatusOptions> = {
  command: "status",
  describe: "show the state of the cluster",
  builder: (yargs) =>
    withMasterOption(yargs).option("json", {
      type: "boolean",
      default: false,
      describe: "print JSON",
    }),
  handler: async ({ master, json }) => {
    const reply = await withMaster(addressFrom(master, "--master"), (connection) =>
      connection.call(status, {}),
    );
    process.stdout.write(json ? `${JSON.stringify(reply, undefined, 2)}\n` : asText(reply));
    if (
      reply.chunks.lost + reply.chunks.damaged > 0 ||
      reply.servers.every(({ state }) => state !== "up")
    ) {
      process.exitCode = 2;
    }
  },
};

function asText(reply: ReplyOf<typeof status>): string {
  const { master, chunks, repair, servers, mounts, snapshots } = reply;
  const more = reply.snapshotCount - snapshots.length;
  const rows = servers.map((server) => [
    String(server.id),
    server.address,
    server.rack,
    stateText(server),
    String(server.chunks),
    bytesText(server.usedBytes),
    bytesText(server.freeBytes),
    server.diskTrouble ?? "",
  ]);
  return [
    `cluster ${reply.cluster}, release ${reply.version}`,
    `master ${master.address}, up ${Math.round(master.upMs / 1000)} s, ${master.inodes} inodes`,
    `chunks ${chunks.total}, below goal ${chunks.belowGoal}, lost ${chunks.lost}, ` +
      `corrupt ${chunks.corrupt}${chunks.damaged > 0 ? `, damaged ${chunks.damaged}` : ""}` +
      repairText(repair),
    "",
    ...table([["id", "server", "rack", "state", "chunks", "used", "free", ""], ...rows]),
    "",
    ...scrubLines(servers),
    ...mounts.map(
      ({ mountpoint, name, connected }) =>
        `mount ${mountpoint} of ${name}${connected ? "" : ", not connected"}`,
    ),
    ...snapshots.map(({ path, name, createdAt }) => `snapshot ${path} ${name} of ${createdAt}`),
    ...(more > 0 ? [`and ${more} older snapshots: see gfs snapshot list`] : []),
    "",
  ].join("\n");
}

function repairText({ copying, waiting }: ReplyOf<typeof status>["repair"]): string {
  return copying + waiting === 0 ? "" : `; copying ${copying}, waiting ${waiting}`;
}

type Server = ReplyOf<typeof status>["servers"][number];

/** `up`, or with what is wanted of the server: `up, draining (12 left)`. */
function stateText({ state, mode, left, maintenanceMs }: Server): string {
  switch (mode) {
    case "active":
      return state;
    case "drained":
      return `${state}, drained`;
    case "draining":
    case "emptying":
      return `${state}, ${mode} (${left ?? 0} left)`;
    case "maintenance":
      return `${state}, maintenance (${Math.ceil((maintenanceMs ?? 0) / 60_000)} min)`;
  }
}

/** How far the servers are with reading everything for its checksums, and what they found. */
function scrubLines(servers: ReplyOf<typeof status>["servers"]): string[] {
  return servers.flatMap(({ id, scrub }) => {
    if (!scrub) return [];
    const { round, doneBytes, totalBytes, badBlocks, finishedAt } = scrub;
    const share = totalBytes === 0 ? 0 : Math.floor((100 * doneBytes) / totalBytes);
    const last =
      finishedAt === undefined
        ? "none finished yet"
        : `last finished ${new Date(finishedAt * 1_000).toISOString()}`;
    return [
      `scrub of server ${id}: round ${round}, ${share} % of ${bytesText(totalBytes)}, ${last}, ` +
        `bad blocks ${badBlocks}`,
    ];
  });
}

/** In the unit that leaves a number one can read: `0 B`, `131.1 kB`, `82.9 GB`. */
export function bytesText(bytes: number): string {
  let shown = bytes;
  let unit = 0;
  // What would be rounded up to 1000.0 is one of the next unit.
  for (; shown >= 999.95 && unit < byteUnits.length - 1; unit += 1) shown /= 1_000;
  return `${unit === 0 ? shown : shown.toFixed(1)} ${byteUnits[unit]}`;
}

const byteUnits = ["B", "kB", "MB", "GB", "TB", "PB"];

function table(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  return rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
