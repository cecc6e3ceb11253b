import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import t from "tap";
import { dialMaster } from "../../cli/admin.ts";
import { NamespaceSession } from "../../cli/session.ts";
import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { numberFromKey } from "../../master/store/bytes.ts";
import { rootIno } from "../../protocol/id.ts";
import { mkdir } from "../../protocol/methods/namespace.ts";
import { freePort } from "../support/cluster.ts";
import { openRealStore } from "../support/journaled-store.ts";
import { killStarted, Program } from "../support/process-program.ts";

/** kill -9 at any moment takes nothing that was committed. */

const directory = mkdtempSync(path.join(tmpdir(), "gfs-kill-"));
t.teardown(() => {
  killStarted();
  rmSync(directory, { recursive: true, force: true });
});

t.test("the store: every commit that returned is there, and no part of another", async (t) => {
  const data = path.join(directory, "store");
  mkdirSync(data);
  const script = fileURLToPath(new URL("journal-writer.js", import.meta.url));
  for (let round = 1; round <= 8; round += 1) {
    const child = spawn(process.execPath, [script, data], { stdio: ["ignore", "pipe", "inherit"] });
    let acknowledged = 0;
    const lines = createInterface({ input: child.stdout });
    const wanted = 200 + Math.floor(Math.random() * 1_500);
    let seen = 0;
    lines.on("line", (line) => {
      acknowledged = Number(line);
      seen += 1;
      if (seen === wanted) child.kill("SIGKILL");
    });
    await once(lines, "close");
    const store = await openRealStore(data);
    const last = Number(store.get("meta", Buffer.from("last"))?.toString());
    const rows = [...store.range("inode", { from: Buffer.alloc(0) })];
    const numbers = rows.map(({ key }) => numberFromKey(key, 0));
    t.ok(last >= acknowledged, `round ${round}: ${last} of ${acknowledged} are there`);
    t.same(
      numbers,
      Array.from({ length: 50 }, (_, i) => last - 49 + i),
      "and nothing else",
    );
    await store.close();
  }
});

t.test("P2: the master: every change that was answered is there", async (t) => {
  const address = { host: "127.0.0.1", port: await freePort() };
  const data = path.join(directory, "master");
  const logFile = path.join(directory, "log");
  const args = [`127.0.0.1:${address.port}`, "--data", data];
  const master = new Program({ title: "master", name: "master", args, logFile });
  const answered: string[] = [];
  const session = async (): Promise<NamespaceSession> => {
    for (;;) {
      try {
        return await NamespaceSession.open((await dialMaster(address)).connection);
      } catch {
        if (!master.running) throw new Error(await master.lastWords());
        await sleep(systemClock, 20);
      }
    }
  };
  for (let round = 1; round <= 4; round += 1) {
    master.start();
    const client = await session();
    let made = 0;
    const maker = async (id: number): Promise<void> => {
      for (let i = 0; ; i += 1) {
        const name = `${round}-${id}-${i}`;
        const owner = { uid: 0, gid: 0 };
        const wanted = { parent: rootIno, name: Buffer.from(name), mode: 0o755, ...owner };
        await client.mutate(mkdir, wanted);
        answered.push(name);
        made += 1;
        if (made === 500) master.signal("SIGKILL");
      }
    };
    // Each ends when the connection does.
    await Promise.allSettled(Array.from({ length: 16 }, (_, id) => maker(id)));
    await master.exited;
    master.start();
    const reader = await session();
    const there = new Set<string>();
    for await (const { name } of reader.entries(rootIno, undefined)) there.add(name.toString());
    const missing = answered.filter((name) => !there.has(name));
    t.same(missing, [], `round ${round}: ${answered.length} directories`);
    await master.kill();
  }
  master.start();
  await (await session()).close();
  t.equal(await master.stop(), 0, "and it ends cleanly");
});
