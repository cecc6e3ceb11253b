import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect as connectTcp } from "node:net";
import path from "node:path";
import t from "tap";
import { silentLog } from "../../common/log.ts";
import { systemClock } from "../../common/os/clock.ts";
import { encodeCbor } from "../../protocol/codec.ts";
import { Connection, Handlers } from "../../protocol/connection.ts";
import { messageBytesMax } from "../../protocol/limits.ts";
import { status } from "../../protocol/methods/admin.ts";
import { readChunk } from "../../protocol/methods/chunk.ts";
import { heartbeat } from "../../protocol/methods/fleet.ts";
import { hello } from "../../protocol/methods/session.ts";
import { protocolVersion } from "../../protocol/methods.ts";
import { chunkHandle, chunkVersion } from "../../protocol/id.ts";
import { StatusError } from "../../protocol/status.ts";
import { connect } from "../../protocol/websocket.ts";
import { Cluster, freePort } from "../support/cluster.ts";
import { type ProgramName, programPath } from "../support/process-program.ts";
import { quote } from "../support/process-shell.ts";

/** What people and strangers give the programs (P9): one clear line, and nobody else notices. */

type Test = Pick<typeof t, "equal" | "match" | "notOk">;

const cluster = await Cluster.start(t);
const pids = cluster.programs.map(({ pid }) => pid);
const nowhere = `127.0.0.1:${await freePort()}`;
const directory = (name: string): string => path.join(cluster.work, name);
mkdirSync(directory("empty"));
mkdirSync(directory("foreign"));
writeFileSync(directory("foreign/letter.txt"), "not yours\n");
writeFileSync(directory("file"), "a file\n");
mkdirSync(directory("broken-master"));
writeFileSync(directory("broken-master/data.mdb"), "garbage ".repeat(1_000));

/** A chunk server's directory as of the running first one, with another id file. */
function serverDirectory(name: string, change: (id: string) => string): string {
  mkdirSync(directory(name));
  const id = readFileSync(path.join(cluster.serverData(0), "id"), "utf8");
  writeFileSync(path.join(directory(name), "id"), change(id));
  return directory(name);
}

const chunkdAt = (data: string): string => `--master ${cluster.masterAddress} --data ${data}`;
const mountAt = (where: string): string => `${where} -f --master ${cluster.masterAddress}`;
const otherCluster = (id: string): string =>
  JSON.stringify({
    ...(JSON.parse(id) as object),
    cluster: "00000000-0000-4000-8000-000000000000",
  });
const unknownServer = (id: string): string =>
  JSON.stringify({ ...(JSON.parse(id) as object), server: 4_000_000 });

interface Case {
  program: ProgramName;
  why: string;
  args: string;
  says: RegExp;
}

const cases: readonly Case[] = [
  { program: "master", why: "an unknown flag", args: "--nonsense", says: /nonsense/ },
  { program: "master", why: "no address", args: "somewhere", says: /somewhere/ },
  { program: "master", why: "a port too high", args: "127.0.0.1:99999", says: /99999|port/ },
  { program: "master", why: "too many arguments", args: "a:1 b:2", says: /\w/ },
  { program: "master", why: "an unknown way to sync", args: "--sync=never", says: /never/ },
  { program: "master", why: "an odd chunk size", args: "--chunk-size 3", says: /chunk-size/ },
  {
    program: "master",
    why: "a taken port",
    args: `${cluster.masterAddress} --data ${directory("m2")}`,
    says: /cannot listen/,
  },
  {
    program: "master",
    why: "a directory in use",
    args: `${nowhere} --data ${path.join(cluster.directory, "master")}`,
    says: /another gfs-master/,
  },
  {
    program: "master",
    why: "a foreign directory",
    args: `${nowhere} --data ${directory("foreign")}`,
    says: /not empty/,
  },
  {
    program: "master",
    why: "a file for a directory",
    args: `${nowhere} --data ${directory("file")}`,
    says: /file/,
  },
  {
    program: "master",
    why: "broken metadata",
    args: `${nowhere} --data ${directory("broken-master")}`,
    says: /damaged/,
  },
  { program: "chunkd", why: "no --data", args: "", says: /data/ },
  { program: "chunkd", why: "an unknown flag", args: "--data /x --nonsense", says: /nonsense/ },
  { program: "chunkd", why: "a bad master", args: "--data /x --master here", says: /--master/ },
  {
    program: "chunkd",
    why: "an odd reserve",
    args: `${chunkdAt(directory("empty"))} --reserve=-1`,
    says: /--reserve/,
  },
  {
    program: "chunkd",
    why: "a taken port",
    args: `${chunkdAt(directory("empty"))} --listen ${cluster.masterAddress}`,
    says: /cannot listen/,
  },
  {
    program: "chunkd",
    why: "a wildcard without --advertise",
    args: `${chunkdAt(directory("empty"))} --listen 0.0.0.0:0`,
    says: /--advertise/,
  },
  {
    program: "chunkd",
    why: "a directory in use",
    args: chunkdAt(cluster.serverData(0)),
    says: /in use/,
  },
  {
    program: "chunkd",
    why: "a foreign directory",
    args: chunkdAt(directory("foreign")),
    says: /not a chunk server's/,
  },
  {
    program: "chunkd",
    why: "a file for a directory",
    args: chunkdAt(directory("file")),
    says: /not a directory/,
  },
  {
    program: "chunkd",
    why: "a directory of another cluster",
    args: chunkdAt(serverDirectory("other", otherCluster)),
    says: /cluster/,
  },
  {
    program: "chunkd",
    why: "a server id that the master never gave out",
    args: chunkdAt(serverDirectory("unknown", unknownServer)),
    says: /server id/,
  },
  {
    program: "chunkd",
    why: "an id file cut short",
    args: chunkdAt(serverDirectory("cut", (id) => id.slice(0, 20))),
    says: /id is damaged/,
  },
  {
    program: "chunkd",
    why: "an empty id file",
    args: chunkdAt(serverDirectory("blank", () => "")),
    says: /id is damaged/,
  },
  { program: "mount", why: "no mount point", args: "", says: /MOUNTPOINT/ },
  { program: "mount", why: "an unknown flag", args: "/x --nonsense", says: /nonsense/ },
  { program: "mount", why: "an unknown option", args: "/x -o sideways", says: /sideways/ },
  { program: "mount", why: "an unknown binding", args: "/x --binding=rope", says: /rope/ },
  { program: "mount", why: "an odd timeout", args: "/x --timeout soon", says: /timeout/ },
  { program: "mount", why: "a bad master", args: "/x --master here", says: /--master/ },
  {
    program: "mount",
    why: "a master where nothing listens",
    args: `${directory("empty")} --master ${nowhere}`,
    says: /nothing listens|no answer|cannot reach/,
  },
  {
    program: "mount",
    why: "a master where nothing listens, with -f",
    args: `${directory("empty")} -f --master ${nowhere}`,
    says: /nothing listens|no answer|cannot reach/,
  },
  {
    program: "mount",
    why: "no such mount point",
    args: mountAt("/nonexistent/m"),
    says: /no such directory/,
  },
  {
    program: "mount",
    why: "a file for a mount point",
    args: mountAt(directory("file")),
    says: /not a directory/,
  },
  {
    program: "mount",
    why: "a mount point in use",
    args: mountAt(cluster.m),
    says: /already a mount point/,
  },
  { program: "cli", why: "no command", args: "", says: /\w/ },
  { program: "cli", why: "an unknown command", args: "dance", says: /dance/ },
  { program: "cli", why: "an unknown flag", args: "status --nonsense", says: /nonsense/ },
  {
    program: "cli",
    why: "a master where nothing listens",
    args: `status --master ${nowhere}`,
    says: /no master answers/,
  },
  { program: "cli", why: "a bad address", args: "status --master here", says: /--master/ },
  { program: "cli", why: "half a command", args: "snapshot", says: /which one|create/ },
  {
    program: "cli",
    why: "no such directory",
    args: `snapshot create /nonexistent --master ${cluster.masterAddress}`,
    says: /\/nonexistent: no such .* \(no gfs mount holds it\)/,
  },
  {
    program: "cli",
    why: "no such directory in a mount",
    args: `snapshot create ${cluster.m}/nonexistent --master ${cluster.masterAddress}`,
    says: /\/m1\/nonexistent: no such file or directory in the filesystem$/,
  },
  {
    program: "cli",
    why: "no such snapshot",
    args: `snapshot delete ${cluster.m} gone --master ${cluster.masterAddress}`,
    says: /no snapshot 'gone': gfs snapshot list/,
  },
];

const titles = { master: "gfs-master", chunkd: "gfs-chunkd", mount: "gfs-mount", cli: "gfs" };

async function check(t: Test, { program, why, args, says }: Case): Promise<void> {
  const command = `${quote(process.execPath)} ${quote(programPath(program))} ${args}`;
  const env = { HOME: cluster.work, GFS_LOG: "error" };
  const { code, err, timedOut, ms } = await cluster.sh(command, { timeoutMs: 60_000, env });
  const what = `${titles[program]}, ${why}`;
  const lines = err.split("\n").filter((line) => line !== "");
  const own = lines.at(-1) ?? "";
  const seen = `${what}: ${own} (${ms} ms)`;
  t.notOk(timedOut, `${what}: it ends`);
  t.equal(code, 1, seen);
  t.match(own, new RegExp(`^${titles[program]}: .*${says.source}`), seen);
  t.equal(lines.length, 1, `${what}: ${lines.length} line(s)`, { lines });
}

t.test("what is wrong on a command line is told in one line, with exit status 1", async (t) => {
  const left = [...cases];
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next; next = left.shift()) await check(t, next);
  };
  await Promise.all([worker(), worker(), worker()]); // Most of the time is spent starting Node.
  t.equal(await cluster.ok("ls -A $W/foreign; cat $W/foreign/*"), "letter.txt\nnot yours");
});

t.test("the mount's log has the level that GFS_LOG says", async (t) => {
  const command = `mkdir -p $W/quiet; ${quote(process.execPath)} ${quote(programPath("mount"))} \
    $W/quiet --master $MASTER --log $W/quiet.log; ls $W/quiet; umount $W/quiet`;
  await cluster.ok(command, { env: { GFS_LOG: "error" } });
  t.equal(await cluster.ok("cat $W/quiet.log"), "");
  const nonsense = await cluster.sh(command, { env: { GFS_LOG: "nonsense" } });
  t.match(nonsense.err, "gfs-mount: GFS_LOG is 'nonsense': it can be debug, info, ");
});

const [masterPort, serverPort] = [
  cluster.address.port,
  Number(readFileSync(path.join(cluster.serverData(0), "port"), "utf8")),
];
const targets = [
  { name: "master", port: masterPort },
  { name: "chunkd", port: serverPort },
];
const closeMsMax = 15_000;

/** Connects, sends `bytes`, and resolves with what came back once the other side has closed. */
function send(port: number, bytes: Buffer | string): Promise<string> {
  return new Promise((resolve) => {
    let reply = "";
    const socket = connectTcp({ host: "127.0.0.1", port });
    const end = (how: string): void => {
      clearTimeout(limit);
      socket.destroy();
      resolve(`${how}: ${reply.slice(0, 200)}`);
    };
    const limit = setTimeout(() => end("still open"), closeMsMax);
    socket.on("data", (data) => (reply += data.toString("latin1")));
    socket.on("error", () => end("closed"));
    socket.on("close", () => end("closed"));
    socket.on("connect", () => socket.write(bytes));
  });
}

const upgrade = (port: number): string =>
  `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
  `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n`;

/** A frame that says it has `length` bytes of data and brings those of `body` (RFC 6455 §5.2). */
function frame(length: bigint, body: Buffer): Buffer {
  const head = Buffer.alloc(14); // The mask, the last four bytes, is zero: the body goes as it is.
  head[0] = 0x82;
  head[1] = 0xff;
  head.writeBigUInt64BE(length, 2);
  return Buffer.concat([head, body]);
}

const framed = (port: number, body: Buffer): Buffer =>
  Buffer.concat([Buffer.from(upgrade(port)), frame(BigInt(body.length), body)]);

const garbage = Buffer.from(Array.from({ length: 4_096 }, (_, i) => (i * 7_919) % 251));
const nested = Buffer.concat([Buffer.alloc(100_000, 0x81), Buffer.from([0])]);
const helloParams = { protocol: protocolVersion, role: "mount" as const, name: "test" };

/** Bytes after which a program must close the connection. */
const attacks: { what: string; bytes: (port: number) => Buffer | string }[] = [
  { what: "bytes that are no HTTP", bytes: () => garbage },
  { what: "an endless header", bytes: () => `GET / HTTP/1.1\r\nX: ${"x".repeat(200_000)}` },
  { what: "TLS", bytes: () => Buffer.from("16030100a5010000a10303", "hex") },
  {
    what: "a frame of 2^62 bytes",
    bytes: (port) =>
      Buffer.concat([Buffer.from(upgrade(port)), frame(2n ** 62n, Buffer.alloc(1_000))]),
  },
  {
    what: "a frame one byte too long",
    bytes: (port) => framed(port, Buffer.alloc(messageBytesMax + 1)),
  },
  { what: "an unknown frame type", bytes: (port) => `${upgrade(port)}\x8f\x80\0\0\0\0` },
  { what: "an unmasked frame", bytes: (port) => `${upgrade(port)}\x82\x01a` },
  { what: "an empty message", bytes: (port) => framed(port, Buffer.alloc(0)) },
  { what: "no CBOR", bytes: (port) => framed(port, Buffer.alloc(100, 0xff)) },
  { what: "CBOR cut short", bytes: (port) => framed(port, Buffer.from([0x84, 0x00, 0x01])) },
  { what: "CBOR nested 100,000 deep", bytes: (port) => framed(port, nested) },
  {
    what: "a CBOR array of 2^32 items",
    bytes: (port) => framed(port, Buffer.from([0x9a, 0xff, 0xff, 0xff, 0xff, 0])),
  },
  { what: "no envelope", bytes: (port) => framed(port, encodeCbor({ hello: "there" })) },
  { what: "an unknown kind", bytes: (port) => framed(port, encodeCbor([9, 1, 1, 1, {}])) },
  { what: "an unknown method", bytes: (port) => framed(port, encodeCbor([0, 1, 9_999, 1, {}])) },
  {
    what: "hello with wrong types",
    bytes: (port) => framed(port, encodeCbor([0, 1, hello.code, 1_000, { protocol: "one" }])),
  },
  {
    what: "hello with a field too many",
    bytes: (port) =>
      framed(port, encodeCbor([0, 1, hello.code, 1_000, { ...helloParams, admin: true }])),
  },
  {
    what: "hello with a negative deadline",
    bytes: (port) => framed(port, encodeCbor([0, 1, hello.code, -1, helloParams])),
  },
];

t.test("a malformed message ends its connection and nothing else", async (t) => {
  const tries = targets.flatMap(({ name, port }) =>
    attacks.map(async ({ what, bytes }) => {
      const reply = await send(port, bytes(port));
      t.match(reply, /^closed/, `${name}: ${what}`);
    }),
  );
  await Promise.all(tries);
});

async function raw(port: number): Promise<Connection> {
  const address = { host: "127.0.0.1", port };
  const transport = await connect({ address, clock: systemClock, timeoutMs: 5_000 });
  const handlers = new Handlers();
  return new Connection(transport, {
    handlers,
    clock: systemClock,
    log: silentLog,
    peerName: "it",
  });
}

/** The status with which a call fails, or "answered". */
async function failure(call: Promise<unknown>): Promise<string> {
  try {
    await call;
    return "answered";
  } catch (error) {
    if (error instanceof StatusError) return error.status;
    throw error;
  }
}

t.test("without a hello that fits, nothing is answered but why", async (t) => {
  const deadline = { deadlineMs: 10_000 };
  const chunk = { handle: chunkHandle(1), version: chunkVersion(1), offset: 0, length: 1 };
  for (const { name, port } of targets) {
    const connection = await raw(port);
    const ask = (): Promise<unknown> =>
      port === masterPort
        ? connection.call(status, {}, deadline)
        : connection.call(readChunk, chunk, deadline);
    t.equal(await failure(ask()), "protocol", name);
    const newer = { ...helloParams, protocol: protocolVersion + 1 };
    t.equal(await failure(connection.call(hello, newer, deadline)), "protocol", name);
    const foreign = { ...helloParams, cluster: "another" };
    t.equal(await failure(connection.call(hello, foreign, deadline)), "wrong-cluster", name);
    t.not(await failure(ask()), "answered", `${name}: a refused hello opens nothing`);
    connection.close("done");
  }
  const mount = await raw(masterPort);
  await mount.call(hello, helloParams, deadline);
  const beat = mount.call(
    heartbeat,
    { usedBytes: 0, freeBytes: 0, chunks: 0, corruptBlocks: 0, disk: "ok" as const, removed: [] },
    deadline,
  );
  t.equal(await failure(beat), "protocol", "a mount is no chunk server");
  mount.close("done");
});

t.test("plain HTTP is told what is spoken here", async (t) => {
  for (const { name, port } of targets) {
    const out = await cluster.ok(`curl -s -m 10 -w ' %{http_code}' http://127.0.0.1:${port}/`);
    t.match(out, /WebSocket here\s+426$/, name);
  }
});

t.test("500 connections that say nothing keep nobody else out", async (t) => {
  const sockets = await Promise.all(
    Array.from({ length: 500 }, async (_, i) => {
      const socket = connectTcp({ host: "127.0.0.1", port: i % 2 ? masterPort : serverPort });
      socket.on("error", () => undefined);
      await new Promise((resolve) => socket.once("connect", resolve).once("close", resolve));
      return socket;
    }),
  );
  await cluster.ok("printf x >$M/meanwhile; test $(cat $M/meanwhile) = x");
  for (const socket of sockets) socket.destroy();
  t.equal((await cluster.status()).chunks.lost, 0);
});

t.test("after all that the cluster works as before, in the same processes", async (t) => {
  await cluster.ok(`head -c 5000000 /dev/urandom >$W/data; cp $W/data $M/data; cmp $W/data $M/data
    ls -la $M; rm $M/data; printf 'not yours\\n' | cmp - $W/foreign/letter.txt`);
  const now = await cluster.status();
  t.same(
    now.servers.map(({ state }) => state),
    ["up", "up", "up"],
  );
  t.equal(now.chunks.lost, 0);
  t.same(
    cluster.programs.filter(({ running }) => running).map(({ pid }) => pid),
    pids,
  );
  cluster.peaks();
});
