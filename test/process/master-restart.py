"""Work on a mount until the file STOP exists: master-restart.py ROLE MOUNT WORK STOP. Prints what it
did as one line of JSON; any error ends it with a traceback and a status that is not 0."""

import fcntl
import hashlib
import json
import os
import sys

role, mount, work, stop = sys.argv[1:5]
me = f"{role}-{os.path.basename(mount)}"


def going():
    return not os.path.exists(stop)


def contents(i):
    return hashlib.sha256(f"{me} {i}".encode()).digest() * ((i * 7919) % 6000 + 1)


def writer():
    """New files, every other one synced; each is in the manifest when close has returned."""
    directory = f"{mount}/{me}"
    os.mkdir(directory)
    count = 0
    with open(f"{work}/{me}.manifest", "w") as manifest:
        while going():
            count += 1
            with open(f"{directory}/{count}", "xb", buffering=0) as file:
                file.write(contents(count))
                if count % 2:
                    os.fsync(file.fileno())
            manifest.write(f"{count}\n")
            manifest.flush()
    for i in range(1, count + 1):
        with open(f"{directory}/{i}", "rb") as file:
            assert file.read() == contents(i), f"file {i} has other bytes"
    return {"files": count}


def reader():
    """The same tree, again and again."""
    with open(f"{work}/tree.json") as file:
        sums = json.load(file)
    rounds = 0
    while going():
        names = sorted(os.listdir(f"{mount}/tree"))
        assert names == sorted(sums), "other names are listed"
        for name in names:
            with open(f"{mount}/tree/{name}", "rb") as file:
                assert hashlib.sha256(file.read()).hexdigest() == sums[name], name
        rounds += 1
    return {"rounds": rounds}


def locker():
    """Counts up under a lock that others hold in turn."""
    count = 0
    while going():
        with open(f"{mount}/counter", "r+b", buffering=0) as file:
            if count % 2:
                fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.lockf(file, fcntl.LOCK_EX)
            value = int(file.read() or b"0")
            file.seek(0)
            file.write(str(value + 1).encode())
            fcntl.lockf(file, fcntl.LOCK_UN)
        count += 1
    return {"count": count}


def appender():
    """Records to a file to which others append too."""
    count = 0
    while going():
        fd = os.open(f"{mount}/log", os.O_WRONLY | os.O_APPEND)
        for _ in range(5):
            count += 1
            record = f"{me} {count}\n".encode()
            assert os.write(fd, record) == len(record)
        os.close(fd)
    return {"records": count}


def renamer():
    """A file under one name at a time, and directories that come and go."""
    count = 0
    directory = f"{mount}/{me}"
    os.mkdir(directory)
    with open(f"{directory}/0", "w") as file:
        file.write(me)
    while going():
        os.rename(f"{directory}/{count}", f"{directory}/{count + 1}")
        count += 1
        assert os.listdir(directory) == [str(count)], os.listdir(directory)
        os.mkdir(f"{directory}/d")
        os.link(f"{directory}/{count}", f"{directory}/d/link")
        assert os.stat(f"{directory}/{count}").st_nlink == 2
        os.unlink(f"{directory}/d/link")
        os.rmdir(f"{directory}/d")
    return {"renames": count}


roles = {"writer": writer, "reader": reader, "locker": locker, "appender": appender}
print(json.dumps({**roles, "renamer": renamer}[role]()))
