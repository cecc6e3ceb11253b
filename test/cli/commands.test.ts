import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import t, { type Test } from "tap";
import { bytesText } from "../../cli/status.ts";
import { formatAddress } from "../../common/address.ts";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { type Connection, Handlers } from "../../protocol/connection.ts";
import { accept } from "../../protocol/dial.ts";
import { serverId } from "../../protocol/id.ts";
import * as admin from "../../protocol/methods/admin.ts";
import { StatusError } from "../../protocol/status.ts";
import { listen } from "../../protocol/websocket.ts";

/** What `gfs` says and how it ends, on its own and with a master that a test plays. */

const gfs = fileURLToPath(new URL("../../cli/main.js", import.meta.url));
const nowhere = "127.0.0.1:1";

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

function cli(...args: string[]): Promise<Outcome> {
  return started(args, () => undefined);
}

/** `onStart` gets the process, to do something to it. */
function started(args: string[], onStart: (child: ChildProcess) => void): Promise<Outcome> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [gfs, ...args], { cwd: "/", timeout: 30_000 });
    onStart(child);
    const outcome: Outcome = { code: null, stdout: "", stderr: "" };
    child.stdout.on("data", (chunk: Buffer) => (outcome.stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (outcome.stderr += chunk.toString()));
    child.on("close", (code) => resolve({ ...outcome, code }));
  });
}

/** Listens as a master that answers as told; returns its address. */
async function master(t: Test, handlers: Handlers): Promise<string> {
  const connections: Connection[] = [];
  const listener = await listen({
    address: { host: "127.0.0.1", port: 0 },
    clock: systemClock,
    onTransport: (transport, peer) => {
      accept(transport, {
        ...{ peer, cluster: () => "c", handlersFor: () => handlers },
        onReady: (connection) => connections.push(connection),
        ...{ clock: systemClock, log: silentLog },
      });
    },
  });
  t.teardown(() => {
    for (const connection of connections) connection.close("done");
    return listener.close();
  });
  return formatAddress(listener.address);
}

t.test("fsck: what is wrong with the question is not what repair mends", async (t) => {
  const helped = /^gfs: Unknown argument: nonsense \(see gfs fsck --help\)\n$/;
  t.match(await cli("fsck", "--nonsense"), { code: 3, stderr: helped });
  t.match(await cli("fsck", "--master", "here"), { code: 3, stderr: /^gfs: --master: .*\n$/ });
  t.match(await cli("fsck", "--master", nowhere), { code: 3, stderr: /^gfs: no master.*\n$/ });
  t.match(await cli("status", "--nonsense"), { code: 1, stderr: /^gfs: .*see gfs --help/ });
});

t.test("where no master answers, the next step is said", async (t) => {
  const { code, stderr } = await cli("status", "--master", nowhere);
  t.equal(code, 1);
  t.match(
    stderr,
    /^gfs: no master answers at 127\.0\.0\.1:1: .*: start it with gfs up, or name it/,
  );
});

t.test("a master that went silent is named", async (t) => {
  const handlers = new Handlers().serve(admin.status, (_params, { connection }) => {
    connection.close("stopping");
    return new Promise(() => undefined);
  });
  const address = await master(t, handlers);
  const { code, stderr } = await cli("status", "--master", address);
  t.equal(code, 1);
  t.match(stderr, `gfs: the master at ${address} does not answer any more: `);
});

t.test("following a drain goes on over what passes, and ends with what is final", async (t) => {
  const state = { server: serverId(7), address: "a:1", mode: "draining", left: 3 } as const;
  const failures = [
    new StatusError("unavailable", "not yet"),
    new StatusError("overloaded", "too much to do"),
    new StatusError("not-found", "no chunk server 7"),
  ];
  let asked = 0;
  const handlers = new Handlers()
    .serve(admin.drain, () => state)
    .serve(admin.drainProgress, () => {
      asked += 1;
      throw failures[asked - 1] ?? new StatusError("internal", "asked again");
    });
  const { code, stderr } = await cli("drain", "7", "--master", await master(t, handlers));
  t.equal(code, 1);
  t.equal(stderr, "gfs: no chunk server 7\n");
  t.equal(asked, failures.length);
});

t.test("a drain that is followed no more goes on, and that is said", async (t) => {
  const state = { server: serverId(7), address: "a:1", mode: "draining", left: 3 } as const;
  let follower: ChildProcess | undefined;
  const handlers = new Handlers()
    .serve(admin.drain, () => state)
    .serve(admin.drainProgress, () => {
      follower?.kill("SIGINT");
      return state;
    });
  const address = await master(t, handlers);
  const args = ["drain", "7", "--master", address];
  const { code, stderr } = await started(args, (child) => {
    follower = child;
  });
  t.equal(code, 130);
  t.match(stderr, /^gfs: the drain goes on .* gfs drain --undo 7 ends it\n$/);
});

t.test("sizes are in the unit that shows something", (t) => {
  const shown = [0, 999, 1_000, 131_072, 999_949, 999_950, 82_900_000_000, 3e15].map(bytesText);
  t.same(shown, [
    ...["0 B", "999 B", "1.0 kB", "131.1 kB", "999.9 kB", "1.0 MB", "82.9 GB", "3.0 PB"],
  ]);
  t.end();
});
