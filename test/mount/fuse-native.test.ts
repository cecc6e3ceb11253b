import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import { holdersOf } from "../../cli/mounts.ts";
import { until } from "../support/until.ts";
import {
  bash,
  driverPath,
  mountMemory,
  run,
  runCase,
  runCases,
  temporaryDirectory,
} from "./fuse-native-support.ts";

await t.test("the control: what a local directory does", async (tt) => {
  await runCases(tt as typeof t, await temporaryDirectory(tt));
});

for (const seconds of ["0", "1"]) {
  await t.test(`a mount does the same, with ${seconds} s of caching in the kernel`, async (tt) => {
    const directory = path.join(await temporaryDirectory(tt), "m");
    await mkdir(directory);
    const mount = await mountMemory(tt, directory, ["--seconds", seconds]);
    await runCases(tt as typeof t, directory);
    await tt.test("nothing is left open or referenced", async (ttt) => {
      await bash(`rm -rf ${directory}/*`);
      const state = await mount.ask();
      ttt.equal(state.openFiles, 0, "open files");
      ttt.equal(state.references, 0, "references");
      ttt.equal(state.inodes, 1, "only the root is left");
    });
  });
}

await t.test(
  "a failure of the filesystem becomes its errno, and the driver goes on",
  async (tt) => {
    const directory = path.join(await temporaryDirectory(tt), "m");
    await mkdir(directory);
    const mount = await mountMemory(tt, directory);
    const code = async (name: string): Promise<string | undefined> =>
      /code: '(\w+)'/.exec(
        (await run(process.execPath, ["-e", `fs.statSync("${directory}/${name}")`])).errors,
      )?.[1];
    tt.equal(await code("fail.no-space"), "ENOSPC");
    tt.equal(await code("fail.not-permitted"), "EPERM");
    tt.equal(await code("fail.read-only"), "EROFS");
    tt.equal(await code("fail.deadline"), "ETIMEDOUT");
    tt.equal(await code("fail.bad-name"), "EILSEQ");
    tt.equal(await code("fail.internal"), "EIO");
    tt.equal(await code("fail.bug"), "EIO", "an assertion");
    tt.equal(await code("fail.crash"), "EIO", "any other exception");
    tt.match(mount.errors, /"operation":"getattr".*the test wants no bug.*fuse\.bug/);
    tt.equal((await bash(`echo still > ${directory}/x; cat ${directory}/x`)).output, "still\n");
  },
);

await t.test("names that are not UTF-8", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  await mountMemory(tt, directory);
  const made = await bash(`: > "${directory}/"$'bad\\xff'`);
  tt.match(made.errors, /Invalid or incomplete multibyte/, "from the kernel they are refused");
  // U+F7FF stands for the byte 0xff, as a listing would show a name that another mount made.
  await bash(`echo content > "${directory}/bad"$'\\uf7ff'`, directory);
  const listed = await bash(
    `ls ${directory}; cat ${directory}/bad*; rm ${directory}/bad*; ls`,
    directory,
  );
  tt.equal(listed.output, "bad\uf7ff\ncontent\n", "escaped they are listed, read and removed");
  const wrong = await bash(`: > "${directory}/"$'\\uf7c3\\uf7a9'`);
  tt.match(wrong.errors, /Invalid or incomplete multibyte/, "escapes of what is UTF-8 are refused");
});

await t.test("df shows sizes that need more than 32 bits", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  await mountMemory(tt, directory);
  const { output } = await run("df", ["--output=size,avail", "-B1", directory]);
  const terabytes = 64 * 2 ** 40;
  tt.match(output, new RegExp(`${terabytes} +${terabytes / 2}`));
});

await t.test("a directory stays as long as files that were unlinked in it are open", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const mount = await mountMemory(tt, directory);
  const script = `
    fs.mkdirSync("d"); fs.mkdirSync("e");
    const fd = fs.openSync("d/x", "w+");
    fs.unlinkSync("d/x");
    for (let i = 0; i < 3; i++) {
      assert.throws(() => fs.rmdirSync("d"), { code: "ENOTEMPTY" });
      assert.throws(() => fs.renameSync("e", "d"), { code: "ENOTEMPTY" });
    }
    fs.renameSync("d", "f");
    assert.throws(() => fs.rmdirSync("f"), { code: "ENOTEMPTY" });
    fs.writeSync(fd, "still here");
    assert.equal(fs.fstatSync(fd).size, 10);
    fs.closeSync(fd);
    fs.rmdirSync("f"); fs.rmdirSync("e");
    assert.deepEqual(fs.readdirSync("."), []);
    // Moved to another directory, it holds only that.
    fs.mkdirSync("d"); fs.mkdirSync("e");
    const moved = fs.openSync("d/y", "w");
    fs.renameSync("d/y", "e/y"); fs.rmdirSync("d"); fs.unlinkSync("e/y");
    assert.throws(() => fs.rmdirSync("e"), { code: "ENOTEMPTY" });
    fs.closeSync(moved); fs.rmdirSync("e");
    // Removed by another mount, it is still open here.
    fs.mkdirSync("d");
    const removed = fs.openSync("d/x", "w");
    process.kill(${mount.child.pid}, "SIGWINCH");
    while (fs.existsSync("d/x"));
    assert.throws(() => fs.rmdirSync("d"), { code: "ENOTEMPTY" });
    fs.writeSync(removed, "x"); fs.closeSync(removed);
    fs.rmdirSync("d");`;
  const { code, errors } = await runCase({ name: "", program: "node", script }, directory);
  tt.equal(code, 0, errors);
});

await t.test("many processes at once do not make the driver slower for good", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const mount = await mountMemory(tt, directory);
  // Names that the kernel knows: others in one directory it looks up one after the other.
  const burst = `for i in $(seq 40); do stat slow.d/x > /dev/null & done; wait`;
  await bash(`mkdir slow.d; touch slow.d/x; for n in 1 2 3 4; do ${burst}; done`, directory);
  tt.match(mount.errors, /fuse-native\.threads-limited/);
  const beyond = mount.errors.split("fuse-native.thread-beyond-limit").length - 1;
  tt.ok(beyond < 45, `only the first burst may have started more threads: ${beyond}`);
  tt.notMatch(mount.errors, /error creating thread/, "and libfuse's complaints are not in the log");
});

await t.test("umount by anybody ends the driver", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const mount = await mountMemory(tt, directory);
  tt.equal((await run("umount", [directory])).code, 0);
  tt.equal((await mount.state()).state, "closed", "its filesystem was closed");
  tt.equal(await mount.exited, 0);
});

await t.test("after a lazy umount open files are served until they are closed", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const mount = await mountMemory(tt, directory);
  const script = `
    exec 3> x; umount -l "$PWD"; sleep 1.5; echo late >&3; exec 3>&-; echo written`;
  tt.equal((await bash(script, directory)).output, "written\n");
  tt.match(await mount.state(), { state: "closed", openFiles: 0, inodes: 2 });
  tt.equal(await mount.exited, 0);
});

await t.test("SIGTERM unmounts and ends with 0, lazily while the mount is in use", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const idle = await mountMemory(tt, directory);
  idle.child.kill("SIGTERM");
  tt.equal(await idle.exited, 0);
  tt.notOk((await readFile("/proc/self/mountinfo", "utf8")).includes(directory));
  const used = await mountMemory(tt, directory);
  const user = bash(`until [ -e ${directory}.go ]; do sleep 0.02; done`, directory);
  await until("it is used", () => holdersOf(directory).length > 0);
  used.child.kill("SIGTERM");
  tt.equal(await used.exited, 0);
  tt.match(used.errors, /mount\.unmounting-lazily/, "and says so");
  tt.notOk((await readFile("/proc/self/mountinfo", "utf8")).includes(directory));
  await writeFile(`${directory}.go`, "");
  await user;
});

await t.test("a mount whose driver was killed is replaced by the next mount", async (tt) => {
  const directory = path.join(await temporaryDirectory(tt), "m");
  await mkdir(directory);
  const first = await mountMemory(tt, directory);
  await bash(`echo 1 > ${directory}/x`);
  first.child.kill("SIGKILL");
  await first.exited;
  tt.match((await run("ls", [directory])).errors, /Transport endpoint is not connected/);
  const second = await mountMemory(tt, directory);
  tt.match(second.errors, /mount\.dead-removed/);
  tt.equal((await run("ls", [directory])).code, 0);
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  tt.equal(mounts.split(directory).length, 2, "mounted once, not twice over each other");
});

await t.test("what is wrong with a mount point is said in one line", async (tt) => {
  const root = await temporaryDirectory(tt);
  const directory = path.join(root, "m");
  await mkdir(directory);
  await writeFile(path.join(root, "file"), "");
  const refusal = async (...args: string[]): Promise<string> => {
    const { code, errors } = await run(process.execPath, [driverPath, ...args]);
    tt.equal(code, 1);
    tt.equal(errors.split("\n").length, 2, `one line: ${errors}`);
    return errors;
  };
  tt.match(await refusal(path.join(root, "none")), /none: no such directory/);
  tt.match(await refusal(path.join(root, "file")), /file: not a directory/);
  tt.match(await refusal(path.join(root, "file/x")), /not a directory/);
  tt.match(await refusal(directory, "no_such_option"), /unknown mount option 'no_such_option'/);
  tt.match(await refusal(directory, "max_background"), /'max_background' needs a value/);
  tt.match(await refusal(directory, "uid=x,suid"), /wrong value/);
  await mountMemory(tt, directory);
  tt.match(await refusal(directory), /already a mount point \(fuse\.gfs\)/);
});

await t.test("in the background: the starter returns once it is mounted", async (tt) => {
  const root = await temporaryDirectory(tt);
  const directory = path.join(root, "m");
  await mkdir(directory);
  await writeFile(path.join(directory, "below"), "");
  const command = `${process.execPath} ${driverPath} m --background log/file`;
  const start = `x=$(${command} 2>&1) || true; echo "[$x]"`;
  const { code, output } = await bash(`${start}; ls m; stat -f -c %T m`, root);
  tt.equal(code, 0);
  tt.equal(output, "[]\nfuseblk\n", "mounted over a directory that is not empty, and it is");
  const again = await bash(start, root);
  tt.match(again.errors + again.output, /already a mount point/, "the child's reason is passed on");
  tt.equal((await run("umount", [directory])).code, 0);
  tt.match(await readFile(path.join(root, "log/file"), "utf8"), /mount\.mounted/);
});
