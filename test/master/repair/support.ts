import type { Test } from "tap";
import { must } from "../../../common/assert.ts";
import { reclaimTrash } from "../../../master/background/reclaim.ts";
import type { RepairOptions } from "../../../master/background/repair/repair.ts";
import { type Connection, Handlers } from "../../../protocol/connection.ts";
import { type ChunkHandle, rootIno } from "../../../protocol/id.ts";
import type { ReplyOf } from "../../../protocol/method.ts";
import * as admin from "../../../protocol/methods/admin.ts";
import * as namespace from "../../../protocol/methods/namespace.ts";
import {
  MasterCluster,
  type TestMount,
  type TestServer,
  testServers,
} from "../../support/master-cluster.ts";
import { newTestStore } from "../../support/test-store.ts";
import { until } from "../../support/until.ts";

/** What the tests of repair share. */

/** A master whose chunk servers a test plays, and what is written and looked at there. */
export class Scene {
  readonly cluster: MasterCluster;
  readonly servers: TestServer[];
  mount!: TestMount;
  admin!: Connection;
  #files = 0;

  constructor(cluster: MasterCluster, count: number) {
    this.cluster = cluster;
    this.servers = testServers(count);
  }

  server(index: number): TestServer {
    return must(this.servers[index], "a server");
  }

  async connect(): Promise<void> {
    this.mount = await this.cluster.mount();
    this.admin = await this.cluster.dial("admin", new Handlers());
  }

  /** New files, each with a chunk that has been written everywhere and committed. */
  async write(count: number): Promise<ChunkHandle[]> {
    const handles: ChunkHandle[] = [];
    for (let i = 0; i < count; i += 1) {
      this.#files += 1;
      const { attr } = await this.mount.create(`f${this.#files}`);
      const grant = await this.mount.grant(attr);
      for (const server of this.servers) {
        if (grant.replicas.some((replica) => replica.server === server.id)) {
          server.write(grant, `contents ${this.#files}`);
        }
      }
      await this.mount.commit(attr, grant, 10);
      handles.push(grant.handle);
    }
    return handles;
  }

  /** Deletes a file that `write` has made, and takes back what it held. */
  async remove(name: string): Promise<void> {
    const entry = { parent: rootIno, name: Buffer.from(name) };
    const { attr } = await this.mount.read(namespace.lookup, entry);
    await this.mount.mutate(namespace.unlink, entry);
    await this.mount.read(namespace.release, { inos: [attr.ino] });
    while (await reclaimTrash(this.cluster.master.committer)) continue;
  }

  /** Time passes; servers that are connected tell that they are alive, and do as they are told. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 2_000) {
      this.cluster.nowMs += Math.min(left, 2_000);
      await this.beat();
    }
    this.cluster.master.repair.wake();
  }

  async beat(): Promise<void> {
    for (const server of this.servers) {
      if (server.connection?.closed !== false) continue;
      try {
        await server.obey();
      } catch (error) {
        // In the middle of it the master may have it tell anew what it holds.
        if (!server.connection.closed) throw error;
      }
    }
  }

  holders(handle: ChunkHandle): number[] {
    return this.servers.flatMap((server) => (server.chunks.has(handle) ? [Number(server.id)] : []));
  }

  async status(): Promise<ReplyOf<typeof admin.status>> {
    return this.admin.call(admin.status, {});
  }

  async shown(index: number) {
    const { servers } = await this.status();
    return must(
      servers.find(({ id }) => id === this.server(index).id),
      "its status",
    );
  }

  /** Waits until `wanted`; what would have to happen for it must not need time to pass. */
  until(what: string, wanted: () => Promise<boolean> | boolean): Promise<boolean> {
    return until(what, async () => {
      await this.beat();
      return wanted();
    });
  }

  async healthy(): Promise<void> {
    await this.until("all goals are met", async () => (await this.status()).chunks.belowGoal === 0);
  }

  /** Some rounds of repair without time passing: what is not done by then is not done. */
  async rounds(): Promise<void> {
    for (let i = 0; i < 20; i += 1) {
      this.cluster.master.repair.wake();
      for (let turns = 0; turns < 20; turns += 1) await new Promise(setImmediate);
    }
  }
}

export async function scene(
  test: Test,
  count: number,
  settings: { graceMs?: number; repair?: RepairOptions; joining?: number } = {},
): Promise<Scene> {
  const cluster = new MasterCluster(await newTestStore(), settings);
  await cluster.start();
  const all = new Scene(cluster, count);
  for (const server of all.servers.slice(0, settings.joining ?? count)) await server.join(cluster);
  test.teardown(() => cluster.stop());
  await all.connect();
  return all;
}

/** Counts the copies that are asked of the servers. */
export function countCopies({ servers }: Scene): () => number {
  let copies = 0;
  for (const server of servers) {
    server.onOrder = (order) => {
      if (order === "copyChunk") copies += 1;
    };
  }
  return () => copies;
}
