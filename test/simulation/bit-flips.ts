import { blockBytes } from "../../common/crc32c.ts";
import { chunkFileName } from "../../chunkd/store/files.ts";
import { decodeChunkRef } from "../../master/store/tables.ts";
import { numberKey } from "../../master/store/bytes.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import { isIntact, replicaOf } from "./checks.ts";
import { chunkBytes, type SimCluster, type SimServer } from "./cluster.ts";
import type { Random } from "./random.ts";

/**
 * Bits that turn on a disk, or in memory below the page cache: in one replica of a chunk, and in
 * another only when all are good again. A replica whose CRCs are not on the disk (it is dirty) is
 * left alone: after a crash it would be taken as it is.
 */
export class BitFlips {
  readonly #cluster: SimCluster;
  readonly #random: Random;
  count = 0;

  constructor(options: { cluster: SimCluster; random: Random }) {
    this.#cluster = options.cluster;
    this.#random = options.random;
  }

  /** In any chunk. */
  one(): void {
    const server = this.#random.pick(this.#cluster.servers);
    const handles = [...server.index.committed.chunks.keys()].filter((h) => this.#areGood(h));
    if (handles.length > 0) this.#flip(server, this.#random.pick(handles), undefined);
  }

  /**
   * Under a write that is about to be made at `offset` of a file: in a byte of the block where it
   * begins, before it. The bit must neither be taken over into the block's new CRC, nor be lost.
   */
  under({ ino, offset }: { ino: number; offset: number }): void {
    const { program } = this.#cluster.master;
    const key = numberKey(ino, Math.floor(offset / chunkBytes));
    const row = program?.committer.store.get("chunkmap", key);
    if (!row) return;
    const { handle } = decodeChunkRef(row);
    const at = offset % chunkBytes;
    const first = at - (at % blockBytes);
    if (first === at || !this.#areGood(handle)) return;
    const holders = this.#cluster.servers.filter((server) =>
      server.index.committed.chunks.has(handle),
    );
    this.#flip(this.#random.pick(holders), handle, { first, end: at });
  }

  #flip(
    server: SimServer,
    handle: ChunkHandle,
    range: { first: number; end: number } | undefined,
  ): void {
    const { world } = this.#cluster;
    const name = chunkFileName(handle);
    const path = `${server.root}/chunks/${name.slice(-2)}/${name}`;
    const done = server.index.flip(handle, this.#random, range) || server.disk.flip(path, range);
    if (!done) return;
    this.count += 1;
    world.count(range ? "fault: bit flipped under a write" : "fault: bit flipped");
    world.note(`${server.node.name} a bit turns in chunk ${handle}`);
  }

  /** As many replicas as there shall be, and all are clean and what they were. */
  #areGood(handle: ChunkHandle): boolean {
    const { master, servers } = this.#cluster;
    const sets = master.program?.chunks.sets;
    const chunk = sets?.find(handle);
    if (!sets || !chunk || chunk.servers.length < 3 || !sets.isWhole(handle, chunk)) return false;
    return chunk.servers.every((id) => {
      const server = servers.find((each) => each.id === id);
      const replica = server && replicaOf(server, handle);
      if (typeof replica !== "object" || replica.record.dirty) return false;
      return replica.record.version === chunk.version && isIntact(replica);
    });
  }
}
