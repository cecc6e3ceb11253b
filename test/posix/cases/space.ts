import assert from "node:assert/strict";
import { type Theme, alice, fails, hasAttributes, hasBytes, pattern } from "../case.ts";

/** Sizes, holes and allocation (POSIX truncate, lseek; fallocate(2)). */
export const space: Theme = {
  theme: "space",
  cases: [
    {
      name: "truncation cuts, and what it adds reads as zeros",
      source: "POSIX truncate, ftruncate",
      async run({ root }) {
        const bytes = pattern(10_000);
        await root.put("file", bytes);
        await root.truncate("file", 5_001);
        await root.truncate("file", 9_000);
        await hasBytes(root, "file", bytes.slice(0, 5_001) + "\0".repeat(3_999));
        const fd = await root.open("file", "O_RDWR");
        await root.truncate(fd, 0);
        await root.truncate(fd, 5);
        assert.equal(await root.pread(fd, 10, 0), "\0\0\0\0\0");
      },
    },
    {
      name: "bytes cut off do not come back when the file grows by a write",
      source: "POSIX ftruncate",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "x".repeat(70_000));
        await root.truncate(fd, 100);
        await root.pwrite(fd, "end", 69_000);
        const wanted = `${"x".repeat(100)}${"\0".repeat(68_900)}end`;
        assert.ok((await root.pread(fd, 80_000, 0)) === wanted, "bytes by open file");
        await root.close(fd);
        await hasBytes(root, "file", wanted);
      },
    },
    {
      name: "truncation is for regular files, with a size that is not negative",
      source: "POSIX truncate EINVAL, EISDIR",
      async run({ root }) {
        await root.mkdir("dir");
        await root.put("file", "data");
        await root.mknod("fifo", "S_IFIFO");
        await root.symlink("none", "dangling");
        await fails("EISDIR", root.truncate("dir", 0));
        await fails("EINVAL", root.truncate("file", -1));
        await fails("EINVAL", root.truncate("fifo", 0));
        await fails("ENOENT", root.truncate("none", 0));
        await fails("ENOENT", root.truncate("dangling", 0));
        await hasBytes(root, "file", "data");
      },
    },
    {
      name: "sizes go over 1 TiB: a byte there is read back, and the file takes little room",
      source: "large files, sys/stat.h off_t",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        const far = 1_099_511_627_776 + 4_095;
        await root.pwrite(fd, "x", far);
        await root.fsync(fd);
        const { size, blocks } = await root.stat(fd);
        assert.equal(size, far + 1);
        // Two chunks of 64 MiB at most: the one with the byte, and one made ready at the start.
        assert.ok(blocks <= 262_144, `${blocks} blocks`);
        assert.equal(await root.pread(fd, 10, far - 2), "\0\0x");
        assert.equal(await root.pread(fd, 3, 1_000_000_000), "\0\0\0");
        assert.equal(await root.lseek(fd, 0, "SEEK_END"), far + 1);
        await root.truncate(fd, 0);
      },
    },
    {
      name: "a size beyond what any file may have is EFBIG or EINVAL, and changes nothing",
      source: "POSIX truncate EFBIG, EINVAL",
      async run({ root }) {
        await root.put("file", "data");
        const fd = await root.open("file", "O_RDWR");
        const huge = 9_223_372_036_854_775_807n;
        // A filesystem may have the largest size that off_t has.
        const grown = await root.truncate(fd, huge).then(
          () => true,
          ({ errno }: { errno?: string }) => {
            assert.ok(errno === "EFBIG" || errno === "EINVAL", errno ?? "another error");
            return false;
          },
        );
        if (grown) await root.truncate(fd, 4);
        await fails(["EFBIG", "EINVAL"], root.pwrite(fd, "xx", huge - 1n));
        await hasBytes(root, "file", "data");
      },
    },
    {
      name: "writing beyond the end leaves a hole of zeros",
      source: "POSIX lseek",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.pwrite(fd, "a", 0);
        await root.pwrite(fd, "b", 200_000);
        await hasAttributes(root, fd, { size: 200_001 });
        assert.ok((await root.pread(fd, 300_000, 0)) === `a${"\0".repeat(199_999)}b`);
      },
    },
    {
      name: "SEEK_DATA and SEEK_HOLE find the data, the holes, and the end",
      source: "lseek(2) SEEK_HOLE, SEEK_DATA",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        const mib = 1 << 20;
        await root.truncate(fd, 8 * mib);
        await root.pwrite(fd, "x".repeat(65_536), 4 * mib);
        await root.fsync(fd);
        const data = await root.lseek(fd, 0, "SEEK_DATA");
        assert.ok(data <= 4 * mib, `data at ${data}`);
        const hole = await root.lseek(fd, 4 * mib, "SEEK_HOLE");
        assert.ok(hole >= 4 * mib + 65_536 && hole <= 8 * mib, `hole at ${hole}`);
        assert.equal(await root.lseek(fd, 4 * mib + 5, "SEEK_DATA"), 4 * mib + 5);
        assert.equal(await root.lseek(fd, 4 * mib, "SEEK_DATA"), 4 * mib);
        await fails("ENXIO", root.lseek(fd, 8 * mib, "SEEK_DATA"));
        await fails("ENXIO", root.lseek(fd, 8 * mib, "SEEK_HOLE"));
        await fails("ENXIO", root.lseek(fd, 9 * mib, "SEEK_DATA"));
      },
    },
    {
      name: "holes are found where nothing was written: 64 KiB of data in 8 MiB",
      source: "lseek(2) SEEK_HOLE, SEEK_DATA",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        const mib = 1 << 20;
        await root.truncate(fd, 8 * mib);
        await root.pwrite(fd, "x".repeat(65_536), 4 * mib);
        await root.fsync(fd);
        assert.equal(await root.lseek(fd, 0, "SEEK_HOLE"), 0);
        assert.equal(await root.lseek(fd, 0, "SEEK_DATA"), 4 * mib);
        assert.equal(await root.lseek(fd, 4 * mib, "SEEK_HOLE"), 4 * mib + 65_536);
        await fails("ENXIO", root.lseek(fd, 5 * mib, "SEEK_DATA"));
      },
    },
    {
      name: "data that has not been synced is data to SEEK_DATA, and an empty file has none",
      source: "lseek(2) SEEK_HOLE, SEEK_DATA",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await fails("ENXIO", root.lseek(fd, 0, "SEEK_DATA"));
        await fails("ENXIO", root.lseek(fd, 0, "SEEK_HOLE"));
        await root.write(fd, "data");
        assert.equal(await root.lseek(fd, 0, "SEEK_DATA"), 0);
        assert.equal(await root.lseek(fd, 0, "SEEK_HOLE"), 4);
      },
    },
    {
      name: "fallocate makes the file longer, of zeros, and keeps its bytes",
      source: "fallocate(2), POSIX posix_fallocate",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "data");
        await root.fallocate(fd, "", 0, 100_000);
        await hasAttributes(root, fd, { size: 100_000 });
        await hasBytes(root, "file", `data${"\0".repeat(99_996)}`);
        await root.request("posix_fallocate", fd, 100_000, 5);
        await hasAttributes(root, fd, { size: 100_005 });
        await root.fallocate(fd, "", 10, 20);
        await hasAttributes(root, fd, { size: 100_005 });
      },
    },
    {
      name: "with FALLOC_FL_KEEP_SIZE the size stays",
      source: "fallocate(2)",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await root.write(fd, "data");
        await root.fallocate(fd, "FALLOC_FL_KEEP_SIZE", 0, 1 << 20);
        await hasAttributes(root, fd, { size: 4 });
        await hasBytes(root, "file", "data");
        await root.pwrite(fd, "x", 10);
        await hasBytes(root, "file", "data\0\0\0\0\0\0x");
      },
    },
    {
      name: "punching a hole makes zeros, takes no room, and keeps size and neighbours",
      source: "fallocate(2) FALLOC_FL_PUNCH_HOLE",
      async run({ root }) {
        const bytes = pattern(1 << 20);
        await root.put("file", bytes);
        const fd = await root.open("file", "O_RDWR");
        await root.fsync(fd);
        const before = await root.stat(fd);
        const mode = "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE";
        const [first, count] = [65_536 + 100, 700_000];
        await root.fallocate(fd, mode, first, count);
        const zeros = "\0".repeat(count);
        const wanted = bytes.slice(0, first) + zeros + bytes.slice(first + count);
        assert.ok((await root.pread(fd, 1 << 20, 0)) === wanted, "bytes");
        await hasAttributes(root, fd, { size: 1 << 20 });
        await root.fsync(fd);
        const after = await root.stat(fd);
        // How much room comes back is the filesystem's: here it is whole chunks.
        assert.ok(after.blocks <= before.blocks, `${after.blocks} of ${before.blocks} blocks`);
        await root.close(fd);
        await hasBytes(root, "file", wanted);
      },
    },
    {
      name: "a punched hole is a hole to SEEK_HOLE, and can be written again",
      source: "fallocate(2), lseek(2)",
      async run({ root }) {
        await root.put("file", pattern(1 << 20));
        const fd = await root.open("file", "O_RDWR");
        const mode = "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE";
        await root.fallocate(fd, mode, 131_072, 262_144);
        assert.equal(await root.lseek(fd, 0, "SEEK_HOLE"), 131_072);
        assert.equal(await root.lseek(fd, 131_072, "SEEK_DATA"), 393_216);
        await root.pwrite(fd, "back", 200_000);
        assert.equal(await root.pread(fd, 6, 199_999), "\0back\0");
      },
    },
    {
      name: "punching beyond the end changes nothing",
      source: "fallocate(2) FALLOC_FL_PUNCH_HOLE",
      async run({ root }) {
        await root.put("file", "12345");
        const fd = await root.open("file", "O_RDWR");
        const mode = "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE";
        await root.fallocate(fd, mode, 100, 4_096);
        await hasBytes(root, "file", "12345");
        await root.fallocate(fd, mode, 2, 1 << 30);
        await hasBytes(root, "file", "12\0\0\0");
      },
    },
    {
      name: "zeroing a range makes zeros, and grows the file unless its size is kept",
      source: "fallocate(2) FALLOC_FL_ZERO_RANGE",
      async run({ root }) {
        const bytes = pattern(200_000);
        await root.put("file", bytes);
        const fd = await root.open("file", "O_RDWR");
        await root.fallocate(fd, "FALLOC_FL_ZERO_RANGE", 50_001, 70_000);
        const middle = bytes.slice(0, 50_001) + "\0".repeat(70_000) + bytes.slice(120_001);
        assert.ok((await root.pread(fd, 200_000, 0)) === middle, "bytes");
        const keep = "FALLOC_FL_ZERO_RANGE|FALLOC_FL_KEEP_SIZE";
        await root.fallocate(fd, keep, 199_000, 10_000);
        await hasAttributes(root, fd, { size: 200_000 });
        await root.fallocate(fd, "FALLOC_FL_ZERO_RANGE", 199_000, 10_000);
        await hasAttributes(root, fd, { size: 209_000 });
        assert.equal(await root.pread(fd, 20_000, 199_000), "\0".repeat(10_000));
      },
    },
    {
      name: "fallocate refuses what makes no sense",
      source: "fallocate(2) EINVAL, EOPNOTSUPP, EBADF, EFBIG",
      async run({ root }) {
        const fd = await root.open("file", "O_CREAT|O_RDWR");
        await fails("EINVAL", root.fallocate(fd, "", 0, 0));
        await fails("EINVAL", root.fallocate(fd, "", -1, 10));
        await fails("EINVAL", root.fallocate(fd, "", 0, -10));
        await fails(["EOPNOTSUPP", "EINVAL"], root.fallocate(fd, "FALLOC_FL_PUNCH_HOLE", 0, 10));
        await fails("EFBIG", root.fallocate(fd, "", 9_223_372_036_854_775_800n, 100));
        const reader = await root.open("file", "O_RDONLY");
        await fails("EBADF", root.fallocate(reader, "", 0, 10));
        await hasAttributes(root, fd, { size: 0 });
      },
    },
    {
      name: "fallocate moves mtime and ctime and clears set-user-ID of a user's file",
      source: "fallocate(2), write(2)",
      needs: "root",
      async run({ root, process }) {
        await root.put("file", "data");
        await root.chmod("file", 0o6777);
        const user = await process(alice);
        const fd = await user.open("file", "O_RDWR");
        await root.utimens("file", 1n, 1n);
        await user.fallocate(fd, "", 0, 10_000);
        const { mtime } = await root.stat("file");
        assert.ok(mtime > 1n, "mtime stayed");
        await hasAttributes(root, "file", { mode: 0o777 });
      },
    },
    {
      name: "room that is given back by truncation and removal shows in st_blocks",
      source: "POSIX sys/stat.h st_blocks",
      async run({ root }) {
        await root.put("file", pattern(1 << 20));
        const fd = await root.open("file", "O_RDWR");
        await root.fsync(fd);
        const full = (await root.stat(fd)).blocks;
        await root.truncate(fd, 0);
        assert.equal((await root.stat(fd)).blocks, 0);
        assert.ok(full >= 2_048, `${full} blocks for 1 MiB`);
      },
    },
  ],
};
