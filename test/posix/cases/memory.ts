import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes, hasBytes, pattern } from "../case.ts";

/** Files as memory (POSIX mmap, msync, munmap). */
export const memory: Theme = {
  theme: "mmap",
  cases: [
    {
      name: "a shared mapping shows the file's bytes, and zeros after them on the last page",
      source: "POSIX mmap",
      async run({ root }) {
        const bytes = pattern(10_000);
        await root.put("file", bytes);
        const fd = await root.open("file", "O_RDONLY");
        const map = await root.mmap(fd, 10_000, "PROT_READ", "MAP_SHARED");
        assert.equal(await root.load(map, 0, 10_000), bytes);
        assert.equal(await root.load(map, 10_000, 2_288), "\0".repeat(2_288));
      },
    },
    {
      name: "what is stored in a shared mapping is read from the file, by any process",
      source: "POSIX mmap MAP_SHARED",
      async run({ root, process }) {
        await root.put("file", "\0".repeat(20_000));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 20_000, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.store(map, 5_000, "stored");
        assert.equal(await root.pread(fd, 6, 5_000), "stored");
        const other = await process();
        const foreign = await other.open("file", "O_RDONLY");
        assert.equal(await other.pread(foreign, 6, 5_000), "stored");
      },
    },
    {
      name: "it is in the file after msync, munmap and close",
      source: "POSIX msync",
      async run({ root }) {
        await root.put("file", "\0".repeat(20_000));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 20_000, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.close(fd);
        const bytes = pattern(20_000);
        await root.store(map, 0, bytes);
        await root.msync(map);
        await root.munmap(map);
        await hasBytes(root, "file", bytes);
        await hasAttributes(root, "file", { size: 20_000 });
      },
    },
    {
      name: "it is there as well without msync, when everything is closed",
      source: "POSIX munmap",
      async run({ root, process }) {
        const other = await process();
        await root.put("file", "\0".repeat(50_000));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 50_000, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.store(map, 30_000, "late");
        await root.munmap(map);
        await root.close(fd);
        const foreign = await other.open("file", "O_RDONLY");
        assert.equal(await other.pread(foreign, 4, 30_000), "late");
      },
    },
    {
      name: "what is written is seen in a mapping that exists",
      source: "POSIX mmap MAP_SHARED",
      async run({ root, process }) {
        await root.put("file", "a".repeat(8_192));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 8_192, "PROT_READ", "MAP_SHARED");
        assert.equal(await root.load(map, 4_000, 4), "aaaa");
        const other = await process();
        const foreign = await other.open("file", "O_WRONLY");
        await other.pwrite(foreign, "bbbb", 4_000);
        assert.equal(await root.load(map, 4_000, 4), "bbbb");
      },
    },
    {
      name: "a private mapping keeps its stores to itself",
      source: "POSIX mmap MAP_PRIVATE",
      async run({ root }) {
        await root.put("file", "original");
        const fd = await root.open("file", "O_RDONLY");
        const map = await root.mmap(fd, 8, "PROT_READ|PROT_WRITE", "MAP_PRIVATE");
        await root.store(map, 0, "changed!");
        assert.equal(await root.load(map, 0, 8), "changed!");
        await root.munmap(map);
        await hasBytes(root, "file", "original");
      },
    },
    {
      name: "a mapping outlives the descriptor, and the name",
      source: "POSIX mmap, unlink",
      async run({ root }) {
        const bytes = pattern(30_000);
        await root.put("file", bytes);
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 30_000, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.close(fd);
        await root.unlink("file");
        assert.ok((await root.load(map, 0, 30_000)) === bytes);
        await root.store(map, 100, "still");
        await root.msync(map);
        assert.equal(await root.load(map, 99, 6), `${bytes[99] ?? ""}still`);
      },
    },
    {
      name: "memory beyond the end of the file is SIGBUS, also after a truncation",
      source: "POSIX mmap",
      async run({ root }) {
        await root.put("file", "x".repeat(20_000));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 65_536, "PROT_READ", "MAP_SHARED");
        assert.deepEqual(await root.forked("load", map, 40_960, 1), { signal: "SIGBUS" });
        assert.deepEqual(await root.forked("load", map, 12_288, 1), { value: "x" });
        await root.truncate(fd, 4_000);
        assert.deepEqual(await root.forked("load", map, 12_288, 1), { signal: "SIGBUS" });
        assert.equal(await root.load(map, 3_999, 3), "x\0\0");
      },
    },
    {
      name: "what grows the file makes more of a mapping usable",
      source: "POSIX mmap",
      async run({ root }) {
        await root.put("file", "x".repeat(4_096));
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 65_536, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.truncate(fd, 40_000);
        await root.store(map, 39_990, "end");
        assert.equal(await root.pread(fd, 3, 39_990), "end");
        await hasAttributes(root, "file", { size: 40_000 });
      },
    },
    {
      name: "stores after the end on the last page do not get into the file",
      source: "POSIX mmap (partial page)",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 4_096, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.store(map, 3, "67890");
        await root.msync(map);
        await root.munmap(map);
        await root.truncate(fd, 10);
        await hasBytes(root, "file", "12367\0\0\0\0\0");
      },
    },
    {
      name: "a mapping asks for what the descriptor allows: EACCES otherwise",
      source: "POSIX mmap EACCES",
      async run({ root }) {
        await root.put("file", "x".repeat(4_096));
        const reader = await root.open("file", "O_RDONLY");
        const writer = await root.open("file", "O_WRONLY");
        const both = "PROT_READ|PROT_WRITE";
        await fails("EACCES", root.mmap(reader, 4_096, both, "MAP_SHARED"));
        await fails("EACCES", root.mmap(writer, 4_096, "PROT_READ", "MAP_SHARED"));
        await root.mmap(reader, 4_096, both, "MAP_PRIVATE");
        await fails("EINVAL", root.mmap(reader, 4_096, "PROT_READ", "MAP_SHARED", 100));
      },
    },
    {
      name: "storing in a mapping moves mtime, at the latest with msync",
      source: "POSIX 4.12, mmap",
      async run({ root }) {
        await root.put("file", "x".repeat(4_096));
        await root.utimens("file", 1_000_000_000n, 1_000_000_000n);
        const fd = await root.open("file", "O_RDWR");
        const map = await root.mmap(fd, 4_096, "PROT_READ|PROT_WRITE", "MAP_SHARED");
        await root.store(map, 0, "y");
        await root.msync(map);
        const { mtime } = await root.stat("file");
        assert.ok(mtime > 1_000_000_000n, `mtime is still ${mtime}`);
      },
    },
  ],
};
