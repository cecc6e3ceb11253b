import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import type { ClusterState } from "../../cli/cluster.ts";
import { type ProcessId, isRunning, signal } from "../../cli/processes.ts";

/** `gfs up` and `gfs down` with real programs and a real mount, which only children touch. */

const gfs = fileURLToPath(new URL("../../cli/main.js", import.meta.url));
/** Starting a cluster takes seconds; a busy machine may need many times that. */
t.setTimeout(300_000);

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

function run(command: string, ...args: string[]): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: "/", timeout: 120_000, killSignal: "SIGKILL" });
    const outcome: Outcome = { code: null, stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => (outcome.stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (outcome.stderr += chunk.toString()));
    child.on("close", (code) => resolve({ ...outcome, code }));
  });
}

const cli = (...args: string[]): Promise<Outcome> => run(process.execPath, gfs, ...args);

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, "127.0.0.1", () => {
      const bound = server.address();
      server.close(() => resolve(typeof bound === "object" && bound ? bound.port : 0));
    });
  });
}

function stateOf(data: string): ClusterState {
  return JSON.parse(fs.readFileSync(path.join(data, "cluster.json"), "utf8")) as ClusterState;
}

function processesOf({ master, servers, mounts }: ClusterState): ProcessId[] {
  return [master, ...servers, ...mounts.map((mount) => mount.process)].flatMap((id) =>
    id ? [id] : [],
  );
}

const usable = fs.existsSync("/dev/fuse") && process.getuid?.() === 0;

t.test("gfs up and down", { skip: usable ? false : "needs root and /dev/fuse" }, async (t) => {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), "gfs-up-"));
  const [mount, data] = [path.join(base, "mount"), path.join(base, "data")];
  const listen = `127.0.0.1:${await freePort()}`;
  const up = (...more: string[]): Promise<Outcome> => cli("up", mount, "--data", data, ...more);
  t.teardown(async () => {
    await cli("down", "--data", data, "--lazy", "--force");
    fs.rmSync(base, { recursive: true, force: true });
  });

  const first = await up("--listen", listen, "--servers", "2");
  t.match(first, { code: 0, stdout: /mount +is up/ }, "it starts");
  const written = await run("sh", "-c", `echo kept > ${mount}/file && sync ${mount}/file`);
  t.match(written, { code: 0, stderr: "" }, "the mount takes files");
  t.match(await up(), { code: 0, stdout: /nothing to do/ }, "again: it says so");

  const other = await up("--listen", "127.0.0.1:1");
  t.match(other, { code: 1, stderr: /belongs to a cluster on/ }, "another address is refused");
  const beside = path.join(base, "beside");
  const taken = await cli(
    "up",
    mount,
    "--data",
    beside,
    "--listen",
    `127.0.0.1:${await freePort()}`,
  );
  t.match(taken, { code: 1, stderr: /is taken by another mount/ }, "so is a taken mount point");

  process.kill(stateOf(data).servers[1]?.pid ?? 0, "SIGKILL");
  const mended = await up();
  t.match(mended, { code: 0, stdout: /chunk server 1 +was up\nchunk server 2 +is up/ }, "mended");

  for (const id of processesOf(stateOf(data))) signal(id, "SIGKILL");
  t.match(await up(), { code: 0 }, "after kill -9 of everything");
  t.match(await run("cat", `${mount}/file`), { code: 0, stdout: "kept\n" }, "the file is there");

  const holder = spawn("sleep", ["600"], { cwd: mount });
  await new Promise((resolve) => holder.once("spawn", resolve));
  const busy = await cli("down", mount);
  t.match(busy, { code: 1, stderr: new RegExp(`in use: sleep \\(pid ${holder.pid}\\)`) }, "busy");
  t.match(await up(), { code: 0, stdout: /nothing to do/ }, "and nothing was stopped");
  holder.kill("SIGKILL");
  await new Promise((resolve) => holder.once("exit", resolve));

  const processes = processesOf(stateOf(data));
  t.match(await cli("down", mount), { code: 0, stdout: /the cluster is down/ });
  t.notOk(processes.some(isRunning), "every program has ended");
  t.match(await cli("down", "--data", data), { code: 0, stdout: /nothing is running/ });
});

t.test("gfs says what is wrong in one line", async (t) => {
  t.match(await cli(), { code: 1, stderr: /^gfs: a command is missing .*\n$/ });
  t.match(await cli("nonsense"), { code: 1, stderr: /^gfs: Unknown command: nonsense .*\n$/ });
  t.match(await cli("up", "--nonsense"), { code: 1, stderr: /^gfs: Unknown argument: .*\n$/ });
  t.match(await cli("up", "/etc/passwd"), { code: 1, stderr: /^gfs: .* is not a directory.*\n$/ });
  t.match(await cli("up", "--servers", "0"), { code: 1, stderr: /^gfs: --servers: .*\n$/ });
  t.match(await cli("up", "--listen", "x"), { code: 1, stderr: /^gfs: --listen: .*\n$/ });
});
