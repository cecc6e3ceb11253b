import fs from "node:fs";
import path from "node:path";
import t from "tap";
import { ClusterDir, type ClusterState, chooseAddress } from "../../cli/cluster.ts";
import { must } from "../../common/assert.ts";
import { holdersOf, listMounts, probe, runLimited } from "../../cli/mounts.ts";
import {
  isRunning,
  lastWords,
  processId,
  signal,
  startDaemon,
  waitForExit,
} from "../../cli/processes.ts";

const own = must(processId(process.pid), "this process is running");

t.test("the mount table's escapes are undone, and the topmost mount comes last", (t) => {
  const text = [
    "36 35 98:0 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/sda1 rw",
    "37 35 0:40 / /mnt/a\\040b rw - fuse.gfs gfs\\0111 rw,user_id=0",
    "",
  ].join("\n");
  t.same(listMounts(text), [
    { mountpoint: "/mnt/a b", type: "ext4", source: "/dev/sda1" },
    { mountpoint: "/mnt/a b", type: "fuse.gfs", source: "gfs\t1" },
  ]);
  t.end();
});

t.test(
  "a probe tells an answer from a failure, and a command that hangs is given up",
  async (t) => {
    t.same(await probe("/", 5_000), { state: "answers" });
    t.match(await probe("/nonexistent", 5_000), {
      state: "fails",
      why: "No such file or directory",
    });
    t.match(await runLimited("sleep", ["60"], 50), { code: undefined });
  },
);

t.test("whoever works in a directory holds it", async (t) => {
  const dir = t.testdir({ inner: {} });
  const held = fs.openSync(path.join(dir, "file"), "w");
  t.match(holdersOf(dir), [{ pid: process.pid, holds: path.join(dir, "file") }]);
  fs.closeSync(held);
  t.same(holdersOf(dir), []);
});

t.test("a process is its pid and its start time: a reused pid is never signalled", (t) => {
  t.equal(isRunning(own), true);
  t.equal(isRunning({ ...own, startTicks: own.startTicks - 1 }), false);
  t.equal(isRunning({ ...own, bootId: "another boot" }), false);
  t.equal(isRunning(undefined), false);
  t.equal(signal({ ...own, startTicks: own.startTicks - 1 }, "SIGKILL"), false);
  t.end();
});

t.test("a daemon's log is appended to, and its last words are its reason", async (t) => {
  const dir = t.testdir({
    "daemon.mjs": 'console.error("noise\\ngfs-chunkd: the disk is full");',
    "daemon.log": "gfs-chunkd: an older reason\n",
  });
  const log = path.join(dir, "daemon.log");
  const script = path.join(dir, "daemon.mjs");
  const daemon = await startDaemon({ what: "chunk server 1", script, args: [], log });
  t.equal(await waitForExit(daemon.id, 20_000), true);
  t.same(lastWords(daemon.log, daemon.logOffset), ["the disk is full"]);
  t.match(fs.readFileSync(log, "utf8"), /^gfs-chunkd: an older reason\nnoise/);
});

t.test("the log's JSON lines are told in plain words", (t) => {
  const log = path.join(t.testdir(), "log");
  const lines = [
    { level: 30, time: "x", program: "p", pid: 1, address: "a:1", msg: "server.ready" },
    { level: 50, error: { message: "disk gone", stack: "Error…" }, msg: "disk.failed" },
  ];
  fs.writeFileSync(log, `${lines.map((line) => JSON.stringify(line)).join("\n")}\n    at x\n`);
  t.same(lastWords(log, 0), ['server.ready: address "a:1"', "disk.failed: disk gone"]);
  t.same(lastWords(path.join(t.testdirName, "none"), 0), []);
  t.end();
});

t.test("a cluster's state survives, another program's file is refused", (t) => {
  const dir = new ClusterDir(t.testdir());
  t.equal(dir.load(), undefined);
  const state: ClusterState = { version: 1, address: "a:1", servers: [null], mounts: [] };
  dir.save(state);
  t.same(dir.load(), state);
  fs.writeFileSync(path.join(dir.path, "cluster.json"), "{}");
  t.throws(() => dir.load(), { name: "UserError" });
  fs.mkdirSync(dir.chunkDir(4));
  t.equal(dir.chunkDirs(), 4);
  t.end();
});

t.test("one gfs up at a time; a killed one's lock is taken over", (t) => {
  const dir = new ClusterDir(t.testdir());
  const lock = dir.lock();
  t.throws(() => dir.lock(), { name: "UserError", message: /another gfs up or down/ });
  lock[Symbol.dispose]();
  const file = path.join(dir.path, "cluster.lock");
  fs.writeFileSync(file, JSON.stringify({ ...own, startTicks: 1 }));
  dir.lock()[Symbol.dispose]();
  t.notOk(fs.existsSync(file));
  t.end();
});

t.test("a running cluster keeps its address, a stopped one may move", (t) => {
  const dir = new ClusterDir(t.testdir());
  const state: ClusterState = { version: 1, address: "127.0.0.1:1234", servers: [], mounts: [] };
  const running = { ...state, master: own };
  t.same(chooseAddress(undefined, running, dir), { host: "127.0.0.1", port: 1234 });
  t.throws(() => chooseAddress("127.0.0.1:9", running, dir), { message: /belongs to a cluster/ });
  t.same(chooseAddress("127.0.0.1:9", state, dir), { host: "127.0.0.1", port: 9 });
  t.throws(() => chooseAddress("127.0.0.1:0", undefined, dir), { name: "UserError" });
  t.throws(() => chooseAddress("nonsense", undefined, dir), { message: /^--listen: / });
  t.end();
});
