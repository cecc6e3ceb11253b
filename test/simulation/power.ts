import { numberFromKey } from "../../master/store/bytes.ts";
import { parseHistoryKey } from "../../master/store/history.ts";
import { decodeChunkRef } from "../../master/store/tables.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import type { SimCluster, SimServer } from "./cluster.ts";
import type { Model } from "./model.ts";
import { chunksOf, everything } from "./tables.ts";

/**
 * Which files a loss of power may take bytes from. What was closed, and not synced, is on every
 * server of a chunk's set, and survives as long as a minority of them loses power (P1).
 */
export class PowerLosses {
  readonly #cluster: SimCluster;
  readonly #model: Model;
  /** Servers that have lost power since the chunk was whole. */
  readonly #lost = new Map<ChunkHandle, Set<number>>();

  constructor(options: { cluster: SimCluster; model: Model }) {
    this.#cluster = options.cluster;
    this.#model = options.model;
  }

  /** False if it cannot be told what is on it. Call before the power goes. */
  losing(server: SimServer): boolean {
    const { program } = this.#cluster.master;
    const { id } = server;
    if (!program || id === undefined) return false;
    this.#forgetWhole();
    const tooMany = new Set<ChunkHandle>();
    for (const [handle, chunk] of chunksOf(program)) {
      if (!chunk.servers.some((member) => member === id)) continue;
      const lost = (this.#lost.get(handle) ?? new Set()).add(id);
      this.#lost.set(handle, lost);
      const members = chunk.servers.filter((member) => lost.has(member));
      if (members.length * 2 >= chunk.servers.length) tooMany.add(handle);
    }
    const inos = this.#filesWith(tooMany);
    for (const file of this.#model.files.values()) {
      const isHit = file.ino === undefined ? tooMany.size > 0 : inos.has(file.ino);
      if (isHit) this.#model.replicasLostPower(file);
    }
    return true;
  }

  /** Every server and the master. */
  losingAll(): void {
    for (const file of this.#model.files.values()) this.#model.replicasLostPower(file, true);
    this.#model.masterLostPower();
  }

  #forgetWhole(): void {
    const { program } = this.#cluster.master;
    if (!program) return;
    const { sets } = program.chunks;
    for (const handle of this.#lost.keys()) {
      const chunk = sets.find(handle);
      const settled = sets.unsettled.of(handle).size === 0;
      if (!chunk || (settled && sets.isWhole(handle, chunk))) this.#lost.delete(handle);
    }
  }

  #filesWith(handles: ReadonlySet<ChunkHandle>): Set<number> {
    const inos = new Set<number>();
    const { program } = this.#cluster.master;
    if (!program || handles.size === 0) return inos;
    const { store } = program.committer;
    const add = (key: Buffer, record: Buffer): void => {
      if (handles.has(decodeChunkRef(record).handle)) inos.add(numberFromKey(key, 0));
    };
    for (const { key, value } of store.range("chunkmap", everything)) add(key, value);
    for (const { key, value } of store.range("history", everything)) {
      const past = parseHistoryKey(key);
      if (past?.table === "chunkmap") add(past.key, value);
    }
    return inos;
  }
}
