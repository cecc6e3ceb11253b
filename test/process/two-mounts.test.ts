import t from "tap";
import { Cluster } from "../support/cluster.ts";

/** Two mounts of one filesystem, worked on at the same time (P4). */

const cluster = await Cluster.start(t, { chunkMiB: 1, mounts: 2 });
const slow = { timeoutMs: 480_000 };

t.test("what one mount changes, the other sees when the change returns", async (t) => {
  const script = `
    import os, sys
    a, b = sys.argv[1], sys.argv[2]
    def other(path): return b + path[len(a):]
    def absent(path):
        try: os.lstat(path)
        except FileNotFoundError: return True
        return False
    for i in range(150):
        f, g = f'{a}/seen{i}', f'{a}/seen{i}.moved'
        assert absent(other(f)), f
        with open(f, 'w') as file: file.write('x' * i)
        assert os.stat(other(f)).st_size == i
        assert open(other(f)).read() == 'x' * i
        os.chmod(f, 0o600 + i % 8); assert os.stat(other(f)).st_mode & 0o7777 == 0o600 + i % 8
        os.rename(f, g); assert absent(other(f)) and os.stat(other(g)).st_size == i
        os.truncate(g, 7); assert os.stat(other(g)).st_size == 7
        with open(g, 'r+') as file: file.write('changed')
        assert open(other(g)).read() == 'changed'
        os.setxattr(g, 'user.n', b'%d' % i); assert os.getxattr(other(g), 'user.n') == b'%d' % i
        assert f'seen{i}.moved' in os.listdir(b)
        os.unlink(g); assert absent(other(g)) and f'seen{i}.moved' not in os.listdir(b)
        a, b = b, a
    print('seen')`;
  t.equal(await python(script, "$M $M2"), "seen");
});

t.test("of processes that race for a name, one wins; all mounts agree", async (t) => {
  // Each of the workers tries every step on every name; who succeeded is written down.
  const script = `
    import os, sys, random, multiprocessing as mp
    mounts, names = sys.argv[1:3], range(40)
    def attempt(step, *args, **more):
        try: step(*args, **more)
        except (OSError, IndexError) as error: return getattr(error, 'errno', -1)
        return 0
    def excl(path): os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    steps = [
        ('create', lambda d, n, w: excl(f'{d}/n{n}')),
        ('mkdir', lambda d, n, w: os.mkdir(f'{d}/d{n}')),
        ('link', lambda d, n, w: os.link(f'{d}/n{n}', f'{d}/l{n}')),
        # Not to one name: Linux answers itself where it believes two names to be one file.
        ('rename', lambda d, n, w: os.rename(f'{d}/n{n}', f'{d}/d{n}/m{w}')),
        ('unlink', lambda d, n, w: os.unlink(f'{d}/l{n}')),
        ('empty', lambda d, n, w: os.unlink(f'{d}/d{n}/' + os.listdir(f'{d}/d{n}')[0])),
        ('rmdir', lambda d, n, w: os.rmdir(f'{d}/d{n}')),
    ]
    def worker(number, step, barrier, results):
        random.seed(number * 100 + step)
        order = random.sample(names, len(names))
        barrier.wait()
        mount = mounts[number % 2] + '/race'
        results.put([(n, attempt(steps[step][1], mount, n, number)) for n in order])
    os.mkdir(mounts[0] + '/race')
    for step, (name, _) in enumerate(steps):
        barrier, results = mp.Barrier(6), mp.Queue()
        workers = [mp.Process(target=worker, args=(i, step, barrier, results)) for i in range(6)]
        for w in workers: w.start()
        outcomes = [results.get() for _ in workers]
        for w in workers: w.join()
        wins = [n for outcome in outcomes for n, errno in outcome if errno == 0]
        assert sorted(wins) == list(names), (name, wins)
        listings = [sorted(os.listdir(m + '/race')) for m in mounts]
        assert listings[0] == listings[1], (name, listings)
    assert listings == [[], []], listings
    print('agreed')`;
  t.equal(await python(script, "$M $M2"), "agreed");
});

t.test("appenders on both mounts lose no record and overlap none", async (t) => {
  const script = `
    import os, sys, multiprocessing as mp
    mounts, each = sys.argv[1:3], 150
    def worker(number):
        fd = os.open(mounts[number % 2] + '/appended', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for i in range(each):
            record = b'%d:%05d:' % (number, i) + bytes([97 + number]) * (i * 37 % 3000) + b'\\n'
            assert os.write(fd, record) == len(record)
        os.close(fd)
    workers = [mp.Process(target=worker, args=(i,)) for i in range(4)]
    for w in workers: w.start()
    for w in workers: w.join(); assert w.exitcode == 0
    for m in mounts:
        seen = {}
        for line in open(m + '/appended', 'rb').read().splitlines():
            number, i, filler = line.split(b':')
            number, i = int(number), int(i)
            assert filler == bytes([97 + number]) * (i * 37 % 3000), (number, i, len(filler))
            assert seen.get(number, -1) == i - 1, (number, i)
            seen[number] = i
        assert seen == {n: each - 1 for n in range(4)}, seen
    print('complete')`;
  t.equal(await python(script, "$M $M2"), "complete");
});

t.test(
  "sqlite writers on both mounts: every transaction is there, nothing is corrupt",
  async (t) => {
    const run = (m: string, sql: string) =>
      `sqlite3 -cmd '.timeout 120000' ${m}/shared.db "${sql}"`;
    await cluster.ok(
      `${run("$M", "create table t(id integer primary key, who integer, filler text)")}
    one() { for i in $(seq 20); do
      ${run("$1", "insert into t(who, filler) values($2, hex(randomblob(700)))")} || exit 1; done; }
    one $M 1 & p1=$!; one $M2 2 & p2=$!; one $M 3 & p3=$!; one $M2 4 & p4=$!
    wait $p1 && wait $p2 && wait $p3 && wait $p4`,
      slow,
    );
    const check = "pragma integrity_check; select who, count(*) from t group by who";
    for (const m of ["$M", "$M2"])
      t.equal(await cluster.ok(run(m, check), slow), "ok\n1|20\n2|20\n3|20\n4|20");
  },
);

/** Runs a script, indented as it stands here, in a process of its own. */
function python(script: string, args: string): Promise<string> {
  const lines = script.split("\n").map((line) => line.slice(4));
  return cluster.ok(`python3 - ${args} <<'END'\n${lines.join("\n")}\nEND`, slow);
}
