import assert from "node:assert/strict";
import { type Theme, fails, hasAttributes, hasBytes, moves, pattern } from "../case.ts";

/** Copies made by the kernel (copy_file_range(2), sendfile(2)). */
export const copying: Theme = {
  theme: "copy",
  cases: [
    {
      name: "a range is copied from one file to another, byte for byte",
      source: "copy_file_range(2)",
      async run({ root }) {
        const bytes = pattern(300_000);
        await root.put("source", bytes);
        await root.put("target", "t".repeat(1_000));
        const source = await root.open("source", "O_RDONLY");
        const target = await root.open("target", "O_RDWR");
        await copyAll(root, { fd: source, offset: 777 }, { fd: target, offset: 500 }, 250_001);
        await hasAttributes(root, "target", { size: 250_501 });
        await hasBytes(root, "target", "t".repeat(500) + bytes.slice(777, 250_778));
        await hasBytes(root, "source", bytes);
      },
    },
    {
      name: "what has not been written back is copied",
      source: "copy_file_range(2)",
      async run({ root }) {
        const source = await root.open("source", "O_CREAT|O_RDWR");
        const target = await root.open("target", "O_CREAT|O_RDWR");
        await root.write(source, pattern(100_000));
        await copyAll(root, { fd: source, offset: 0 }, { fd: target, offset: 0 }, 100_000);
        await root.write(source, "more");
        assert.ok((await root.pread(target, 200_000, 0)) === pattern(100_000), "bytes");
      },
    },
    {
      name: "without offsets it reads and writes at the files' own, and moves them",
      source: "copy_file_range(2)",
      async run({ root }) {
        await root.put("source", "0123456789");
        const source = await root.open("source", "O_RDONLY");
        const target = await root.open("target", "O_CREAT|O_RDWR");
        await root.lseek(source, 3, "SEEK_SET");
        const none = { offset: null };
        const copied = await root.copyFileRange(
          { fd: source, ...none },
          { fd: target, ...none },
          4,
        );
        assert.equal(copied, 4);
        assert.equal(await root.lseek(source, 0, "SEEK_CUR"), 7);
        assert.equal(await root.lseek(target, 0, "SEEK_CUR"), 4);
        await hasBytes(root, "target", "3456");
      },
    },
    {
      name: "it ends at the end of the source, and there copies nothing",
      source: "copy_file_range(2)",
      async run({ root }) {
        await root.put("source", "12345");
        const source = await root.open("source", "O_RDONLY");
        const target = await root.open("target", "O_CREAT|O_RDWR");
        const from = (offset: number) => ({ fd: source, offset });
        assert.equal(await root.copyFileRange(from(2), { fd: target, offset: 0 }, 100), 3);
        assert.equal(await root.copyFileRange(from(5), { fd: target, offset: 9 }, 100), 0);
        await hasBytes(root, "target", "345");
      },
    },
    {
      name: "within one file it copies where the ranges do not overlap, else EINVAL",
      source: "copy_file_range(2) EINVAL",
      async run({ root }) {
        const bytes = pattern(10_000);
        await root.put("file", bytes);
        const fd = await root.open("file", "O_RDWR");
        await copyAll(root, { fd, offset: 0 }, { fd, offset: 10_000 }, 5_000);
        await hasBytes(root, "file", bytes + bytes.slice(0, 5_000));
        await fails("EINVAL", root.copyFileRange({ fd, offset: 0 }, { fd, offset: 50 }, 100));
      },
    },
    {
      name: "holes are copied as zeros",
      source: "copy_file_range(2)",
      async run({ root }) {
        const source = await root.open("source", "O_CREAT|O_RDWR");
        await root.truncate(source, 300_000);
        await root.pwrite(source, "x", 150_000);
        await root.put("target", pattern(300_000));
        const target = await root.open("target", "O_RDWR");
        await copyAll(root, { fd: source, offset: 0 }, { fd: target, offset: 0 }, 300_000);
        const wanted = `${"\0".repeat(150_000)}x${"\0".repeat(149_999)}`;
        assert.ok((await root.pread(target, 300_000, 0)) === wanted, "bytes");
      },
    },
    {
      name: "the copy is its own: writing the source later leaves it, and the other way round",
      source: "copy_file_range(2)",
      async run({ root }) {
        const bytes = pattern(200_000);
        await root.put("source", bytes);
        const source = await root.open("source", "O_RDWR");
        const target = await root.open("target", "O_CREAT|O_RDWR");
        await root.fsync(source);
        await copyAll(root, { fd: source, offset: 0 }, { fd: target, offset: 0 }, 200_000);
        await root.pwrite(source, "SOURCE", 100_000);
        await root.pwrite(target, "TARGET", 50_000);
        await root.fsync(source);
        await root.fsync(target);
        await hasBytes(root, "source", replaced(bytes, 100_000, "SOURCE"));
        await hasBytes(root, "target", replaced(bytes, 50_000, "TARGET"));
      },
    },
    {
      name: "it refuses what makes no sense",
      source: "copy_file_range(2) EBADF, EINVAL, EISDIR",
      async run({ root }) {
        await root.put("file", "12345");
        const reader = await root.open("file", "O_RDONLY");
        const writer = await root.open("target", "O_CREAT|O_WRONLY");
        const appender = await root.open("log", "O_CREAT|O_RDWR|O_APPEND");
        const directory = await root.open(".", "O_RDONLY|O_DIRECTORY");
        const at = (fd: number) => ({ fd, offset: 0 });
        await fails("EBADF", root.copyFileRange(at(writer), at(writer), 5));
        await fails("EBADF", root.copyFileRange(at(reader), at(reader), 5));
        await fails("EBADF", root.copyFileRange(at(reader), at(appender), 5));
        await fails("EINVAL", root.copyFileRange(at(reader), at(writer), 5, 1));
        await fails("EISDIR", root.copyFileRange(at(directory), at(writer), 5));
      },
    },
    {
      name: "a copy moves the target's mtime and ctime",
      source: "copy_file_range(2)",
      async run({ root }) {
        await root.put("source", "12345");
        await root.put("target", "54321");
        const source = await root.open("source", "O_RDONLY");
        const target = await root.open("target", "O_RDWR");
        await moves(root, "target", ["mtime", "ctime"], () =>
          root.copyFileRange({ fd: source, offset: 0 }, { fd: target, offset: 0 }, 5),
        );
        await moves(root, "source", [], () =>
          root.copyFileRange({ fd: source, offset: 0 }, { fd: target, offset: 0 }, 5),
        );
      },
    },
    {
      name: "sendfile reads and writes the file",
      source: "sendfile(2)",
      async run({ root }) {
        const bytes = pattern(200_000);
        await root.put("source", bytes);
        const source = await root.open("source", "O_RDONLY");
        const target = await root.open("target", "O_CREAT|O_RDWR");
        let done = 0;
        while (done < 200_000) {
          done += await root.request<number>("sendfile", target, source, done, 200_000 - done);
        }
        await hasBytes(root, "target", bytes);
      },
    },
    {
      name: "cp makes the same file, of data and of holes",
      source: "cp(1)",
      async run({ root }) {
        const fd = await root.open("source", "O_CREAT|O_RDWR");
        await root.pwrite(fd, pattern(100_000), 0);
        await root.pwrite(fd, pattern(100_000, 2), 5_000_000);
        await root.close(fd);
        assert.equal((await root.run(["cp", "-a", "--sparse=always", "source", "copy"])).code, 0);
        assert.equal((await root.run(["cmp", "source", "copy"])).code, 0);
        assert.equal((await root.run(["cp", "--reflink=auto", "copy", "again"])).code, 0);
        assert.equal((await root.run(["cmp", "source", "again"])).code, 0);
      },
    },
  ],
};

interface End {
  fd: number;
  offset: number;
}

/** The kernel may copy less than asked for. */
async function copyAll(
  process: { copyFileRange(source: End, target: End, length: number): Promise<number> },
  source: End,
  target: End,
  length: number,
): Promise<void> {
  let done = 0;
  while (done < length) {
    const from = { fd: source.fd, offset: source.offset + done };
    const to = { fd: target.fd, offset: target.offset + done };
    const copied = await process.copyFileRange(from, to, length - done);
    assert.ok(copied > 0, `nothing copied after ${done} bytes`);
    done += copied;
  }
}

function replaced(bytes: string, at: number, piece: string): string {
  return bytes.slice(0, at) + piece + bytes.slice(at + piece.length);
}
