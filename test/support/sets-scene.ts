import type { Test } from "tap";
import { must } from "../../common/assert.ts";
import type { ChunkHandle } from "../../protocol/id.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import type { Attr, Grant } from "../../protocol/shapes.ts";
import { MasterCluster, type TestMount, type TestServer, testServers } from "./master-cluster.ts";
import { newTestStore } from "./test-store.ts";
import { until } from "./until.ts";

/** A master with chunk servers that do as they are told, and a mount, for tests of chunk sets. */
interface Scene {
  cluster: MasterCluster;
  servers: TestServer[];
  mount: TestMount;
}

export async function scene(test: Test, count = 3): Promise<Scene> {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  const servers = testServers(count);
  for (const server of servers) await server.join(cluster);
  test.teardown(() => cluster.stop());
  return { cluster, servers, mount: await cluster.mount() };
}

/** Waits until the master has noticed that a server has gone. */
export async function untilDown(cluster: MasterCluster, { id }: TestServer): Promise<void> {
  await until("its end is noticed", () => !cluster.master.fleet.isUp(must(id, "id")));
}

/** A file whose one chunk has been written everywhere and committed. */
export async function writtenFile({ mount, servers }: Scene, contents: string) {
  const { attr } = await mount.create("f");
  const grant = await mount.grant(attr);
  for (const server of serversOf(servers, grant)) server.write(grant, contents);
  await mount.commit(attr, grant, contents.length);
  return { attr, grant };
}

export const serversOf = (servers: TestServer[], grant: Grant): TestServer[] =>
  servers.filter(({ id }) => grant.replicas.some(({ server }) => server === id));

export async function located(mount: TestMount, attr: Attr): Promise<number[]> {
  const request = { ino: attr.ino, first: 0, count: 1 };
  const { locations } = await mount.read(chunk.locate, request);
  return serverIds(locations[0]?.replicas ?? []);
}

export function serverIds(replicas: readonly { server: number }[]): number[] {
  return replicas.map(({ server }) => server).toSorted((a, b) => a - b);
}

/** What a mount says of a server that did not take part in a write. */
export function failedBy({ handle, version }: Grant, server: TestServer) {
  return { handle, version, servers: [must(server.id, "id")] };
}

export const contentsOf = (server: TestServer, handle: ChunkHandle): string | undefined =>
  server.chunks.get(handle)?.contents;
