import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes, hasBytes, pattern } from "../case.ts";

/** Reading and writing (POSIX read, write, lseek, fsync). */
export const data: Theme = {
  theme: "data",
  cases: [
    {
      name: "what was written is read at once, through every descriptor and process",
      source: "POSIX write",
      async run({ root, process }) {
        const other = await process();
        const writer = await root.open("file", "O_CREAT|O_RDWR");
        const reader = await root.open("file", "O_RDONLY");
        const foreign = await other.open("file", "O_RDONLY");
        for (let i = 0; i < 10; i += 1) {
          const piece = pattern(3_333, i + 1);
          await root.write(writer, piece);
          assert.equal(await root.pread(reader, 3_333, i * 3_333), piece);
          assert.equal(await other.read(foreign, 9_999), piece);
        }
      },
    },
    {
      name: "writes over the middle of a file change these bytes and no others",
      source: "POSIX pwrite",
      async run({ root }) {
        let model = Buffer.from(pattern(300_000), "latin1");
        await root.put("file", model.toString("latin1"));
        const fd = await root.open("file", "O_RDWR");
        for (const [offset, length] of [
          [0, 1],
          [4_095, 2],
          [65_535, 65_538],
          [131_072, 4_096],
          [299_999, 5_000],
          [100, 0],
        ] as const) {
          const piece = Buffer.from(pattern(length, offset + 2), "latin1");
          assert.equal(await root.pwrite(fd, piece.toString("latin1"), offset), length);
          model = Buffer.concat([
            model.subarray(0, offset),
            piece,
            model.subarray(offset + length),
          ]);
          const seen = await root.pread(fd, 400_000, 0);
          assert.ok(seen === model.toString("latin1"), `bytes after a write at ${offset}`);
        }
        await hasAttributes(root, "file", { size: 304_999 });
      },
    },
    {
      name: "a read stops at the end of the file, and there gives nothing",
      source: "POSIX read",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDONLY");
        assert.equal(await root.read(fd, 100), "12345");
        assert.equal(await root.read(fd, 100), "");
        assert.equal(await root.pread(fd, 100, 3), "45");
        assert.equal(await root.pread(fd, 100, 5), "");
        assert.equal(await root.pread(fd, 100, 1 << 30), "");
        assert.equal(await root.read(fd, 0), "");
      },
    },
    {
      name: "several pieces in one call are one write",
      source: "POSIX writev",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        assert.equal(await root.request("writev", fd, ["one", "", "two", "three"]), 11);
        await hasBytes(root, "file", "onetwothree");
      },
    },
    {
      name: "the offset moves by what was read and written, and is shared by dup",
      source: "POSIX read, write, dup",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "0123456789");
        const copy = await root.request<number>("dup", fd);
        await root.lseek(copy, 2, "SEEK_SET");
        assert.equal(await root.read(fd, 3), "234");
        assert.equal(await root.lseek(copy, 0, "SEEK_CUR"), 5);
        await root.pwrite(fd, "x", 0);
        assert.equal(await root.lseek(fd, 0, "SEEK_CUR"), 5);
      },
    },
    {
      name: "lseek goes beyond the end but not before the start",
      source: "POSIX lseek",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDWR");
        assert.equal(await root.lseek(fd, -1, "SEEK_END"), 4);
        assert.equal(await root.lseek(fd, 100, "SEEK_END"), 105);
        await fails("EINVAL", root.lseek(fd, -1, "SEEK_SET"));
        await fails("EINVAL", root.lseek(fd, -6, "SEEK_END"));
        await hasAttributes(root, "file", { size: 5 });
        await root.write(fd, "x");
        await hasAttributes(root, "file", { size: 106 });
      },
    },
    {
      name: "SEEK_END sees what another process has just written",
      source: "POSIX lseek",
      async run({ root, process }) {
        const other = await process();
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        const foreign = await other.open("file", "O_RDWR");
        await root.write(fd, "12345");
        assert.equal(await other.lseek(foreign, 0, "SEEK_END"), 5);
        await other.write(foreign, "678");
        assert.equal(await root.lseek(fd, 0, "SEEK_END"), 8);
        await hasAttributes(root, fd, { size: 8 });
      },
    },
    {
      name: "fsync, fdatasync and syncfs work for readers and writers, and of directories",
      source: "POSIX fsync, fdatasync; syncfs(2)",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "data");
        await root.fsync(fd);
        await root.request("fdatasync", fd);
        await root.request("syncfs", fd);
        const reader = await root.open("file", "O_RDONLY");
        await root.fsync(reader);
        const directory = await root.open(".", "O_RDONLY|O_DIRECTORY");
        await root.fsync(directory);
        await root.request("fdatasync", directory);
        await root.request("syncfs", directory);
        await hasBytes(root, "file", "data");
      },
    },
    {
      name: "bytes survive close and reopen, whatever the sizes of the pieces",
      source: "POSIX close",
      async run({ root }) {
        const all: string[] = [];
        const fd = await root.open("file", "O_CREAT|O_WRONLY");
        for (const length of [1, 4_095, 4_096, 4_097, 65_536, 65_537, 131_072, 7, 262_145]) {
          const piece = pattern(length, length);
          assert.equal(await root.write(fd, piece), length);
          all.push(piece);
        }
        await root.close(fd);
        await hasBytes(root, "file", all.join(""));
      },
    },
    {
      name: "a file of many pieces written backwards is whole",
      source: "POSIX pwrite",
      async run({ root }) {
        const whole = pattern(500_000);
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        for (let at = 490_000; at >= 0; at -= 10_000) {
          await root.pwrite(fd, whole.slice(at, at + 10_000), at);
        }
        await root.close(fd);
        await hasBytes(root, "file", whole);
      },
    },
    {
      name: "a read beside writers sees a write as a whole, up to a page",
      source: "POSIX write (atomic with respect to reads)",
      async run({ root, process }) {
        const writer = await process();
        await root.put("file", "a".repeat(4_096));
        const reading = await root.open("file", "O_RDONLY");
        const writing = await writer.open("file", "O_WRONLY");
        const writes = (async (): Promise<void> => {
          for (let i = 0; i < 100; i += 1) {
            await writer.pwrite(writing, (i % 2 === 0 ? "b" : "a").repeat(4_096), 0);
          }
        })();
        for (let i = 0; i < 100; i += 1) {
          const seen = await root.pread(reading, 4_096, 0);
          assert.ok(seen === "a".repeat(4_096) || seen === "b".repeat(4_096), "torn");
        }
        await writes;
      },
    },
    {
      name: "a write beyond the size limit of the process is EFBIG",
      source: "POSIX write EFBIG, setrlimit",
      async run({ root }) {
        const script =
          "import resource,os,signal\n" +
          "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" +
          "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" +
          "fd = os.open('file', os.O_CREAT|os.O_RDWR)\n" +
          "print(os.write(fd, b'x' * 5000))\n" +
          "for call in (lambda: os.write(fd, b'x'), lambda: os.ftruncate(fd, 5000)):\n" +
          "  try: call()\n" +
          "  except OSError as e: print(e.errno)\n";
        const { out, err } = await root.run(["python3", "-c", script]);
        assert.equal(err, "");
        assert.equal(out, "4096\n27\n27\n");
      },
    },
  ],
};
