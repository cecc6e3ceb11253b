import t from "tap";
import { Cluster } from "../support/cluster.ts";

/** The everyday work of programs that ask more of a filesystem than cp does. */

const cluster = await Cluster.start(t, { chunkMiB: 4 });
const slow = { timeoutMs: 480_000 };

t.test("git commits, branches, packs, clones and finds nothing wrong", async (t) => {
  const script = `
    export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_AUTHOR_DATE='1700000000 +0000'
    export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
    export GIT_COMMITTER_DATE='1700000000 +0000' GIT_CONFIG_GLOBAL=/dev/null
    git init -q -b main repository && cd repository
    for d in $(seq 8); do mkdir d$d; for i in $(seq 20); do echo "$d $i" >d$d/f$i; done; done
    git add . && git commit -qm one
    for i in $(seq 20); do echo changed >>d1/f$i; git mv d2/f$i d3/g$i; done
    git commit -qam two
    git checkout -qb other HEAD~1 && git rm -qr d8 && git commit -qm three
    git checkout -q main && git merge -q -m four other
    git status --porcelain && git gc -q && git fsck --full --strict 2>&1
    git log --oneline | wc -l
    cd .. && git clone -q repository clone && cd clone && git status --porcelain
    git rev-parse HEAD && ls | tr '\\n' ' '; cat d3/* | sha1sum`;
  const local = await cluster.ok(`mkdir $W/g; cd $W/g; ${script}`, slow);
  t.equal(await cluster.ok(`mkdir $M/g; cd $M/g; ${script}`, slow), local);
});

for (const mode of ["delete", "wal"]) {
  t.test(`sqlite with journal_mode=${mode}: writers, readers, a crash, a check`, async (t) => {
    const database = `$M/${mode}.db`;
    const run = (sql: string) => `sqlite3 -cmd '.timeout 60000' ${database} "${sql}"`;
    await cluster.ok(
      `test "$(${run(`pragma journal_mode=${mode}`)})" = ${mode}
      ${run("create table t(id integer primary key, who integer, filler text)")}
      one() { for i in $(seq 25); do
        ${run("insert into t(who, filler) values($1, hex(randomblob(300)))")}; done; }
      one 1 & one 2 & one 3 & wait`,
      slow,
    );
    t.equal(await cluster.ok(run("select who, count(*) from t group by who")), "1|25\n2|25\n3|25");
    // A writer that dies in the middle of a transaction leaves what was committed before.
    await cluster.ok(
      `{ echo 'begin; delete from t where who = 1;'; sleep 2; } |
        timeout -s KILL 1 sqlite3 ${database} || true`,
      slow,
    );
    t.equal(await cluster.ok(run("pragma integrity_check; select count(*) from t")), "ok\n75");
  });
}

t.test("make and the compiler build a program that runs", async (t) => {
  const script = `
    for i in 1 2 3 4; do echo "int f$i(void) { return $i; }" >f$i.c; done
    echo '#include <stdio.h>
      int f1(void), f2(void), f3(void), f4(void);
      int main(void) { printf("%d\\n", f1() + f2() + f3() + f4()); return 0; }' >main.c
    printf 'program: main.o f1.o f2.o f3.o f4.o\\n\\tcc -o $@ $^\\n' >Makefile
    make -s -j2 && ./program && make -q && echo current
    echo 'int f4(void) { return 40; }' >f4.c
    ar rcs lib.a f1.o f2.o && make -s && ./program`;
  t.equal(await cluster.ok(`mkdir $M/c; cd $M/c; ${script}`, slow), "10\ncurrent\n46");
});
