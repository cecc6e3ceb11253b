import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { must } from "../../common/assert.ts";
import type { Cluster } from "./cluster.ts";

/** The files in which servers of a cluster keep chunks, told apart by their lengths. */
export function chunkFilesOf(cluster: Cluster) {
  const chunkFiles = async (server: number, bytes: number): Promise<string[]> => {
    const found = await cluster.ok(
      `find ${cluster.serverData(server)}/chunks -type f -size ${bytes}c`,
    );
    return found.split("\n").filter((line) => line !== "");
  };

  /** Inverts one byte in the chunk file of this length, on the server's disk. */
  const flip = async (server: number, bytes: number, at: number): Promise<void> => {
    const files = await chunkFiles(server, bytes);
    if (files.length !== 1) throw new Error(`server ${server} has ${files.length} such files`);
    const fd = openSync(must(files[0], "a chunk file"), "r+");
    const byte = Buffer.alloc(1);
    readSync(fd, byte, 0, 1, at);
    byte[0] = ~(byte[0] ?? 0) & 0xff;
    writeSync(fd, byte, 0, 1, at);
    closeSync(fd);
  };

  /** True when the first three servers have the chunk of this length, with the same bytes. */
  const copiesEqual = async (bytes: number): Promise<boolean> => {
    const files = (await Promise.all([0, 1, 2].map((i) => chunkFiles(i, bytes)))).flat();
    if (files.length !== 3) return false;
    const sums = `sha256sum ${files.join(" ")} | cut -d' ' -f1 | sort -u | wc -l`;
    return (await cluster.ok(sums)) === "1";
  };

  return { flip, copiesEqual };
}
