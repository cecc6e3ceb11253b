#!/usr/bin/env python3
"""System calls on behalf of the POSIX cases (run.ts), with the exact errno of each.

Reads requests and writes answers, one JSON value per line:

    ["open", "file", "O_CREAT|O_RDWR", 420]  ->  {"value": 3}  or  {"errno": "ENOENT"}

A string is a sequence of bytes, one character (U+0000 to U+00FF) each: names and data may be any
bytes. Flags are names joined by "|", so that the numbers are those of this machine. Paths are
relative to the directory that `enter` gave. A call that blocks, blocks this process.
"""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.lseek.restype = ctypes.c_int64
pointer, size_t = ctypes.c_void_p, ctypes.c_size_t


def off_t(offset):
    """Offsets that a JSON number cannot hold come as decimal strings."""
    return ctypes.c_int64(int(offset))



# What Python has no name for: linux/fs.h, linux/falloc.h, linux/fcntl.h, sys/mman.h, sys/xattr.h.
constants = {
    "RENAME_NOREPLACE": 1, "RENAME_EXCHANGE": 2, "RENAME_WHITEOUT": 4,
    "FALLOC_FL_KEEP_SIZE": 1, "FALLOC_FL_PUNCH_HOLE": 2, "FALLOC_FL_COLLAPSE_RANGE": 8,
    "FALLOC_FL_ZERO_RANGE": 16, "FALLOC_FL_INSERT_RANGE": 32,
    "F_OFD_GETLK": 36, "F_OFD_SETLK": 37, "F_OFD_SETLKW": 38,
    "AT_FDCWD": -100, "AT_SYMLINK_NOFOLLOW": 0x100, "AT_EACCESS": 0x200,
    "AT_SYMLINK_FOLLOW": 0x400, "AT_EMPTY_PATH": 0x1000,
    "PROT_NONE": 0, "PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4,
    "MAP_SHARED": 1, "MAP_PRIVATE": 2, "MS_ASYNC": 1, "MS_INVALIDATE": 2, "MS_SYNC": 4,
    "UTIME_NOW": (1 << 30) - 1, "UTIME_OMIT": (1 << 30) - 2,
}


def bits(text):
    value = 0
    for name in text.split("|") if text else []:
        number = constants.get(name)
        for module in (os, fcntl, stat):
            number = getattr(module, name, None) if number is None else number
        value |= number
    return value


def raw(text):
    return text.encode("latin-1")


def text(data):
    return data.decode("latin-1")


def fail(number):
    raise OSError(number, os.strerror(number))


def checked(result):
    if result == -1:
        fail(ctypes.get_errno())
    return result


def target(place):
    """A path, or the number of an open file."""
    return place if isinstance(place, int) else raw(place)


# --- the process itself ---


def enter(directory, uid, gid, groups):
    """Starts afresh: nothing open or mapped, in this directory, with these credentials.

    Root stays the saved user, so that the process can be used again; the kernel looks at the
    effective one. The directory is entered as root: its parents may be closed to others."""
    leave()
    os.chdir(raw(directory))
    if os.getresuid()[2] == 0 and (uid, gid) != (0, 0):
        os.setgroups(groups)
        os.setresgid(gid, gid, 0)
        os.setresuid(uid, uid, 0)
    return os.getpid()


def leave():
    if os.getresuid()[2] == 0:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])
    for address, length in maps.items():
        libc.munmap(pointer(address), size_t(length))
    maps.clear()
    sockets.clear()
    os.closerange(3, 256)
    os.umask(0o022)
    os.chdir("/")


def interrupted(*_):
    """Does nothing; system calls fail with EINTR, as Python sets no SA_RESTART."""


def forked(request):
    """The same call in a child: its answer, or the signal that killed it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(answer(request)).encode())
        os._exit(0)
    os.close(writer)
    data = b""
    while piece := os.read(reader, 65536):
        data += piece
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": signal.Signals(os.WTERMSIG(status)).name}
    return json.loads(data)


def run(argv, stdin=""):
    """A program, with this process's credentials."""
    done = subprocess.run([raw(word) for word in argv], input=raw(stdin), capture_output=True,
                          check=False, timeout=60)
    return {"code": done.returncode, "out": text(done.stdout), "err": text(done.stderr)}


# --- files and directories ---


def described(status):
    mode = status.st_mode
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink",
             stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "char",
             stat.S_IFBLK: "block"}
    return {
        "kind": kinds[stat.S_IFMT(mode)], "mode": stat.S_IMODE(mode), "nlink": status.st_nlink,
        "uid": status.st_uid, "gid": status.st_gid, "size": status.st_size,
        "blocks": status.st_blocks, "blksize": status.st_blksize, "ino": status.st_ino,
        "dev": status.st_dev, "major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev),
        "atime": str(status.st_atime_ns), "mtime": str(status.st_mtime_ns),
        "ctime": str(status.st_ctime_ns),
    }


def openat(directory, path, flags, mode=0o666):
    return checked(libc.openat(directory, raw(path), bits(flags) | os.O_CLOEXEC, mode))


def mknod(path, kind, mode=0o644, major=0, minor=0):
    os.mknod(raw(path), bits(kind) | mode, os.makedev(major, minor))


def rename(source, goal, flags=None):
    if flags is None:
        return os.rename(raw(source), raw(goal))
    return checked(libc.renameat2(-100, raw(source), -100, raw(goal), bits(flags)))


def link(source, goal, flags=""):
    return checked(libc.linkat(-100, raw(source), -100, raw(goal), bits(flags)))


def linkat_fd(fd, goal):
    """Gives a name to a file that was opened with O_TMPFILE (open(2))."""
    path = b"/proc/self/fd/%d" % fd
    return checked(libc.linkat(-100, path, -100, raw(goal), bits("AT_SYMLINK_FOLLOW")))


def access(path, mode):
    return checked(libc.faccessat(-100, raw(path), bits(mode), bits("AT_EACCESS")))


def timespec(when):
    if when in ("UTIME_NOW", "UTIME_OMIT"):
        return struct.pack("qq", 0, constants[when])
    seconds, ns = divmod(int(when), 10**9)
    return struct.pack("qq", seconds, ns)


def utimens(place, atime, mtime, flags=""):
    """Times in ns since 1970, in decimal, or UTIME_NOW or UTIME_OMIT."""
    times = timespec(atime) + timespec(mtime)
    if isinstance(place, int):
        return checked(libc.futimens(place, times))
    return checked(libc.utimensat(-100, raw(place), times, bits(flags)))


def utimes_null(path):
    """utimensat(2) without times: the rule for who may do this is another."""
    return checked(libc.utimensat(-100, raw(path), None, 0))


def getdents(fd, size):
    """[name, ino, type, offset] of the next entries, in at most `size` bytes of records."""
    buffer = ctypes.create_string_buffer(size)
    length = checked(libc.getdents64(fd, buffer, size_t(size)))
    entries, at = [], 0
    while at < length:
        ino, offset, record, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19:at + record].split(b"\0", 1)[0]
        entries.append([text(name), ino, kind, str(offset)])
        at += record
    return entries


def statvfs(place):
    status = os.statvfs(target(place))
    return {"bsize": status.f_bsize, "frsize": status.f_frsize, "blocks": status.f_blocks,
            "bfree": status.f_bfree, "bavail": status.f_bavail, "files": status.f_files,
            "ffree": status.f_ffree, "namemax": status.f_namemax}


def make_files(prefix, count):
    """Many empty files: prefix0, prefix1, …"""
    for number in range(count):
        os.close(os.open(raw(prefix) + b"%d" % number, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def remove_tree(path):
    shutil.rmtree(raw(path), ignore_errors=False)


# --- data ---


def write_all(fd, data):
    data = raw(data)
    done = 0
    while done < len(data):
        done += os.write(fd, data[done:])
    return done


def aligned(length):
    """Page-aligned memory, as O_DIRECT wants it."""
    address = libc.mmap(None, size_t(length), 3, 0x22, -1, off_t(0))
    return address


def direct_write(fd, data, offset):
    data = raw(data)
    address = aligned(len(data))
    ctypes.memmove(address, data, len(data))
    try:
        return checked(libc.pwrite(fd, pointer(address), size_t(len(data)), off_t(offset)))
    finally:
        libc.munmap(pointer(address), size_t(len(data)))


def direct_read(fd, length, offset):
    address = aligned(length)
    try:
        done = checked(libc.pread(fd, pointer(address), size_t(length), off_t(offset)))
        return text(ctypes.string_at(address, done))
    finally:
        libc.munmap(pointer(address), size_t(length))


def fallocate(fd, mode, offset, length):
    return checked(libc.fallocate(fd, bits(mode), off_t(offset), off_t(length)))


def copy_file_range(source, at, goal, to, length, flags=0):
    """`at` and `to` may be null: then the files' own offsets are used and moved."""
    first = None if at is None else ctypes.byref(off_t(at))
    second = None if to is None else ctypes.byref(off_t(to))
    return checked(libc.copy_file_range(source, first, goal, second, size_t(length), flags))


def lseek(fd, offset, whence):
    return checked(libc.lseek(fd, off_t(offset), bits(whence)))


# --- memory ---

maps = {}


def mmap(fd, length, protection, flags, offset=0):
    address = libc.mmap(None, size_t(length), bits(protection), bits(flags), fd, off_t(offset))
    if address == ctypes.c_void_p(-1).value:
        fail(ctypes.get_errno())
    maps[address] = length
    return str(address)


def load(address, offset, length):
    return text(ctypes.string_at(int(address) + offset, length))


def store(address, offset, data):
    ctypes.memmove(int(address) + offset, raw(data), len(data))


def msync(address, flags="MS_SYNC"):
    return checked(libc.msync(pointer(int(address)), size_t(maps[int(address)]), bits(flags)))


def munmap(address):
    return checked(libc.munmap(pointer(int(address)), size_t(maps.pop(int(address)))))


# --- locks ---


def flock(fd, operation):
    return checked(libc.flock(fd, bits(operation)))


def lock(fd, command, kind, start=0, length=0, whence="SEEK_SET"):
    """fcntl(2) record locks; F_GETLK returns what is in the way."""
    kinds = {"F_RDLCK": 0, "F_WRLCK": 1, "F_UNLCK": 2}
    record = ctypes.create_string_buffer(
        struct.pack("hhqqi4x", kinds[kind], bits(whence), start, length, 0))
    checked(libc.fcntl(fd, bits(command), record))
    number, _, start, length, pid = struct.unpack("hhqqi4x", record.raw[:32])
    return {"kind": next(name for name in kinds if kinds[name] == number), "start": start,
            "length": length, "pid": pid}


# --- extended attributes ---


def getxattr(place, name, nofollow=False):
    return text(os.getxattr(target(place), raw(name), follow_symlinks=not nofollow))


def getxattr_into(path, name, size):
    """getxattr(2) with room for `size` bytes; 0 asks for the size."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return checked(libc.getxattr(raw(path), raw(name), buffer, size_t(size)))


def listxattr_into(path, size):
    buffer = ctypes.create_string_buffer(max(size, 1))
    return checked(libc.listxattr(raw(path), buffer, size_t(size)))


def setxattr(place, name, value, flags="", nofollow=False):
    os.setxattr(target(place), raw(name), raw(value), bits(flags), follow_symlinks=not nofollow)


def listxattr(place, nofollow=False):
    names = os.listxattr(target(place), follow_symlinks=not nofollow)
    return sorted(text(os.fsencode(name)) for name in names)


def removexattr(place, name, nofollow=False):
    os.removexattr(target(place), raw(name), follow_symlinks=not nofollow)


# --- sockets ---

sockets = []


def bind_socket(path):
    bound = socket.socket(socket.AF_UNIX)
    sockets.append(bound)
    bound.bind(raw(path))
    bound.listen(1)


def connect_socket(path):
    """A message through the socket, which this process has bound too."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(raw(path))
    server, _ = sockets[0].accept()
    client.sendall(b"hello")
    received = server.recv(5)
    client.close()
    server.close()
    return text(received)


calls = {
    "enter": enter, "leave": leave, "forked": forked, "run": run,
    "umask": os.umask,
    "open": lambda path, flags, mode=0o666: openat(-100, path, flags, mode), "openat": openat,
    "close": os.close, "dup": os.dup, "fchdir": os.fchdir,
    "chdir": lambda path: os.chdir(raw(path)), "getcwd": lambda: text(os.getcwdb()),
    "stat": lambda place: described(os.stat(target(place))),
    "lstat": lambda path: described(os.lstat(raw(path))),
    "statvfs": statvfs, "access": access,
    "mkdir": lambda path, mode=0o777: os.mkdir(raw(path), mode),
    "rmdir": lambda path: os.rmdir(raw(path)), "unlink": lambda path: os.unlink(raw(path)),
    "mknod": mknod, "rename": rename, "link": link, "linkat_fd": linkat_fd,
    "symlink": lambda goal, path: os.symlink(raw(goal), raw(path)),
    "readlink": lambda path: text(os.readlink(raw(path))),
    "chmod": lambda place, mode: os.chmod(target(place), mode),
    "chown": lambda place, uid, gid: os.chown(target(place), uid, gid),
    "lchown": lambda path, uid, gid: os.lchown(raw(path), uid, gid),
    "utimens": utimens, "utimes_null": utimes_null,
    "list": lambda path=".": sorted(text(name) for name in os.listdir(raw(path))),
    "getdents": getdents, "make_files": make_files, "remove_tree": remove_tree,
    "read": lambda fd, length: text(os.read(fd, length)),
    "pread": lambda fd, length, offset: text(os.pread(fd, length, offset)),
    "write": lambda fd, data: os.write(fd, raw(data)), "write_all": write_all,
    "pwrite": lambda fd, data, offset: os.pwrite(fd, raw(data), int(offset)),
    "writev": lambda fd, pieces: os.writev(fd, [raw(piece) for piece in pieces]),
    "direct_read": direct_read, "direct_write": direct_write, "lseek": lseek,
    "truncate": lambda place, size: os.truncate(target(place), int(size)),
    "fsync": os.fsync, "fdatasync": os.fdatasync, "syncfs": lambda fd: checked(libc.syncfs(fd)),
    "fallocate": fallocate, "posix_fallocate": os.posix_fallocate,
    "copy_file_range": copy_file_range,
    "sendfile": lambda goal, source, offset, length: os.sendfile(goal, source, offset, length),
    "mmap": mmap, "load": load, "store": store, "msync": msync, "munmap": munmap,
    "flock": flock, "lock": lock,
    "getxattr": getxattr, "getxattr_into": getxattr_into, "setxattr": setxattr,
    "listxattr": listxattr, "listxattr_into": listxattr_into, "removexattr": removexattr,
    "bind_socket": bind_socket, "connect_socket": connect_socket,
    "getfl": lambda fd: fcntl.fcntl(fd, fcntl.F_GETFL),
}


# Of two names of one number, the one that POSIX has.
names = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}


def answer(request):
    name, *arguments = request
    try:
        return {"value": calls[name](*arguments)}
    except OSError as error:
        return {"errno": names.get(error.errno, str(error.errno))}
    except Exception as error:  # A fault of the case: shown there.
        return {"fault": f"{name}: {error!r}"}


def main():
    signal.signal(signal.SIGUSR1, interrupted)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
