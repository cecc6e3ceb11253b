import t from "tap";
import { type Ino, rootIno } from "../../protocol/id.ts";
import { createSnapshot, deleteSnapshot } from "../../protocol/methods/admin.ts";
import { mkdir, mknod } from "../../protocol/methods/namespace.ts";
import type { NamespaceSession } from "../../cli/session.ts";
import { Cluster, type Status } from "../support/cluster.ts";

/** Snapshots (P5) as a user sees them: through the mount, and with `gfs snapshot`. */

// Small chunks: a file of some MiB has several, some of which change while others stay shared.
const cluster = await Cluster.start(t, { chunkMiB: 1 });
const slow = { timeoutMs: 240_000 };

/** 60 small files, an empty one, one of several chunks and one with a hole, links and modes. */
const makeTree = `mkdir -p t/a/b t/c t/d t/empty; cd t
  for i in {1..30}; do printf "file $i " | tee a/f$i a/b/f$i >c/f$i; done
  : >d/none; head -c 5500000 <(yes 0123456789abcdef) >d/big; truncate -s 4M d/hole
  printf x | dd of=d/hole bs=1 seek=2500000 conv=notrunc status=none
  for i in {1..6}; do head -c $((i * 70000)) <(yes "medium $i") >d/m$i; done
  ln a/f1 a/hard; ln -s ../c/f1 d/soft; chmod 600 c/f2; chmod 4755 c/f3; chown 7:8 c/f4
  touch -d '2003-04-05 06:07:08.123456789' c/f5; cd ..`;

/** Everything that can happen to half of it. */
const changeTree = `cd t; for i in {1..10}; do printf "other $ROUND" >a/f$i; done
  for i in {11..20}; do printf "more $ROUND" >>a/f$i; rm c/f$i; done; rm -r a/b; mv c c2; mkdir c
  printf new >c/f1; truncate -s 3000000 d/big
  printf "middle $ROUND" | dd of=d/big bs=1 seek=1100000 conv=notrunc status=none
  truncate -s 0 d/m1; rm d/m2; mv d/m3 d/m4; printf y >>d/m5
  truncate -s 9M d/hole; printf z | dd of=d/hole bs=1 seek=5000000 conv=notrunc status=none
  chmod 777 c2/f2; chown 1:2 c2/f6; ln -sf nowhere d/soft; rmdir empty; mkdir -p n/m
  printf n >n/m/o; rm a/hard; touch a; cd ..`;

/** Types, modes, owners, targets, sizes, and times in ms: the native binding has no finer. */
const attributes = `{ find . -mindepth 1 -type d -printf '%P %y %m %U:%G\\n' -o \
  -mindepth 1 -printf '%P %y %m %U:%G %l %s %T@\\n'; } |
  sed -E 's/(\\.[0-9]{3})[0-9]+$/\\1/' | sort`;

await cluster.ok(`cd $M; ${makeTree}; cd $W; ${makeTree}`, slow);
await cluster.ok(
  `cd $W/t; find . -type f -exec touch -r {} $M/t/{} \\;; touch -h -r d/soft $M/t/d/soft`,
);

t.test("a snapshot keeps a tree as it was while half of it changes", async (t) => {
  t.equal(await cluster.ok("diff -r $W/t $M/t", slow), "");
  await cluster.ok("mkdir $M/t/.snapshots/first");
  await cluster.ok(`cd $M; ${changeTree}`, { ...slow, env: { ROUND: "1" } });
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
  await cluster.ok(`cd $W/t; ${attributes} >$W/a; cd $M/t/.snapshots/first; ${attributes} >$W/b`);
  t.equal(await cluster.ok("diff $W/a $W/b"), "", "modes, owners, times and targets too");
});

t.test("a second snapshot keeps the later state, and the first its own", async (t) => {
  await cluster.ok("cp -a $M/t $W/t2", slow);
  await cluster.ok("mkdir $M/t/.snapshots/second; mv $M/t/c2 $M/t/c3; mkdir $M/t/empty");
  const again = `cd $M/t; mkdir -p a/b; for i in {1..30}; do printf "again $i" >a/f$i; done
    rm -r c3 n; printf end >>d/big; truncate -s 100 d/hole`;
  await cluster.ok(again, slow);
  t.equal(await cluster.ok("diff -r --no-dereference $W/t2 $M/t/.snapshots/second", slow), "");
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
});

t.test(
  "cp -r out of a snapshot is the restored tree, within the mount and out of it",
  async (t) => {
    await cluster.ok("cp -r $M/t/.snapshots/first $M/r1; cp -r $M/t/.snapshots/second $W/r2", slow);
    t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/r1", slow), "");
    t.equal(await cluster.ok("diff -r --no-dereference $W/t2 $W/r2", slow), "");
    await cluster.ok("cp -a $M/t/.snapshots/second $M/r2", slow);
    t.equal(await cluster.ok("diff -r --no-dereference $W/t2 $M/r2", slow), "");
    await cluster.ok("printf x >>$M/r1/d/big; rm -r $M/r1 $M/r2 $W/r2", slow);
    t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
  },
);

t.test("a snapshot is read-only", async (t) => {
  const tries = [
    "printf x >>a/f1",
    "printf x >new",
    "rm a/f1",
    "mkdir dir",
    "mv a/f1 a/f2",
    "chmod 777 a/f1",
    "chown 1 a/f1",
    "touch a/f1",
    "truncate -s 0 a/f1",
    "ln a/f1 link",
    "ln -s a link",
    "setfattr -n user.x -v y a/f1",
    "mv a/f1 $M/t/stolen",
    "rmdir empty",
  ];
  for (const command of tries) {
    const { code, err } = await cluster.sh(`cd $M/t/.snapshots/first; ${command}`);
    t.not(code, 0, command);
    t.match(err, /read-only file system|cross-device/i, `${command}: ${err.trim()}`);
  }
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
});

t.test("a sub-directory shows its ancestor's snapshots, each as it was then", async (t) => {
  t.equal(await cluster.ok("ls $M/t/d/.snapshots"), "first\nsecond");
  t.equal(await cluster.ok("diff -r $W/t/d/m1 $M/t/d/.snapshots/first/m1"), "");
  t.equal(
    await cluster.ok("cat $M/t/d/.snapshots/first/m3 | sha256sum"),
    await cluster.ok("cat $W/t/d/m3 | sha256sum"),
  );
  t.equal(
    await cluster.ok("ls -A $M/t/d | grep -c snapshots || true"),
    "0",
    "but it is not listed",
  );
  t.match(await cluster.sh("mkdir $M/t/d/.snapshots"), { code: 1, err: /exists/i });
});

t.test(
  "a file that is written while the snapshot is taken stays as it was at that time",
  async (t) => {
    // The writer goes on without a pause; each line says its number, so that a prefix can be told.
    const writer = cluster.startShell(
      `exec 3>$M/t/growing; for i in {1..1500}; do printf '%015d\\n' $i >&3; done
     head -c 3000000 <(yes 123456789012345) >&3; exec 3>&-`,
      slow,
    );
    await cluster.ok("until test -s $M/t/growing; do :; done; mkdir $M/t/.snapshots/during", slow);
    await cluster.ok("cp $M/t/.snapshots/during/growing $W/g1");
    t.match(await writer.done, { code: 0 });
    await cluster.ok("cp $M/t/.snapshots/during/growing $W/g2; cmp $W/g1 $W/g2");
    await cluster.ok("cmp -n $(stat -c %s $W/g1) $W/g1 $M/t/growing");
    const [then, now] = (await cluster.ok("stat -c %s $W/g1 $M/t/growing")).split("\n").map(Number);
    t.equal(now, 1_500 * 16 + 3_000_000);
    t.ok(Number(then) > 0 && Number(then) <= Number(now), `${then} of ${now} bytes`);
    await cluster.ok("rmdir $M/t/.snapshots/during");
  },
);

t.test("what write(2) returned before a snapshot is in it, closed or not", async (t) => {
  await cluster.ok(
    `cd $M/t; exec 3>open; printf 'before\\n' >&3; mkdir .snapshots/open; printf 'after\\n' >&3
     test "$(cat .snapshots/open/open)" = before; test "$(cat open)" = $'before\\nafter'
     exec 3>&-; test "$(cat .snapshots/open/open)" = before; rmdir .snapshots/open; rm open`,
  );
  t.equal(await cluster.ok("ls $M/t/.snapshots"), "first\nsecond");
});

t.test("a snapshot is renamed with mv and deleted with rmdir", async (t) => {
  await cluster.ok("mkdir $M/t/.snapshots/x; mv $M/t/.snapshots/x $M/t/.snapshots/y");
  t.equal(await cluster.ok("ls $M/t/.snapshots"), "first\nsecond\ny");
  t.match(await cluster.sh("mkdir $M/t/.snapshots/y"), { code: 1, err: /exists/ });
  t.match(await cluster.sh("mv -T $M/t/.snapshots/y $M/t/.snapshots/first"), { code: 1 });
  await cluster.ok("rmdir $M/t/.snapshots/y");
  t.match(await cluster.sh("rmdir $M/t/.snapshots/y"), { code: 1, err: /No such file/ });
  t.match(await cluster.sh("ls $M/t/.snapshots/y"), { code: 2, err: /No such file/ });
});

t.test("gfs snapshot creates, lists, restores to a target and in place, and deletes", async (t) => {
  const made = await cluster.gfs("snapshot create /t third");
  t.match(made, { code: 0, out: "third\n" });
  t.match(await cluster.gfs("snapshot create $M/t third"), { code: 1, err: /^gfs: .+\n$/ });
  const { out } = await cluster.gfs("snapshot list --json");
  const names = (JSON.parse(out) as { name: string; directory: string }[]).map(
    ({ name, directory }) => `${directory} ${name}`,
  );
  t.same(names.toSorted(), ["/t first", "/t second", "/t third"]);
  await cluster.ok("cp -a $M/t $W/t3", slow);
  t.match(await cluster.gfs("snapshot restore /t first /restored", slow), { code: 0 });
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/restored", slow), "");
  t.match(await cluster.gfs("snapshot restore /t second", slow), { code: 0 });
  t.equal(await cluster.ok("diff -r --no-dereference $W/t2 $M/t", slow), "");
  await cluster.ok(`cd $W/t2; ${attributes} >$W/a; cd $M/t; ${attributes} >$W/b`);
  t.equal(await cluster.ok("diff $W/a $W/b"), "", "modes, owners, times and targets too");
  t.equal(await cluster.ok("diff -r --no-dereference $W/t3 $M/t/.snapshots/third", slow), "");
  t.match(await cluster.gfs("snapshot delete /t third"), { code: 0 });
  t.match(await cluster.gfs("snapshot delete /t third"), { code: 1, err: /^gfs: .+\n$/ });
});

t.test("snapshots outlive kill -9 of the master", async (t) => {
  await cluster.ok("mkdir $M/t/.snapshots/kept; printf changed >$M/t/a/f1");
  await cluster.master.kill();
  cluster.master.start();
  await cluster.ready();
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
  t.equal(await cluster.ok("diff -r --no-dereference $W/t2 $M/t/.snapshots/kept", slow), "");
  t.equal(await cluster.ok("cat $M/t/a/f1"), "changed");
});

t.test("room comes back when the last snapshot that shows something is deleted", async (t) => {
  await cluster.ok("rm -r $M/restored $M/t/* && ls -A $M/t", slow);
  t.ok((await cluster.status()).chunks.total > 0, "the snapshots still hold chunks");
  t.equal(await cluster.ok("diff -r --no-dereference $W/t $M/t/.snapshots/first", slow), "");
  await cluster.ok("cd $M/t/.snapshots; for s in *; do rmdir $s; done; cd $M; rm -r t");
  const empty = ({ chunks, servers, master }: Status): boolean =>
    chunks.total === 0 && servers.every(({ chunks }) => chunks === 0) && master.inodes === 1;
  await cluster.awaitStatus("no chunk is left, here or on the servers", empty, 120_000);
  t.same((await cluster.status()).snapshots, []);
});

const directoryMode = 0o040755;
const fileMode = 0o100644;

const owner = { uid: 0, gid: 0 };
/** Sessions that make files at the same time: the master commits what they ask for together. */
const makers = 16;

async function makeDirectory(session: NamespaceSession, name: string): Promise<Ino> {
  const request = { parent: rootIno, name: Buffer.from(name), mode: directoryMode, ...owner };
  return (await session.mutate(mkdir, request)).attr.ino;
}

/** Makes empty files, past the mount. */
async function fill(parent: Ino, files: number): Promise<void> {
  let next = 0;
  const make = async (session: NamespaceSession): Promise<void> => {
    while (next < files) {
      const name = Buffer.from(`file-${next}`);
      next += 1;
      await session.mutate(mknod, { parent, name, mode: fileMode, rdev: 0, ...owner });
    }
  };
  await Promise.all(Array.from({ length: makers }, () => cluster.session(make)));
}

/** The median time of a snapshot of `dir`, in ms. */
async function snapshotMs(session: NamespaceSession, dir: Ino): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 7; i += 1) {
    const name = Buffer.from(`s${i}`);
    const startMs = performance.now();
    await session.mutate(createSnapshot, { dir, name });
    times.push(performance.now() - startMs);
    await session.mutate(deleteSnapshot, { dir, name });
  }
  return times.toSorted((a, b) => a - b)[3] ?? 0;
}

t.test("a snapshot takes as long for 20,000 files as for 10", async (t) => {
  const [few, many] = await cluster.session(async (session) => {
    const small = await makeDirectory(session, "few");
    await fill(small, 10);
    const large = await makeDirectory(session, "many");
    const startMs = performance.now();
    await fill(large, 20_000);
    const perSecond = Math.round(20_000 / ((performance.now() - startMs) / 1000));
    t.comment(`${perSecond} files made per second, by ${makers} sessions`);
    return [await snapshotMs(session, small), await snapshotMs(session, large)];
  });
  const ratio = (many / few).toFixed(2);
  t.comment(`snapshot of 10 files ${few.toFixed(1)} ms, of 20,000 ${many.toFixed(1)} ms: ${ratio}`);
  t.equal(await cluster.ok("ls -f $M/many | wc -l", slow), "20002");
  cluster.peaks();
});
