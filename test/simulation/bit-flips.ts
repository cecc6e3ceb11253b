import { chunkFileName } from "../../chunkd/store/files.ts";
import { decodeRecord } from "../../chunkd/store/record.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import type { SimCluster, SimServer } from "./cluster.ts";
import type { Random } from "./random.ts";

/**
 * Bits that turn on a disk, or in memory below the page cache: in one replica of a chunk, and in
 * another only when all are good again. A replica whose CRCs are not on the disk (it is dirty) is
 * left alone: after a crash it would be taken as it is.
 */
export class BitFlips {
  readonly #cluster: SimCluster;
  readonly #random: Random;
  readonly flipped = new Set<ChunkHandle>();

  constructor(options: { cluster: SimCluster; random: Random }) {
    this.#cluster = options.cluster;
    this.#random = options.random;
  }

  one(): void {
    const { world, master, servers } = this.#cluster;
    const { program } = master;
    const server = this.#random.pick(servers);
    if (!program || !server.program) return;
    const handles = [...server.index.committed.chunks.keys()].filter((handle) => {
      const chunk = program.chunks.sets.find(handle);
      if (this.flipped.has(handle) || !chunk || chunk.servers.length < 3) return false;
      return program.chunks.sets.isWhole(handle, chunk) && isClean(server, handle);
    });
    if (handles.length === 0) return;
    const handle = this.#random.pick(handles);
    if (!this.#flip(server, handle)) return;
    this.flipped.add(handle);
    world.count("fault: bit flipped");
    world.note(`${server.node.name} a bit turns in chunk ${handle}`);
  }

  #flip(server: SimServer, handle: ChunkHandle): boolean {
    const name = chunkFileName(handle);
    const path = `${server.root}/chunks/${name.slice(-2)}/${name}`;
    return server.index.flip(handle, this.#random) || server.disk.flip(path);
  }
}

function isClean(server: SimServer, handle: ChunkHandle): boolean {
  const stored = server.index.committed.chunks.get(handle);
  const record = stored && decodeRecord(handle, stored);
  return typeof record === "object" && !record.dirty;
}
