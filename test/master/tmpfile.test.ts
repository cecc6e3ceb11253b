import t from "tap";
import { type Ino, rootIno } from "../../protocol/id.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import { outcome } from "../support/outcome.ts";
import { newTestStore } from "../support/test-store.ts";
import { MasterCluster, type TestMount } from "../support/master-cluster.ts";

const owner = { uid: 0, gid: 0 };

interface Teardown {
  teardown(work: () => Promise<void>): unknown;
}

async function start(t: Teardown): Promise<{ cluster: MasterCluster; mount: TestMount }> {
  const cluster = new MasterCluster(await newTestStore());
  await cluster.start();
  t.teardown(() => cluster.stop());
  return { cluster, mount: await cluster.mount() };
}

async function makeTmpfile(mount: TestMount): Promise<Ino> {
  const request = { parent: rootIno, mode: 0o600, umask: 0, linkable: true, ...owner };
  return (await mount.mutate(namespace.tmpfile, request)).attr.ino;
}

const link = (mount: TestMount, ino: Ino): Promise<string> =>
  outcome(mount.mutate(namespace.link, { ino, parent: rootIno, name: Buffer.from("a") }));

t.test("a file without a name is gone when it is closed", async (t) => {
  const { cluster, mount } = await start(t);
  const ino = await makeTmpfile(mount);
  t.equal(cluster.store.count("orphan"), 1);
  await mount.read(namespace.release, { inos: [ino] });
  t.equal(cluster.store.count("orphan"), 0);
  t.equal(cluster.store.count("trash"), 1);
  t.equal(await link(mount, ino), "not-found", "nobody can bring it back");
});

t.test("a file that was given a name stays when it is closed", async (t) => {
  const { cluster, mount } = await start(t);
  const ino = await makeTmpfile(mount);
  t.equal(await link(mount, ino), "ok");
  await mount.read(namespace.release, { inos: [ino] });
  t.equal(cluster.store.count("trash"), 0);
  t.equal((await mount.read(namespace.getattr, { ino })).attr.nlink, 1);
});

t.test("a file without a name ends with its session", async (t) => {
  const { cluster, mount } = await start(t);
  await makeTmpfile(mount);
  const [session] = cluster.master.sessions.all();
  if (session) await cluster.master.sessions.end(session);
  t.equal(cluster.store.count("orphan"), 0);
  t.equal(cluster.store.count("trash"), 1);
});

t.test("a file without a name whose mount does not come back after a restart ends", async (t) => {
  const { cluster, mount } = await start(t);
  const ino = await makeTmpfile(mount);
  await cluster.restart();
  t.equal(cluster.store.count("orphan"), 1, "the mount is waited for");
  cluster.nowMs += 3_600_000;
  await cluster.master.sessions.expire();
  await cluster.master.sessions.discardForgottenOrphans();
  t.equal(cluster.store.count("orphan"), 0, `inode ${ino} is trash`);
});
