import { chmod, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { must } from "../../common/assert.ts";
import type { Resources } from "./device-null.ts";
import { helperOptions, parseDeviceOptions } from "../../mount/fuse/device/options.ts";
import { emptyDirectory, isMounted, mountNull, NullMount } from "./device-support.ts";
import { bash, run, type Test } from "./fuse-native-support.ts";

const root = process.getuid?.() === 0;
/** nobody: fusermount3 wants a user with a name. */
const uid = 65_534;
const buildPath = fileURLToPath(new URL("../..", import.meta.url));

/** Why a mount as another user cannot be tried here, or false. */
async function noUser(): Promise<string | false> {
  if (!root) return "needs root, to become another user";
  if ((await run("fusermount3", ["-V"])).code !== 0) return "fusermount3 is not installed";
  const { code } = await run("setpriv", [`--reuid=${uid}`, "ls", buildPath]);
  return code === 0 ? false : `user ${uid} cannot read ${buildPath}`;
}

/** The mount options and filesystem fields of a line of /proc/self/mountinfo. */
async function mountLine(directory: string): Promise<string> {
  const table = (await readFile("/proc/self/mountinfo", "utf8")).split("\n");
  return must(
    table.find((line) => line.split(" ")[4] === directory),
    "mount",
  )
    .split(" ")
    .slice(5)
    .join(" ");
}

/** What the program prints when it does not mount. */
async function refusal(directory: string, extra: string[] = [], asUser?: number): Promise<string> {
  const mount = new NullMount(directory, extra, asUser);
  const code = await mount.exited;
  if (code !== 1) throw new Error(`it ended with ${code}: ${mount.errors}`);
  return mount.errors;
}

const until = (mount: NullMount): string =>
  `until [ -e ${mount.directory}.go ]; do sleep 0.02; done`;

/** Returns when a file of the mount is open. */
async function opened(mount: NullMount): Promise<void> {
  for (let opens = 0; opens === 0;)
    opens = ((await mount.ask({ do: "stats" })) as { seen: Record<number, number> }).seen[14] ?? 0;
}

await t.test("options become flags of mount(2)", (tt) => {
  const given = { source: "gfs", privileged: true };
  const { flags } = parseDeviceOptions(["ro", "nosuid", "noexec", "dirsync", "noatime"], given);
  tt.equal(flags, 1 | 2 | 8 | 128 | 1024);
  tt.equal(parseDeviceOptions(["ro", "sync", "rw", "async"], given).flags, 0, "the last counts");
  tt.equal(parseDeviceOptions([], { ...given, privileged: false }).flags, 2 | 4, "nosuid, nodev");
  const session = { uid: 4_294_967_294, umask: 0o27, maxBackground: 64 };
  const parsed = parseDeviceOptions(["uid=4294967294", "umask=27", "max_background=64"], given);
  tt.same(parsed.session, session);
  const others = parseDeviceOptions(["fsname=a:1", "context=x:y", "noatime", "lazytime"], given);
  tt.same(helperOptions(others), ["fsname=a:1", "subtype=gfs", "noatime", "context=x:y"]);
  for (const wrong of ["bad", "ro=1", "uid", "uid=x", "uid=4294967295", "umask=8", "fsname=a\\b"])
    tt.throws(() => parseDeviceOptions([wrong], given), { name: "UserError" }, wrong);
  for (const option of ["suid", "dev"])
    tt.throws(() => parseDeviceOptions([option], { ...given, privileged: false }), {
      message: `mount option '${option}' is for root only`,
    });
  tt.end();
});

await t.test(
  "what the kernel shows is what was asked for",
  { skip: !root && "needs root" },
  async (tt) => {
    const { directory } = await mountNull(tt, { extra: ["ro", "nosuid", "noexec", "fsname=h:1"] });
    tt.match(
      await mountLine(directory),
      /^ro,nosuid,noexec,relatime .*- fuse\.gfs h:1 ro,.*default_permissions,allow_other/,
    );
    const plain = await mountNull(tt);
    tt.match(
      await mountLine(plain.directory),
      /^rw,relatime .*- fuse\.gfs null rw,/,
      "suid and dev for root",
    );
  },
);

await t.test("what stands in the way is said in one line", async (tt) => {
  const directory = await emptyDirectory(tt);
  const file = `${directory}/file`;
  await writeFile(file, "");
  const program = "device-null: ";
  tt.equal(await refusal(`${directory}/none`), `${program}${directory}/none: no such directory\n`);
  tt.equal(await refusal(file), `${program}${file}: not a directory\n`);
  tt.equal(await refusal(directory, ["no"]), `${program}unknown mount option 'no'\n`);
  const mount = await mountNull(tt);
  tt.equal(
    await refusal(mount.directory),
    `${program}${mount.directory}: already a mount point (fuse.gfs); unmount it first\n`,
  );
});

await t.test("a directory that is not empty is mounted over", async (tt) => {
  const directory = await emptyDirectory(tt);
  await writeFile(`${directory}/below`, "");
  const mount = await mountNull(tt, { directory });
  tt.equal(await mount.ask({ do: "unmount" }), "unmounted");
  tt.same(await readdir(directory), ["below"]);
});

await t.test("unmounting is busy while the mount is in use, unless lazy", async (tt) => {
  const mount = await mountNull(tt);
  // It has a file open until its input ends.
  const user = run("bash", [
    "-c",
    `exec 3< ${mount.directory}/file; ${until(mount)}; cat <&3 | wc -c`,
  ]);
  await opened(mount);
  tt.equal(await mount.ask({ do: "unmount" }), "busy");
  tt.equal(await mount.ask({ do: "unmount", lazy: true }), "unmounted");
  tt.notOk(await isMounted(mount.directory));
  await writeFile(`${mount.directory}.go`, "");
  tt.equal((await user).output, `${64 << 20}\n`, "the open file is served to its end");
  tt.equal(await mount.ended, "unmounted");
  await rm(`${mount.directory}.go`);
});

await t.test("the mount of a driver that was killed is taken away by the next", async (tt) => {
  const first = await mountNull(tt);
  const user = run("bash", ["-c", `exec 3< ${first.directory}/file; ${until(first)}`]);
  await opened(first);
  first.child.kill("SIGKILL");
  await first.exited;
  tt.ok(await isMounted(first.directory), "its mount is still there, dead");
  const second = await mountNull(tt, { directory: first.directory });
  tt.equal((await run("stat", ["file"], second.directory)).code, 0);
  await writeFile(`${first.directory}.go`, "");
  await user;
  await rm(`${first.directory}.go`);
});

/** udev lets everybody open /dev/fuse; a container may not. */
async function allowUsers(test: Test): Promise<void> {
  const { mode } = await stat("/dev/fuse");
  await chmod("/dev/fuse", mode | 0o666);
  test.teardown(() => chmod("/dev/fuse", mode & 0o777));
}

await t.test("a user mounts through fusermount3", { skip: await noUser() }, async (tt) => {
  await allowUsers(tt);
  const mount = await mountNull(tt, { uid, extra: ["noexec", "noatime"] });
  tt.match(
    await mountLine(mount.directory),
    new RegExp(`nosuid,nodev,noexec,noatime .*- fuse.gfs null rw,user_id=${uid}`),
  );
  const asUser = ["--clear-groups", `--reuid=${uid}`, `--regid=${uid}`, "head", "-c2097152"];
  const { output, errors } = await run("setpriv", [...asUser, `${mount.directory}/file`]);
  tt.equal(output.length, 2 << 20, errors);
  tt.match((await run("ls", [mount.directory])).errors, /Permission denied/, "root has no entry");
  tt.same(await mount.ask({ do: "entry", name: "none" }), [-2], "notifications work");
  tt.equal(await mount.ask({ do: "unmount" }), "unmounted");
  tt.equal(await mount.ended, "unmounted");
  tt.notOk(await isMounted(mount.directory));
});

await t.test("what a user may not is said in one line", { skip: await noUser() }, async (tt) => {
  await allowUsers(tt);
  const owned = await emptyDirectory(tt, uid);
  const foreign = await emptyDirectory(tt);
  await bash(`chmod 755 ${foreign}`);
  tt.match(
    await refusal(foreign, [], uid),
    new RegExp(`^device-null: ${foreign}: .*write access.*\n$`),
  );
  tt.match(await refusal(owned, ["suid"], uid), /: mount option 'suid' is for root only\n$/);
});

/** How often to mount and unmount; 500 by hand: ROUNDS=500 node build/test/mount/….js */
const rounds = Number(process.env["ROUNDS"] ?? 25);

for (const as of ["root", "a user"]) {
  const skip = as === "root" ? !root && "needs root" : await noUser();
  await t.test(`${rounds} mounts by ${as} leave nothing behind`, { skip }, async (tt) => {
    await allowUsers(tt);
    const mount = await mountNull(tt, as === "root" ? {} : { uid });
    const directory = await emptyDirectory(tt, as === "root" ? undefined : uid);
    await mount.ask({ do: "rounds", name: directory, count: 5 }); // What is allocated once.
    const before = (await mount.ask({ do: "resources" })) as Resources;
    await mount.ask({ do: "rounds", name: directory, count: rounds });
    const after = (await mount.ask({ do: "resources" })) as Resources;
    tt.equal(after.descriptors, before.descriptors, "descriptors");
    tt.equal(after.threads, before.threads, "threads");
    tt.ok(after.buffers - before.buffers < 4 << 20, "read buffers, of 1 MiB each, are collected");
    // Leaked buffers and stacks would be more than 1 MiB a round.
    const grown = (after.memory - before.memory) / (1 << 20);
    tt.comment(`${rounds} rounds: resident ${grown.toFixed(1)} MiB more`);
    tt.ok(grown < 10 + rounds / 2, `${rounds} rounds: ${grown.toFixed(1)} MiB more`);
  });
}
