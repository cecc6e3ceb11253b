import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import t from "tap";
import type { Command } from "./device-null.ts";
import { descriptorTables, mountNull } from "./device-support.ts";
import { must } from "../../common/assert.ts";
import { bash, run, type Test } from "./fuse-native-support.ts";

const mebibyte = 1 << 20;

async function mountOne(test: Test) {
  const mount = await mountNull(test);
  const ask = (command: Command): Promise<unknown> => mount.ask(command);
  return { mount, ask, directory: mount.directory, pid: must(mount.child.pid, "pid") };
}

type Mounted = Awaited<ReturnType<typeof mountOne>>;

/**
 * Starts calls of mkdir(2), of which the first holds the root's lock, as it gets no answer; returns
 * when its request is there and the others stand in line for the lock.
 */
async function blockDirectory({ directory, ask }: Mounted, callers: number) {
  const children = Array.from({ length: callers }, (_, i) =>
    spawn("mkdir", [`wait-${i}`], { cwd: directory, stdio: ["ignore", "ignore", "pipe"] }),
  );
  const made = children.map(async (child) => {
    let errors = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (errors += text));
    const [code] = (await once(child, "close")) as [number | null];
    return { code, errors };
  });
  for (let blocked = 0, waiting = 0; waiting === 0 || blocked < callers - 1;) {
    ({ waiting } = (await ask({ do: "stats" })) as { waiting: number });
    // proc(5): D is the state of who waits for a lock and cannot be interrupted.
    const states = children.map(({ pid }) => readFile(`/proc/${pid}/stat`, "utf8"));
    blocked = (await Promise.all(states)).filter((line) => /\) D /.test(line)).length;
  }
  return { made: Promise.all(made) };
}

await t.test("requests are read and replies written, up to 1 MiB each", async (tt) => {
  const { directory, ask } = await mountOne(tt);
  const script = `
    [ "$(stat -c %s file)" = ${64 * mebibyte} ]
    cmp -n ${64 * mebibyte} file /dev/zero
    dd if=/dev/zero of=file bs=1M count=8 conv=notrunc oflag=direct status=none
    mkdir a b; [ -d a ]; ! stat none 2> /dev/null`;
  const { code, errors } = await bash(script, directory);
  tt.equal(code, 0, errors);
  const stats = (await ask({ do: "stats" })) as { seen: Record<number, number>; written: number };
  tt.equal(stats.written, 8 * mebibyte);
  tt.equal(stats.seen[16], 8, "a write of 1 MiB is one request");
});

await t.test("notifications are answered in their order", async (tt) => {
  const { directory, ask } = await mountOne(tt);
  await bash("mkdir a; stat a", directory);
  tt.same(await ask({ do: "entry", name: "a", count: 1 }), [0], "the kernel knew the name");
  const many = (await ask({ do: "entry", name: "none", count: 2000 })) as number[];
  tt.equal(many.length, 2000);
  tt.ok(many.every((result) => result === -2));
});

await t.test("the thread has nothing of the process but a clone of the device", async (tt) => {
  const { pid } = await mountOne(tt);
  const tables = await descriptorTables(pid);
  const own = tables.filter((table) => table.length <= 2);
  tt.same(own, [["/dev/fuse", "anon_inode:[eventfd]"]]);
  const others = tables.filter((table) => table.length > 2);
  tt.ok(others.length > 4, "Node.js has threads");
  for (const table of others) tt.equal(table.filter((name) => name === "/dev/fuse").length, 1);
});

await t.test("a notification that is blocked in the kernel holds nobody up", async (tt) => {
  const mounted = await mountOne(tt);
  const { directory, ask } = mounted;
  const { made } = await blockDirectory(mounted, 1);
  const notified = ask({ do: "entry", name: "file" });
  tt.equal((await run("stat", ["."], directory)).code, 0, "requests are served");
  const first = Promise.race([notified, ask({ do: "stats" }).then(() => "blocked")]);
  tt.equal(await first, "blocked");
  const flood = ask({ do: "entry", name: "n".repeat(255), count: 30_000 });
  tt.equal(await ask({ do: "answer" }), 1);
  tt.same(await notified, [-2], "it goes on when the directory's lock is free");
  const results = (await flood) as number[];
  const written = results.indexOf(-105);
  tt.ok(written > 20_000, `${written} waited, in 8 MiB`);
  tt.ok(results.slice(0, written).every((result) => result === -2));
  tt.ok(
    results.slice(written).every((result) => result === -105),
    "and the others: ENOBUFS",
  );
  tt.match(await made, [{ errors: /No such file/ }]);
});

for (const callers of [1, 6]) {
  await t.test(`close does not wait for what is blocked behind ${callers} callers`, async (tt) => {
    const mounted = await mountOne(tt);
    const { pid, directory, ask } = mounted;
    const { made } = await blockDirectory(mounted, callers);
    const notified = ask({ do: "entry", name: "file", count: 3 });
    tt.equal(await ask({ do: "close" }), -19, "closed: a reply fails with ENODEV");
    tt.equal(((await notified) as number[]).length, 3, "every notification has a result");
    tt.equal((await made).filter(({ code }) => code === 0).length, 0);
    const tables = await descriptorTables(pid);
    tt.notOk(tables.flat().includes("/dev/fuse"), "no thread has the device");
    tt.match((await run("ls", [directory])).errors, /not connected/, "the mount is dead");
  });
}

/** systemd mounts fusectl; a container may not have it. */
async function haveAbortFiles(test: Test): Promise<void> {
  if ((await readdir("/sys/fs/fuse/connections")).length > 0) return;
  const directory = "/sys/fs/fuse/connections";
  await run("mount", ["-t", "fusectl", "fusectl", directory]);
  test.teardown(async () => void (await run("umount", [directory])));
}

for (const callers of [1, 6]) {
  const skip = process.getuid?.() !== 0 && "needs root, for fusectl";
  await t.test(`kill -9 leaves none of ${callers} callers hanging`, { skip }, async (tt) => {
    if (callers > 1) await haveAbortFiles(tt);
    const mounted = await mountOne(tt);
    const { mount, directory, ask } = mounted;
    const { made } = await blockDirectory(mounted, callers);
    ask({ do: "entry", name: "file" }).catch(() => undefined);
    await ask({ do: "stats" });
    mount.child.kill("SIGKILL");
    tt.equal(await mount.exited, "SIGKILL");
    for (const { errors } of await made) tt.match(errors, /connection abort|not connected/i);
    tt.match((await run("ls", [directory])).errors, /not connected/);
  });
}

await t.test("an unmounted channel lets the process end by itself", async (tt) => {
  const { mount, directory, ask } = await mountOne(tt);
  await ask({ do: "entry" });
  ask({ do: "leave" }).catch(() => undefined);
  tt.equal((await run("umount", [directory])).code, 0);
  tt.equal(await mount.exited, 0, mount.errors);
});
