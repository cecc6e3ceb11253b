import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import t from "tap";
import type { TestMount } from "./fuse-native-support.ts";
import { bash, mountMemory, run, runCase, runCases } from "./fuse-native-support.ts";
import { temporaryDirectory } from "./fuse-native-support.ts";

const binding = ["--binding", "device"];
const oneMiB = 1 << 20;

async function mounted(
  test: { teardown(work: () => Promise<void>): unknown },
  ...extra: readonly string[]
): Promise<{ directory: string; mount: TestMount }> {
  const directory = path.join(await temporaryDirectory(test), "m");
  await mkdir(directory);
  return { directory, mount: await mountMemory(test, directory, [...binding, ...extra]) };
}

for (const seconds of ["0", "3600"]) {
  await t.test(`a mount does as a disk, with ${seconds} s of caching in the kernel`, async (tt) => {
    const { directory, mount } = await mounted(tt, "--seconds", seconds);
    await runCases(tt as typeof t, directory);
    await tt.test("nothing is left open or referenced", async (ttt) => {
      // Inodes in use by nothing else are forgotten when the kernel needs memory, or is told to.
      const { errors } = await bash(`rm -rf ${directory}/*; echo 2 > /proc/sys/vm/drop_caches`);
      if (errors !== "")
        return ttt.comment(`the kernel's caches cannot be dropped here: ${errors}`);
      const state = await mount.ask();
      ttt.equal(state.openFiles, 0, "open files");
      ttt.equal(state.references, 0, "references");
      ttt.equal(state.inodes, 1, "only the root is left");
    });
  });
}

await t.test("a failure of the filesystem becomes its errno, and the mount goes on", async (tt) => {
  const { directory, mount } = await mounted(tt);
  const code = async (name: string): Promise<string | undefined> =>
    /code: '(\w+)'/.exec(
      (await run(process.execPath, ["-e", `fs.statSync("${directory}/${name}")`])).errors,
    )?.[1];
  tt.equal(await code("fail.no-space"), "ENOSPC");
  tt.equal(await code("fail.read-only"), "EROFS");
  tt.equal(await code("fail.bad-name"), "EILSEQ");
  tt.equal(await code("fail.bug"), "EIO", "an assertion");
  tt.equal(await code("fail.crash"), "EIO", "any other exception");
  tt.match(mount.errors, /"operation":"LOOKUP".*the test wants no bug.*fuse\.bug/);
  tt.equal((await bash(`echo still > ${directory}/x; cat ${directory}/x`)).output, "still\n");
});

await t.test("names are bytes, whether they are UTF-8 or not", async (tt) => {
  const { directory } = await mounted(tt);
  const script = `: > $'bad\\xff\\xfe'; ls | od -An -tx1; rm $'bad\\xff\\xfe'; ls`;
  tt.equal((await bash(script, directory)).output, " 62 61 64 ff fe 0a\n");
});

await t.test("df shows sizes that need more than 32 bits", async (tt) => {
  const { directory } = await mounted(tt);
  const { output } = await run("df", ["--output=size,avail", "-B1", directory]);
  const terabytes = 64 * 2 ** 40;
  tt.match(output, new RegExp(`${terabytes} +${terabytes / 2}`));
});

await t.test("times are kept to the ns, and set to now", async (tt) => {
  const { directory } = await mounted(tt, "--seconds", "3600");
  const script = `
    touch -m -d '2001-02-03 04:05:06.123456789 UTC' x; stat -c %.9Y x
    touch -a -d '1960-01-01 00:00:00.000000001 UTC' x; stat -c '%.9X %.9Y' x
    touch x; test $(($(date +%s) - $(stat -c %Y x))) -lt 60`;
  const { output, code } = await bash(script, directory);
  tt.equal(output, "981173106.123456789\n-315619199.999999999 981173106.123456789\n");
  tt.equal(code, 0);
});

await t.test("the caller owns what it makes, and its umask counts", async (tt) => {
  const { directory } = await mounted(tt);
  const script = `
    chmod 777 .; umask 027
    setpriv --reuid 1234 --regid 5678 --clear-groups bash -c 'umask 027; mkdir d; : > f'
    stat -c '%n %u %g %a' d f`;
  tt.equal((await bash(script, directory)).output, "d 1234 5678 750\nf 1234 5678 640\n");
});

await t.test("requests of 1 MiB arrive whole", async (tt) => {
  const { directory, mount } = await mounted(tt);
  const script = `
    head -c 8M /dev/urandom > ../source
    dd if=../source of=x bs=1M status=none
    echo 1 > /proc/sys/vm/drop_caches
    dd if=x of=../target bs=4k status=none; cmp ../source ../target
    dd if=x of=../direct bs=2M iflag=direct status=none; cmp ../source ../direct`;
  const { code, errors } = await bash(script, directory);
  tt.equal(code, 0, errors);
  const state = await mount.ask();
  tt.equal(state.writeBytesMax, oneMiB, "written");
  tt.equal(state.readBytesMax, oneMiB, "read");
});

await t.test("files are mapped into memory, shared and private", async (tt) => {
  const { directory } = await mounted(tt, "--seconds", "3600");
  const script = `
import mmap, os
with open("x", "wb") as f: f.write(b"a" * 10000)
with open("x", "r+b") as f:
    shared = mmap.mmap(f.fileno(), 0)
    private = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    shared[5000:5003] = b"xyz"
    private[0:3] = b"123"
    assert private[5000:5003] == b"xyz" and shared[0:3] == b"aaa"
    shared.flush()
    assert os.pread(f.fileno(), 3, 5000) == b"xyz"
    shared.close()
fd = os.open("x", os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 16384)
assert os.readv(fd, [buffer]) == 10000
assert buffer[4999:5004] == b"axyza" and buffer[0:3] == b"aaa"`;
  const { code, errors } = await runCase({ name: "", program: "python3", script }, directory);
  tt.equal(code, 0, errors);
});

await t.test("a signal ends a read or a lookup that waits", async (tt) => {
  const { directory, mount } = await mounted(tt);
  const script = `
    echo BLOCK > x; echo fine > y
    timeout -s INT 0.5 dd if=x iflag=direct status=none || echo "dd: $?"
    timeout -s TERM 0.5 stat block.y 2> /dev/null || echo "stat: $?"
    cat y`;
  const { output } = await bash(script, directory);
  tt.equal(output, "dd: 124\nstat: 124\nfine\n");
  // close(2) does not wait for the driver to hear of it.
  let left = 1;
  for (let i = 0; i < 100 && left > 0; i++) left = (await mount.ask()).openFiles;
  tt.equal(left, 0, "and what was open is closed");
});

await t.test("what changes elsewhere is seen at once, though it may be cached", async (tt) => {
  const { directory, mount } = await mounted(tt, "--seconds", "3600");
  await bash("mkdir d; echo 1 > d/x; echo before > d/y; cat d/x d/y; ls d", directory);
  mount.child.kill("SIGWINCH");
  tt.equal((await mount.state()).state, "changed");
  const { output } = await bash("ls d; cat d/x || cat d/y; stat -c %s d/y", directory);
  tt.equal(output, "y\nchanged elsewhere17\n");
});

await t.test("what changes elsewhere is dropped in a directory that is busy", async (tt) => {
  const { directory, mount } = await mounted(tt, "--seconds", "3600");
  await bash("mkdir d; echo 1 > d/x; cat d/x", directory);
  const blocked = bash("echo $$ > ../started; exec stat block.z", path.join(directory, "d"));
  // The lock of `d` is held once the driver has been asked for block.z: nothing tells us when.
  await bash("until [ -s started ]; do sleep 0.05; done; sleep 0.5", path.dirname(directory));
  mount.child.kill("SIGWINCH");
  tt.equal((await mount.state()).state, "changed", "though the lookup there goes on");
  tt.match((await bash("cat d/x", directory)).errors, /No such file/);
  await bash("kill $(cat started)", path.dirname(directory));
  await blocked;
});

await t.test("all that the kernel has cached can be dropped", async (tt) => {
  const { directory, mount } = await mounted(tt, "--seconds", "3600");
  await bash("for i in $(seq 300); do echo $i > $i; done; cat *; ls -l", directory);
  mount.child.kill("SIGURG");
  tt.equal((await mount.state()).state, "dropped");
  tt.equal((await bash("cat 7 300; ls | wc -l", directory)).output, "7\n300\n300\n");
});

await t.test("a directory is listed whole while others fill and empty it", async (tt) => {
  const { directory } = await mounted(tt);
  const script = `
    const names = Array.from({ length: 3000 }, (_, i) => "keep-" + i);
    for (const name of names) fs.writeFileSync(name, "");
    const churn = require("node:child_process").spawn("bash",
      ["-c", "while :; do touch a-\\$RANDOM z-\\$RANDOM m-\\$RANDOM; rm -f a-* m-*; done"]);
    for (let round = 0; round < 10; round++) {
      const seen = [];
      const dir = fs.opendirSync(".", { bufferSize: 7 });
      for (let entry = dir.readSync(); entry; entry = dir.readSync())
        if (entry.name.startsWith("keep-")) seen.push(entry.name);
      dir.closeSync();
      assert.deepEqual(seen.toSorted(), names.toSorted());
    }
    churn.kill("SIGKILL");`;
  const { code, errors } = await runCase({ name: "", program: "node", script }, directory);
  tt.equal(code, 0, errors);
});

await t.test("umount by anybody ends the driver", async (tt) => {
  const { directory, mount } = await mounted(tt);
  await bash(`ls -lR ${directory}`);
  tt.equal((await run("umount", [directory])).code, 0);
  tt.equal((await mount.state()).state, "closed", "its filesystem was closed");
  tt.equal(await mount.exited, 0);
});

await t.test("after a lazy umount open files are served until they are closed", async (tt) => {
  const { directory, mount } = await mounted(tt);
  const script = `
    exec 3> x; umount -l "$PWD"; sleep 0.5; echo late >&3; exec 3>&-; echo written`;
  tt.equal((await bash(script, directory)).output, "written\n");
  tt.match(await mount.state(), { state: "closed", openFiles: 0, inodes: 2, references: 0 });
  tt.equal(await mount.exited, 0);
});

await t.test("a mount whose driver was killed is replaced by the next mount", async (tt) => {
  const { directory, mount } = await mounted(tt);
  const open = bash("exec 3> x; echo 1 >&3; sleep 1; echo 2 >&3", directory);
  await bash(`until [ -s ${directory}/x ]; do sleep 0.05; done`);
  mount.child.kill("SIGKILL");
  await mount.exited;
  tt.match((await run("ls", [directory])).errors, /Transport endpoint is not connected/);
  tt.not((await open).code, 0, "who had a file open gets an error");
  const second = await mountMemory(tt, directory, binding);
  tt.match(second.errors, /mount\.dead-removed/);
  tt.equal((await run("ls", [directory])).code, 0);
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  tt.equal(mounts.split(directory).length, 2, "mounted once, not twice over each other");
});

await t.test("SIGTERM unmounts and ends with 0", async (tt) => {
  const { directory, mount } = await mounted(tt);
  mount.child.kill("SIGTERM");
  tt.equal(await mount.exited, 0);
  tt.notOk((await readFile("/proc/self/mountinfo", "utf8")).includes(directory));
});
