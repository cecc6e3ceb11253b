import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes } from "../case.ts";
import type { Dirent, Process } from "../process.ts";

/** mkdir, rmdir and reading directories (POSIX readdir, telldir, seekdir; getdents(2)). */
export const directories: Theme = {
  theme: "directories",
  cases: [
    {
      name: "mkdir on what exists is EEXIST, whatever it is",
      source: "POSIX mkdir EEXIST",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await root.symlink("none", "dangling");
        for (const name of ["file", "dir", "dangling", ".", "dir/"]) {
          await fails("EEXIST", root.mkdir(name));
        }
      },
    },
    {
      name: "rmdir refuses a directory that is not empty, and what is not one",
      source: "POSIX rmdir ENOTEMPTY, ENOTDIR",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("dir/file");
        await root.symlink("dir", "link");
        await fails("ENOTEMPTY", root.rmdir("dir"));
        await fails("ENOTDIR", root.rmdir("dir/file"));
        await fails("ENOTDIR", root.rmdir("link"));
        await fails("ENOENT", root.rmdir("none"));
        await root.unlink("dir/file");
        await root.rmdir("dir");
        await fails("ENOENT", root.rmdir("dir"));
      },
    },
    {
      name: "unlink refuses a directory with EISDIR",
      source: "unlink(2); POSIX allows EPERM",
      async run({ root }) {
        await root.mkdir("dir");
        await fails("EISDIR", root.unlink("dir"));
      },
    },
    {
      name: "a listing has every entry once, with its type and inode number",
      source: "getdents(2)",
      async run({ root }) {
        await root.put("file");
        await root.mkdir("dir");
        await root.symlink("x", "link");
        await root.mknod("fifo", "S_IFIFO");
        await root.mknod("sock", "S_IFSOCK");
        const seen = new Map(
          (await readAll(root, ".")).map(([name, ino, type]) => [name, { ino, type }]),
        );
        const types = { file: 8, dir: 4, link: 10, fifo: 1, sock: 12, ".": 4, "..": 4 };
        assert.equal(seen.size, 7);
        for (const [name, type] of Object.entries(types)) {
          const { ino } = await root.lstat(name);
          // 0 is DT_UNKNOWN, which a filesystem may say.
          assert.ok([type, 0].includes(seen.get(name)?.type ?? -1), `type of ${name}`);
          assert.equal(seen.get(name)?.ino, ino, `inode number of ${name}`);
        }
      },
    },
    {
      name: "a thousand entries are listed once each, in small pieces",
      source: "POSIX readdir",
      async run({ root }) {
        await root.request("make_files", "entry-", 1_000);
        const names = (await readAll(root, ".", 500)).map(([name]) => name);
        assert.equal(names.length, 1_002);
        assert.equal(new Set(names).size, 1_002);
      },
    },
    {
      name: "what stays is listed exactly once while others come and go",
      source: "POSIX readdir",
      async run({ root }) {
        await root.request("make_files", "stay-", 400);
        await root.request("make_files", "go-", 200);
        const fd = await root.open(".", "O_RDONLY|O_DIRECTORY");
        const names: string[] = [];
        for (let i = 0; ; i += 1) {
          const piece = await root.getdents(fd, 1_024);
          if (piece.length === 0) break;
          names.push(...piece.map(([name]) => name));
          for (let k = 0; k < 5 && i * 5 + k < 200; k += 1) {
            await root.unlink(`go-${i * 5 + k}`);
            await root.put(`new-${i * 5 + k}`);
          }
        }
        const stayed = names.filter((name) => name.startsWith("stay-"));
        assert.equal(stayed.length, 400);
        assert.equal(new Set(stayed).size, 400);
        assert.equal(new Set(names).size, names.length, "no name twice");
      },
    },
    {
      name: "removing what has been listed so far removes everything (rm -r)",
      source: "POSIX readdir",
      async run({ root }) {
        await root.mkdir("dir");
        await root.request("make_files", "dir/f", 500);
        const fd = await root.open("dir", "O_RDONLY|O_DIRECTORY");
        for (;;) {
          const piece = await root.getdents(fd, 2_048);
          if (piece.length === 0) break;
          for (const [name] of piece) {
            if (!/^\.\.?$/.test(name)) await root.unlink(`dir/${name}`);
          }
        }
        await root.rmdir("dir");
      },
    },
    {
      name: "a position that was told leads back to the same entry",
      source: "POSIX telldir, seekdir",
      async run({ root }) {
        await root.request("make_files", "f", 100);
        const all = await readAll(root, ".", 300);
        const fd = await root.open(".", "O_RDONLY|O_DIRECTORY");
        for (const index of [10, 73, 40, 0, 99]) {
          const entry = at(all, index);
          await root.request("lseek", fd, entry[3], "SEEK_SET");
          const [next] = await root.getdents(fd, 300);
          assert.equal(next?.[0], at(all, index + 1)[0], `after ${entry[0]}`);
        }
        await root.lseek(fd, 0, "SEEK_SET");
        assert.equal((await root.getdents(fd, 300))[0]?.[0], at(all, 0)[0]);
      },
    },
    {
      name: "rewinding shows what has been made since",
      source: "POSIX rewinddir",
      async run({ root }) {
        await root.put("old");
        const fd = await root.open(".", "O_RDONLY|O_DIRECTORY");
        await drain(root, fd);
        await root.put("new");
        await root.unlink("old");
        await root.lseek(fd, 0, "SEEK_SET");
        const names = (await drain(root, fd)).map(([name]) => name).toSorted();
        assert.deepEqual(names, [".", "..", "new"]);
      },
    },
    {
      name: "a removed directory that is open has no entries and takes none",
      source: "POSIX rmdir",
      async run({ root }) {
        await root.mkdir("dir");
        const fd = await root.open("dir", "O_RDONLY|O_DIRECTORY");
        await root.rmdir("dir");
        await hasAttributes(root, fd, { kind: "directory", nlink: 0 });
        const names = await drain(root, fd).catch((error: { errno?: string }) => {
          assert.equal(error.errno, "ENOENT");
          return [];
        });
        assert.ok(names.every(([name]) => /^\.\.?$/.test(name)));
        await fails("ENOENT", root.request("openat", fd, "x", "O_CREAT|O_RDWR"));
      },
    },
    {
      name: "the current directory can be removed; then nothing is made in it",
      source: "POSIX rmdir, getcwd",
      async run({ root, process }) {
        const inside = await process();
        await root.mkdir("dir");
        await inside.request("chdir", "dir");
        await root.rmdir("dir");
        await fails("ENOENT", inside.open("x", "O_CREAT|O_RDWR"));
        await fails("ENOENT", inside.mkdir("x"));
        await fails("ENOENT", inside.request("getcwd"));
        await hasAttributes(inside, ".", { nlink: 0 });
      },
    },
    {
      name: "the current directory is known by its new path after a rename",
      source: "getcwd(3)",
      async run({ root, process }) {
        const inside = await process();
        await root.mkdir("a");
        await root.mkdir("a/b");
        await inside.request("chdir", "a/b");
        const before = await inside.request<string>("getcwd");
        await root.rename("a", "c");
        const after = await inside.request<string>("getcwd");
        assert.equal(after, before.replace(/a\/b$/, "c/b"));
        await inside.put("file");
        assert.deepEqual(await root.list("c/b"), ["file"]);
      },
    },
    {
      name: "of many that make one directory, one succeeds",
      source: "POSIX mkdir",
      async run({ root, process }) {
        const all = [root, await process(), await process()];
        for (let round = 0; round < 10; round += 1) {
          const made = await Promise.allSettled(all.map((one) => one.mkdir(`d${round}`)));
          assert.equal(made.filter(({ status }) => status === "fulfilled").length, 1);
        }
        await hasAttributes(root, ".", { nlink: 12 });
      },
    },
    {
      name: "processes that make and remove in one directory leave what they should",
      source: "POSIX open, unlink",
      async run({ root, process }) {
        const all = [root, await process(), await process()];
        await Promise.all(
          all.map(async (one, number) => {
            for (let i = 0; i < 40; i += 1) {
              await one.put(`${number}-${i}`, "x");
              if (i % 2 === 0) await one.unlink(`${number}-${i}`);
            }
          }),
        );
        assert.equal((await root.list()).length, 60);
        assert.equal((await readAll(root, ".")).length, 62);
      },
    },
  ],
};

function at(entries: readonly Dirent[], index: number): Dirent {
  const entry = entries[index];
  assert.ok(entry, `entry ${index}`);
  return entry;
}

async function drain(process: Process, fd: number, bytes = 4_096): Promise<Dirent[]> {
  const entries: Dirent[] = [];
  for (;;) {
    const piece = await process.getdents(fd, bytes);
    if (piece.length === 0) return entries;
    entries.push(...piece);
  }
}

async function readAll(process: Process, path: string, bytes = 4_096): Promise<Dirent[]> {
  const fd = await process.open(path, "O_RDONLY|O_DIRECTORY");
  const entries = await drain(process, fd, bytes);
  await process.close(fd);
  return entries;
}
