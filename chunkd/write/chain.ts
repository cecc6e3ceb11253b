import { assert } from "../../common/assert.ts";
import type { Pool } from "../../protocol/dial.ts";
import type { BootId } from "../../protocol/id.ts";
import type { RequestOf } from "../../protocol/method.ts";
import { writeChunk } from "../../protocol/methods/chunk.ts";
import { StatusError } from "../../protocol/status.ts";
import { hopMs } from "../limits.ts";

export type WriteRequest = RequestOf<typeof writeChunk>;

/**
 * Passes a write on to the next server of its chain and waits for the answer of all that follow.
 * The bytes are sent as they came. Calls for one chunk reach the next server in the order in which
 * they are made here: one connection, and nothing is awaited between the call and the sending that
 * could let a later call overtake. Throws `replica-failed`, which names the servers, or
 * `stale-epoch`: then the write came too late, and those who refused it are not to blame. Resolves
 * with the boots of those who took it.
 */
export async function forward(
  pool: Pool,
  request: WriteRequest,
  payload: Buffer,
): Promise<readonly BootId[]> {
  const [next, ...chain] = request.chain;
  assert(next !== undefined, "there is a server to pass it on to");
  try {
    const { reply } = await pool.call(
      next.address,
      writeChunk,
      { ...request, chain, forwarded: true },
      { payload, deadlineMs: hopMs * request.chain.length },
    );
    return reply.boots;
  } catch (error) {
    throw replicaFailed(next.server, error);
  }
}

/** The next server's own list if it could tell, else the next server itself. */
function replicaFailed(server: number, error: unknown): unknown {
  if (!(error instanceof StatusError) || error.status === "stale-epoch") return error;
  const named = error.status === "replica-failed" && error.servers.length > 0;
  const servers = named ? error.servers : [server];
  const message = named ? error.message : `server ${server}: ${error.status}: ${error.message}`;
  return new StatusError("replica-failed", message, { cause: error, servers });
}
