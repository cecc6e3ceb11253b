import assert from "node:assert/strict";
import { type Theme, fails, hasBytes, pattern } from "../case.ts";

/** The filesystem as a whole (POSIX statvfs; statfs(2)), and everyday programs on it. */
export const whole: Theme = {
  theme: "filesystem",
  cases: [
    {
      name: "statvfs gives sizes that add up, and 255 as the longest name",
      source: "POSIX statvfs",
      async run({ root }) {
        const status = await root.statvfs(".");
        assert.ok(status.bsize >= 512 && status.frsize >= 512);
        assert.ok(status.blocks > 0 && status.bfree <= status.blocks);
        assert.ok(status.bavail <= status.bfree && status.bavail > 0);
        assert.ok(status.ffree <= status.files && status.ffree > 0);
        assert.equal(status.namemax, 255);
        await root.put("file");
        const fd = await root.open("file", "O_RDONLY");
        assert.equal((await root.statvfs(fd)).namemax, 255);
      },
    },
    {
      name: "files do not go to another filesystem: EXDEV",
      source: "POSIX rename, link EXDEV",
      async run({ root }) {
        await root.put("file");
        await fails("EXDEV", root.rename("file", "/dev/gfs-none"));
        await fails("EXDEV", root.link("file", "/dev/gfs-none"));
      },
    },
    {
      name: "everything in a directory has its device number",
      source: "POSIX sys/stat.h st_dev",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await root.symlink("x", "link");
        const { dev } = await root.stat(".");
        for (const name of ["file", "dir", "link"]) {
          assert.equal((await root.lstat(name)).dev, dev);
        }
      },
    },
    {
      name: "tar gives back what it took: names, modes, owners, links and times",
      source: "tar(1)",
      async run({ root }) {
        await root.mkdir("tree");
        await root.mkdir("tree/sub", 0o750);
        await root.put("tree/file", pattern(10_000), 0o640);
        await root.link("tree/file", "tree/sub/hard");
        await root.symlink("../file", "tree/sub/soft");
        await root.mknod("tree/fifo", "S_IFIFO");
        await root.utimens("tree/file", 1n, 1_234_567_890_123_456_789n);
        await root.utimens("tree/sub", 1n, 1_034_567_890_000_000_001n);
        const script = `tar --format=posix -cf a.tar tree; mkdir out; tar -C out -xpf a.tar
          list() { find . -printf '%P %y %m %U:%G %n %s %l %T@\\n' | grep -v '^ ' | sort; }
          (cd tree; list) >1; (cd out/tree; list) >2; diff 1 2`;
        const { code, out, err } = await root.run(["sh", "-ec", script]);
        assert.deepEqual([code, out, err], [0, "", ""]);
      },
    },
    {
      name: "rsync -aHAX finds nothing left to do after a copy",
      source: "rsync(1)",
      async run({ root }) {
        await root.mkdir("tree");
        await root.mkdir("tree/sub", 0o2750);
        await root.put("tree/file", pattern(10_000), 0o640);
        await root.link("tree/file", "tree/sub/hard");
        await root.symlink("../file", "tree/sub/soft");
        await root.setxattr("tree/file", "user.a", "1");
        await root.utimens("tree/sub", 1n, 1_034_567_890_000_000_001n);
        const script = `setfacl -m u:1001:r tree/file; rsync -aHAX tree/ copy
          rsync -naHAXc --itemize-changes tree/ copy`;
        const { code, out, err } = await root.run(["sh", "-ec", script]);
        assert.deepEqual([code, out, err], [0, "", ""]);
      },
    },
    {
      name: "git makes, clones and checks a repository",
      source: "git(1)",
      async run({ root }) {
        const script = `export GIT_CONFIG_NOSYSTEM=1 HOME=$PWD; git init -q -b main r; cd r
          for i in 1 2 3 4 5; do echo $i >f$i; git add .
          git -c user.name=n -c user.email=e commit -qm $i; done
          git gc -q; git clone -q . ../c; cd ../c; git fsck --strict 2>&1 | grep -v '^notice' || :
          git log --oneline | wc -l; git status --porcelain`;
        const { code, out } = await root.run(["sh", "-ec", script]);
        assert.deepEqual([code, out.trim()], [0, "5"]);
      },
    },
    {
      name: "sqlite keeps its counts with writers in several processes, with a journal and a log",
      source: "sqlite.org/lockingv3.html, wal.html",
      secondsMax: 180,
      async run({ root, process }) {
        const others = [await process(), await process()];
        for (const mode of ["DELETE", "WAL"]) {
          const file = `${mode}.db`;
          const script = (body: string): string[] => [
            "python3",
            "-c",
            `import sqlite3
c = sqlite3.connect('${file}', timeout=60, isolation_level=None)
${body}`,
          ];
          const make = `c.execute('pragma journal_mode=${mode}')\nc.execute('create table t (n)')`;
          assert.equal((await root.run(script(make))).err, "");
          const insert = "for n in range(20): c.execute('insert into t values (?)', (n,))";
          const done = await Promise.all(others.map((one) => one.run(script(insert))));
          assert.deepEqual(
            done.map(({ err }) => err),
            ["", ""],
          );
          const check =
            "print(c.execute('select count(*) from t').fetchone()[0], " +
            "c.execute('pragma integrity_check').fetchone()[0])";
          assert.equal((await root.run(script(check))).out, "40 ok\n");
        }
      },
    },
    {
      name: "a program is compiled, linked into an archive, and run",
      source: "everyday work",
      async run({ root }) {
        const { code: compiler } = await root.run(["sh", "-c", "command -v cc >/dev/null"]);
        if (compiler !== 0) return; // Not every machine has one.
        await root.put("a.c", "int f(void) { return 42; }\n");
        await root.put("b.c", "int f(void); int main(void) { return f(); }\n");
        const script = "cc -c a.c b.c; ar rcs liba.a a.o; cc -o prog b.o liba.a; ./prog || echo $?";
        assert.equal((await root.run(["sh", "-ec", script])).out, "42\n");
        await hasBytes(root, "a.c", "int f(void) { return 42; }\n");
      },
    },
  ],
};
