/**
 * What every filesystem must do, as scripts that run in an empty directory and end with 0. They run
 * on a local directory too, which shows that a script that fails on the mount fails because of the
 * mount.
 */
export interface Case {
  name: string;
  script: string;
  program?: "bash" | "node" | "python3";
}

export const cases: readonly Case[] = [
  {
    name: "a tree copied in and compared is the same",
    script: `
      mkdir -p source/a/b source/empty
      for i in $(seq 20); do head -c $((i * 7919)) /dev/urandom > source/a/$i; done
      ln -s ../1 source/a/b/link; ln source/a/2 source/a/b/hard; chmod 640 source/a/3
      cp -a source target
      diff -r source target
      test "$(readlink target/a/b/link)" = ../1
      test "$(stat -c %a target/a/3)" = 640
      test "$(stat -c %h target/a/2)" = 2
      test "$(stat -c %i target/a/2)" = "$(stat -c %i target/a/b/hard)"
      rm -r target; test ! -e target`,
  },
  {
    name: "mv moves files and directories, over files too",
    script: `
      mkdir a b; echo 1 > a/x; echo 2 > b/x
      mv a/x b/x; test "$(cat b/x)" = 1; test ! -e a/x
      mv a b/c; test -d b/c; ! mv b b/c/d 2> /dev/null
      mkdir e f; touch f/y; ! mv -T e f 2> /dev/null`,
  },
  {
    name: "chmod and chown change what stat shows",
    script: `
      touch x; chmod 4751 x; test "$(stat -c %a x)" = 4751
      chown 12:34 x; test "$(stat -c %u:%g x)" = 12:34
      chown :56 x; test "$(stat -c %u:%g x)" = 12:56
      chown 78 x; test "$(stat -c %u:%g x)" = 78:56`,
  },
  {
    name: "append goes to the end, dd to its offset",
    script: `
      echo one > x; echo two >> x; test "$(cat x)" = "$(printf 'one\\ntwo')"
      printf XY | dd of=x bs=1 seek=4 conv=notrunc status=none
      test "$(cat x)" = "$(printf 'one\\nXYo')"
      echo short > x; test "$(cat x)" = short`,
  },
  {
    name: "a hole reads as zeros, truncate cuts and grows",
    script: `
      printf end | dd of=x bs=1 seek=3000000 conv=notrunc status=none
      test "$(stat -c %s x)" = 3000003
      cmp -n 3000000 x /dev/zero
      truncate -s 5 x; test "$(stat -c %s x)" = 5
      truncate -s 100 x; cmp -n 100 x /dev/zero; test "$(stat -c %s x)" = 100`,
  },
  {
    name: "a megabyte written and read in odd pieces is the same",
    script: `
      head -c 1048577 /dev/urandom > x
      dd if=x of=y bs=4097 status=none; cmp x y
      dd if=x of=z bs=1M oflag=append conv=notrunc status=none; cmp x z; sync z`,
  },
  {
    name: "touch -d sets both times, to the millisecond",
    script: `
      touch -d '2001-02-03 04:05:06.789 UTC' x
      test "$(stat -c %.3Y x)" = 981173106.789
      test "$(stat -c %.3X x)" = 981173106.789`,
  },
  {
    name: "access and modification time are set apart from each other",
    program: "node",
    script: `
      fs.writeFileSync("x", "");
      fs.utimesSync("x", 1000.25, 2000.5);
      const stat = fs.statSync("x");
      assert.deepEqual([stat.atimeMs, stat.mtimeMs], [1000250, 2000500]);`,
  },
  {
    name: "an unlinked file goes on living while it is open",
    program: "node",
    script: `
      const fd = fs.openSync("x", "w+");
      fs.writeSync(fd, "hello");
      fs.unlinkSync("x");
      assert(!fs.existsSync("x"));
      assert.equal(fs.fstatSync(fd).size, 5);
      fs.writeSync(fd, " world", 5);
      fs.ftruncateSync(fd, 8);
      fs.fchmodSync(fd, 0o600);
      fs.fsyncSync(fd);
      const buffer = Buffer.alloc(100);
      assert.equal(buffer.toString("utf8", 0, fs.readSync(fd, buffer, 0, 100, 0)), "hello wo");
      fs.closeSync(fd);
      assert.deepEqual(fs.readdirSync("."), []);`,
  },
  {
    name: "a file that is replaced while open keeps its old content there",
    program: "node",
    script: `
      fs.writeFileSync("x", "old"); fs.writeFileSync("y", "new");
      const fd = fs.openSync("x", "r");
      fs.renameSync("y", "x");
      const buffer = Buffer.alloc(10);
      assert.equal(buffer.toString("utf8", 0, fs.readSync(fd, buffer, 0, 10, 0)), "old");
      assert.equal(fs.readFileSync("x", "utf8"), "new");
      fs.closeSync(fd);
      assert.deepEqual(fs.readdirSync("."), ["x"]);`,
  },
  {
    // close(2) does not wait until the driver has heard of it, so the last one may still be on its
    // way.
    name: "a directory can be removed once its unlinked files have been released",
    program: "node",
    script: `
      const pause = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
      const remove = (left) => {
        try { fs.rmdirSync("d"); } catch (error) {
          if (error.code !== "ENOTEMPTY" || left === 0) throw error;
          pause();
          remove(left - 1);
        }
      };
      for (let i = 0; i < 200; i++) {
        fs.mkdirSync("d");
        const [a, b] = [fs.openSync("d/a", "w"), fs.openSync("d/b", "w")];
        fs.unlinkSync("d/a");
        fs.closeSync(b);
        fs.unlinkSync("d/b");
        assert.deepEqual(fs.readdirSync("d"), []);
        fs.closeSync(a);
        remove(500);
        assert.deepEqual(fs.readdirSync("."), []);
      }`,
  },
  {
    name: "a file whose name looks like a hidden one is as good as any",
    program: "node",
    script: `
      const hidden = (n) => ".fuse_hidden00000002" + n.toString(16).padStart(8, "0");
      for (let n = 0; n < 20; n++) { fs.writeFileSync("x", "" + n); fs.renameSync("x", hidden(n)); }
      fs.mkdirSync("d");
      const fd = fs.openSync("y", "w");
      fs.writeSync(fd, "open"); fs.renameSync("y", "d/" + hidden(1)); fs.closeSync(fd);
      assert.equal(fs.readFileSync("d/" + hidden(1), "utf8"), "open");
      for (let n = 0; n < 20; n++) assert.equal(fs.readFileSync(hidden(n), "utf8"), "" + n);
      for (let n = 0; n < 20; n++) fs.unlinkSync(hidden(n));
      assert.deepEqual(fs.readdirSync("."), ["d"]);`,
  },
  {
    name: "names are any text, and a long directory is listed to its end",
    program: "node",
    script: `
      const names = ["a b", "line\\nbreak", "tab\\t", "\\\\", "'", '"', "*"];
      names.push("grün", "日本", "😀", "-n");
      for (let i = 0; i < 1300; i++) names.push("file-" + i);
      names.push("x".repeat(255));
      for (const name of names) fs.writeFileSync("./" + name, name);
      assert.deepEqual(fs.readdirSync(".").toSorted(), names.toSorted());
      for (const name of names) assert.equal(fs.readFileSync("./" + name, "utf8"), name);
      assert.throws(() => fs.writeFileSync("x".repeat(256), ""), { code: "ENAMETOOLONG" });
      for (const entry of fs.readdirSync(".", { withFileTypes: true })) assert(entry.isFile());`,
  },
  {
    name: "wrong calls fail with the errors of POSIX",
    program: "node",
    script: `
      fs.mkdirSync("d"); fs.writeFileSync("d/f", ""); fs.symlinkSync("loop", "loop");
      const code = (work) => { try { work(); return "none"; } catch ({ code }) { return code; } };
      assert.equal(code(() => fs.statSync("none")), "ENOENT");
      assert.equal(code(() => fs.statSync("d/f/x")), "ENOTDIR");
      assert.equal(code(() => fs.rmdirSync("d")), "ENOTEMPTY");
      assert.equal(code(() => fs.mkdirSync("d")), "EEXIST");
      assert.equal(code(() => fs.openSync("d", "w")), "EISDIR");
      assert.equal(code(() => fs.unlinkSync("d")), "EISDIR");
      assert.equal(code(() => fs.openSync("d/f", "wx")), "EEXIST");
      assert.equal(code(() => fs.linkSync("d", "e")), "EPERM");
      assert.equal(code(() => fs.statSync("loop")), "ELOOP");
      assert.equal(code(() => fs.renameSync("d", "d/e")), "EINVAL");`,
  },
  {
    name: "a fifo and a device keep their type and number",
    script: `
      mkfifo p; test "$(stat -c %F p)" = fifo
      mknod c c 1 259; test "$(stat -c %F,%t,%T c)" = "character special file,1,103"`,
  },
  {
    name: "extended attributes: sizes are exact, a small buffer is ERANGE",
    program: "python3",
    script: `
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
open("x", "w").close()
os.setxattr("x", "user.one", b"12345"); os.setxattr("x", "user.empty", b"")
os.setxattr("x", "user.big", b"b" * 3000)
assert os.getxattr("x", "user.one") == b"12345"
assert os.getxattr("x", "user.empty") == b""
assert os.getxattr("x", "user.big") == b"b" * 3000
assert sorted(os.listxattr("x")) == ["user.big", "user.empty", "user.one"]
def get(name, size):
    buffer = ctypes.create_string_buffer(100)
    got = libc.getxattr(b"x", name, buffer if size else None, size)
    return (got, ctypes.get_errno() if got < 0 else 0)
def names(size):
    buffer = ctypes.create_string_buffer(100)
    got = libc.listxattr(b"x", buffer if size else None, size)
    return (got, ctypes.get_errno() if got < 0 else 0)
assert get(b"user.one", 0) == (5, 0)
assert get(b"user.one", 5) == (5, 0)
assert get(b"user.one", 4) == (-1, errno.ERANGE)
assert names(0) == (29, 0)
assert names(29) == (29, 0)
assert names(28) == (-1, errno.ERANGE)
def code(work):
    try: work()
    except OSError as error: return error.errno
assert code(lambda: os.getxattr("x", "user.none")) == errno.ENODATA
assert code(lambda: os.setxattr("x", "user.one", b"", os.XATTR_CREATE)) == errno.EEXIST
assert code(lambda: os.setxattr("x", "user.none", b"", os.XATTR_REPLACE)) == errno.ENODATA
os.removexattr("x", "user.one")
assert code(lambda: os.removexattr("x", "user.one")) == errno.ENODATA
assert sorted(os.listxattr("x")) == ["user.big", "user.empty"]`,
  },
];
