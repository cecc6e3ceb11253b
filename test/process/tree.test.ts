import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import t from "tap";
import { Cluster } from "../support/cluster.ts";

/** A tree as people have them, through the ordinary programs; each beside a local directory. */

const cluster = await Cluster.start(t, { chunkMiB: 64 });
/** Long commands: the machine may do much else. */
const slow = { timeoutMs: 480_000 };

/** Bytes that differ from file to file and are the same in every run. */
function bytesOf(seed: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let state = (seed * 2_654_435_761 + 1) >>> 0;
  for (let i = 0; i < size; i += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[i] = state >>> 24;
  }
  return bytes;
}

/** 2,000 files of 0 to 200 KB in 105 directories, with links, modes and times. */
function makeTree(root: string): void {
  const sizes = [0, 1, 100, 700, 1_024, 3_000, 4_095, 4_096, 4_097, 9_000, 20_000];
  for (let i = 0; i < 2_000; i += 1) {
    const directory = path.join(root, `d${i % 21}`, `e${i % 5}`);
    mkdirSync(directory, { recursive: true });
    const size = i % 100 === 0 ? 200_000 + i : (sizes[i % sizes.length] ?? 0);
    const mode = i % 7 === 0 ? 0o755 : 0o640;
    writeFileSync(path.join(directory, `file-${i}.dat`), bytesOf(i, size), { mode });
  }
}

makeTree(path.join(cluster.work, "tree"));
await cluster.ok(`cd $W/tree; ln d0/e0/file-0.dat hard; ln -s d0/e0/file-0.dat soft
  ln -s /none dangling; mkdir -p empty/nested
  find . -name '*3.dat' -exec touch -d '2001-02-03 04:05:06.789012345' {} +`);

t.test("a copied tree is the same, in names, bytes, modes, owners, links and times", async (t) => {
  await cluster.ok("cp -a $W/tree $M/tree", slow);
  t.equal(await cluster.ok("diff -r --no-dereference $W/tree $M/tree", slow), "");
  // Names, types, modes, owners, link counts, targets, sizes of files, and times in ms.
  const list = `{ find . -type d -printf '%P %y %m %U:%G %T@\\n' -o -printf \
    '%P %y %m %U:%G %n %l %s %T@\\n'; } | sed -E 's/([0-9]+\\.[0-9]{3})[0-9]*$/\\1/' | sort`;
  await cluster.ok(`cd $W/tree; ${list} >$W/a; cd $M/tree; ${list} >$W/b`, slow);
  t.equal(await cluster.ok("grep -c '/file-[0-9]*.dat f' $W/a"), "2000");
  t.equal(await cluster.ok("diff $W/a $W/b"), "");
});

t.test("what is copied out again is the same", async (t) => {
  await cluster.ok("cp -r $M/tree $W/out && rm -f $W/out/dangling", slow);
  const same = await cluster.sh(
    "diff -r --no-dereference -x dangling $W/tree $W/out; rm -r $W/out",
  );
  t.match(same, { code: 0, out: "" });
});

t.test("cat, ls, mv, ln, chmod, chown and >> do as they do elsewhere", async (t) => {
  const script = `
    mkdir s; cd s; printf 'one\\n' >a; cat a; printf 'two\\n' >>a; cat a
    ls -la a | cut -d' ' -f1,3,4; mv a b; test ! -e a; ln b c; stat -c %h b
    ln -s b l; readlink l; cat l; rm b
    stat -c %h c; cat c; test -L l; test ! -e l; chmod 4711 c
    stat -c %a c; chown 12:34 c; stat -c '%u:%g %a' c
    chmod u=rw,go= c; chown -h 5:6 l; stat -c '%u:%g' l; mkdir -p p/q/r; mv p/q p2; find . | sort
    mv c p2/r/; test -f p2/r/c; rmdir p; rmdir p2 2>&1 || true; rm -r p2; ls -A
    mkfifo f; stat -c %F f; ls -la | wc -l; cd ..; rm -r s; test ! -e s`;
  const local = await cluster.ok(`mkdir -p $W/l; cd $W/l; ${script}`);
  const mounted = await cluster.ok(`cd $M; ${script}`);
  t.equal(mounted, local);
});

t.test("a write in the middle changes these bytes and no others", async (t) => {
  const script = (directory: string): string => `cd ${directory}
    head -c 5000000 <(yes abcdefgh) >mid
    printf 'XYZ' | dd of=mid bs=1 seek=1234567 conv=notrunc status=none
    dd if=mid of=mid bs=64k count=3 seek=40 skip=2 conv=notrunc status=none
    printf 'end' | dd of=mid bs=1 seek=6000000 conv=notrunc status=none
    stat -c %s mid; sha256sum mid; rm mid`;
  t.equal(await cluster.ok(script("$M")), await cluster.ok(script("$W")));
});

t.test("a sparse file has its size, reads as zeros and takes no room", async (t) => {
  await cluster.ok(
    "truncate -s 3G $M/sparse; printf x | dd of=$M/sparse seek=2G bs=1 status=none \
    oflag=seek_bytes conv=notrunc",
  );
  t.equal(await cluster.ok("stat -c %s $M/sparse"), String(3 * 2 ** 30));
  t.equal(
    await cluster.ok("dd if=$M/sparse bs=1M count=70 skip=100 status=none | tr -d '\\0' | wc -c"),
    "0",
  );
  t.equal(
    await cluster.ok("dd if=$M/sparse bs=1 skip=2G count=1 iflag=skip_bytes status=none"),
    "x",
  );
  const kib = Number(await cluster.ok("du -k $M/sparse | cut -f1"));
  t.ok(kib <= 65_536, `du says ${kib} KiB: at most the one chunk that was written to`);
  await cluster.ok("rm $M/sparse");
});

t.test("truncate cuts, and what it adds reads as zeros", async (t) => {
  const script = (directory: string): string => `cd ${directory}
    head -c 300000 <(yes abcdefgh) >cut; truncate -s 100001 cut; sha256sum cut
    truncate -s 500000 cut; sha256sum cut; stat -c %s cut; tail -c +100002 cut | tr -d '\\0' | wc -c
    truncate -s 0 cut; stat -c '%s %b' cut; truncate -s 10 cut; printf ab >>cut; od -c cut; rm cut
    head -c 70000000 <(yes abcdefgh) >big; truncate -s 67108865 big; truncate -s 67200000 big
    sha256sum big; rm big`;
  t.equal(await cluster.ok(script("$M")), await cluster.ok(script("$W")));
});

t.test("a file of 200 MiB crosses chunks and comes back with its checksum", async (t) => {
  await cluster.ok("head -c 209715200 /dev/urandom >$W/big && cp $W/big $M/big", slow);
  const [local, mounted] = (await cluster.ok("sha256sum <$W/big; sha256sum <$M/big", slow)).split(
    "\n",
  );
  t.equal(mounted, local);
  const piece = "bs=1M skip=63 count=2 status=none";
  t.equal(
    await cluster.ok(`dd if=$M/big ${piece} | sha256sum`),
    await cluster.ok(`dd if=$W/big ${piece} | sha256sum`),
  );
  await cluster.ok("rm $M/big $W/big");
});

t.test("git clones, commits and finds nothing wrong", async (t) => {
  await cluster.ok(
    `cd $W/tree; git init -q -b main; git add -A d0 d1 soft
     git -c user.name=t -c user.email=t@example.org commit -qm one; cd $M
     git clone -q $W/tree clone; cd clone; git fsck --full --strict; git status --porcelain
     printf 'more\\n' >>d0/e0/file-0.dat; git mv d1 renamed; git add -A
     git -c user.name=t -c user.email=t@example.org commit -qm two; git gc -q; git fsck --full`,
    slow,
  );
  t.equal(await cluster.ok("cd $M/clone; git status --porcelain; git log --format=%s"), "two\none");
  await cluster.ok("rm -rf $M/clone $W/tree/.git", slow);
});

t.test("10,000 files in one directory are listed, and removed, each once", async (t) => {
  await cluster.ok(
    "mkdir $M/many; cd $M/many; seq -f 'n%05g' 10000 | xargs -P 8 -n 250 touch",
    slow,
  );
  t.equal(await cluster.ok("ls $M/many | wc -l"), "10000");
  t.equal(await cluster.ok("ls -f $M/many | sort -u | wc -l"), "10002");
  t.equal(await cluster.ok("ls -U $M/many | sort | sed -n '1p;$p'"), "n00001\nn10000");
  await cluster.ok("cd $M/many; seq -f 'n%05g' 9000 | xargs -P 8 -n 250 rm", slow);
  t.equal(await cluster.ok("ls $M/many | wc -l"), "1000");
  await cluster.ok("rm -r $M/many", slow);
  t.match(await cluster.sh("ls $M/many"), { code: 2 });
});

t.test("names may have spaces, newlines, any letters and a leading dash", async (t) => {
  const script = (directory: string): string => `mkdir -p ${directory}/names; cd ${directory}/names
    for n in 'a b' $'new\\nline' 'żółć-日本-🙂' '-rf' '--' '.hidden' '...' \
      '*' "q'\\"" $'tab\\t' '\\'
    do printf '%s' "$n" >"./$n"; done
    printf x >"$(printf 'l%.0s' {1..255})"
    printf x 2>&1 >"$(printf 'l%.0s' {1..256})" || echo refused
    find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -- | cut -d' ' -f1
    find . -type f -print0 | LC_ALL=C sort -z | tr '\\0' '|'; mv -- -rf '-mv f'; cat -- '-mv f'
    rm -- *; ls -A | wc -l; rm -rf ../names`;
  const strip = (text: string): string => text.replaceAll(/^bash:.*$/gm, "");
  t.equal(strip(await cluster.ok(script("$M"))), strip(await cluster.ok(script("$W"))));
});

t.test("a name that is not UTF-8 is kept as it is", async (t) => {
  await cluster.ok("mkdir $M/raw; cd $M/raw; : >$'\\xff\\xfe'");
  t.equal(await cluster.ok("ls -A $M/raw | od -An -tx1"), " ff fe 0a");
});

t.test("a rename over a file leaves the new one, and the open old one readable", async (t) => {
  const out = await cluster.ok(
    `cd $M; printf old >target; printf new >source; exec 3<target; mv -f source target
     cat target; echo; cat <&3; echo; stat -c %h target; test ! -e source && echo gone`,
  );
  t.equal(out, "new\nold\n1\ngone");
  const refused = await cluster.sh("cd $M; mkdir -p da db/x; mv -T da db");
  t.match(refused, { code: 1, err: /not empty/ });
});

t.test("cp -p keeps the time to the nanosecond, and rsync then has nothing to do", async (t) => {
  await cluster.ok("touch -d '2011-12-13 14:15:16.171819202' $W/stamp; cp -p $W/stamp $M/stamp");
  t.match(await cluster.ok("stat -c %y $M/stamp"), /^2011-12-13 14:15:16\.171819202/);
  t.equal(await cluster.ok("rsync -a --itemize-changes $W/stamp $M/"), "");
});

t.test("an unlinked file lives while it is open, and its room comes back after", async (t) => {
  const before = (await cluster.status()).chunks.total;
  const out = await cluster.ok(
    `cd $M; head -c 3000000 <(yes abc) >gone; exec 3<>gone; sync gone; rm gone; test ! -e gone
     head -c 6 <&3; printf more >&3; stat -L -c '%h %s' /proc/self/fd/3; tail -c 3 <&3`,
  );
  t.equal(out, "abc\nab0 3000000\nbc");
  await cluster.awaitStatus("the chunk of the unlinked file is gone", ({ chunks }) => {
    return chunks.total <= before;
  });
});

t.test("df shows room", async (t) => {
  const [total, free] = (await cluster.ok("df --output=size,avail $M | tail -n 1"))
    .trim()
    .split(/\s+/)
    .map(Number);
  t.ok(Number(total) > 1_000_000, `${total} KiB`);
  t.ok(Number(free) > 0 && Number(free) <= Number(total), `${free} KiB free`);
  t.match(await cluster.ok("df -i $M | tail -n 1"), /\d/);
});

t.test("rm -r leaves nothing, and the room comes back", async (t) => {
  await cluster.ok('rm -r $M/* && test -z "$(ls -A $M)"', slow);
  t.equal(
    (await cluster.awaitStatus("no chunks", ({ chunks }) => chunks.total === 0)).chunks.total,
    0,
  );
  const { master } = await cluster.awaitStatus(
    "only the root",
    ({ master }) => master.inodes === 1,
  );
  t.equal(master.inodes, 1);
  cluster.peaks();
});
