import t from "tap";
import { Cluster } from "../support/cluster.ts";
import { report, runCases } from "./suite.ts";

/** The POSIX cases through fuse-native, on two mounts of one cluster. */

/** What fuse-native cannot carry; native-notes.md has the causes. */
const limits: Record<string, readonly string[]> = {
  "names that are not UTF-8 do not get through it: EILSEQ": [
    "names: every byte but / and NUL can be in a name, and comes back as it was",
    "names: names that are not UTF-8 are kept, and differ from what they look like",
    "xattrs: names are bytes, and a case differs",
    "links: a symbolic link holds its text, whatever it is",
  ],
  "who asks is not passed on: what users make belongs to the one who mounted": [
    "attributes: a directory with set-group-ID passes on its group, and the bit to directories",
    "attributes: what a user makes is his, with his effective group",
    "permissions: in a sticky directory only an entry's owner, the directory's, or root removes it",
    "open: a user's unprivileged file in a sticky, world-writable directory opens for its owner",
    "special files: devices are root's to make; fifos anybody's",
    "xattrs: trusted attributes are root's, and others do not see them",
  ],
  "libfuse mounts with nosuid": [
    "permissions: a program runs with x and not without, and set-user-ID gives it its owner",
  ],
  "times are cut to milliseconds, and not below 1970": [
    "times: both times are set to the nanosecond, by path and by open file, and ctime moves",
    "times: times before 1970, and after 2038 and 2106, are kept",
    "times: set times last through a later close of a file that had been written",
    "times: a symbolic link has times of its own",
    "times: O_NOATIME leaves atime, and is for the owner",
    "unlinked: its attributes can be changed",
    "special files: special files are renamed, linked, chmodded and have times",
    "filesystem: tar gives back what it took: names, modes, owners, links and times",
    "two mounts: modes, owners, times and sizes are seen at once",
  ],
  "one of the two times cannot be left as it is": [
    "times: UTIME_OMIT leaves one of them, and both of them leave all",
    "times: UTIME_NOW is the time that a change gets",
  ],
  "libfuse 2 has no O_TMPFILE": [
    "tmpfile: a file without a name is written, read and measured, and in no listing",
    "tmpfile: it gets a name by linkat, and keeps its bytes after close",
    "tmpfile: with O_EXCL it cannot get one: ENOENT",
    "tmpfile: it belongs to its maker, with the umask and the directory's set-group-ID",
  ],
  "it has no lseek": ["space: holes are found where nothing was written: 64 KiB of data in 8 MiB"],
  "it has no fallocate": [
    "space: fallocate makes the file longer, of zeros, and keeps its bytes",
    "space: with FALLOC_FL_KEEP_SIZE the size stays",
    "space: punching a hole makes zeros, takes no room, and keeps size and neighbours",
    "space: a punched hole is a hole to SEEK_HOLE, and can be written again",
    "space: punching beyond the end changes nothing",
    "space: zeroing a range makes zeros, and grows the file unless its size is kept",
    "space: fallocate moves mtime and ctime and clears set-user-ID of a user's file",
  ],
  "the kernel takes lists from a filesystem with FUSE_POSIX_ACL only, which libfuse 2 lacks": [
    "acls: a named user gets what the list says, within the mask",
    "acls: a named group gets what the list says",
    "acls: a named user with no bits is kept out of what others may read",
    "acls: the mode's group bits are the mask, and chmod sets it",
    "acls: a list without names is the mode and is not kept",
    "acls: removing a list leaves the mode",
    "acls: files get their directory's default list, less the mode they are made with",
    "acls: directories get it as their own and pass it on",
    "acls: without a default list the umask counts, also when a list is removed again",
    "acls: a default list is for directories, and a list is for its owner to set",
    "acls: set-group-ID goes when an owner outside the group sets a list",
    "acls: lists move ctime, and stay with rename and hard link",
    "acls: setfacl and getfacl give back what was set",
    "filesystem: rsync -aHAX finds nothing left to do after a copy",
  ],
  "libfuse 2 asks for attributes by path, and a removed directory has none": [
    "directories: a removed directory that is open has no entries and takes none",
    "directories: the current directory can be removed; then nothing is made in it",
    "two mounts: a file that the other mount unlinked or replaced stays readable where it is open",
  ],
  "it has no rename flags": [
    "rename: RENAME_NOREPLACE refuses what exists with EEXIST",
    "rename: RENAME_EXCHANGE exchanges files, and a file with a directory",
  ],
  "what is replaced or unlinked while open is renamed by libfuse first": [
    "rename: someone who reads finds one of the two files at every moment",
    "unlinked: its directory can be removed",
    "unlinked: one of two names goes: the other keeps the open file",
  ],
  "locks are the kernel's own: each mount has its own": [
    "two mounts: flock of one mount keeps the other out, which waits for it",
    "two mounts: record locks of one mount keep the other out, range by range",
    "two mounts: the death of a process on the other mount lets go of its locks",
    "two mounts: bytes under a lock are seen by the next who has it",
    "two mounts: sqlite writers on both mounts keep the count and the file whole",
  ],
};

/** What fails only if both mounts come to it in the same moment. */
const races: Record<string, readonly string[]> = {
  "creating is mknod and open, so O_EXCL is always assumed": [
    "two mounts: O_CREAT without O_EXCL on both mounts: both open the same file",
    "two mounts: appenders on both mounts lose no record and tear none",
  ],
};

function byName(reasons: Readonly<Record<string, readonly string[]>>): Map<string, string> {
  return new Map(
    Object.entries(reasons).flatMap(([reason, names]) => names.map((name) => [name, reason])),
  );
}

t.setTimeout(900_000);
const cluster = await Cluster.start(t, { servers: 2, mounts: 0 });
const first = await cluster.mount(["--binding", "fuse-native"]);
const second = await cluster.mount(["--binding", "fuse-native"]);
report(t, await runCases(first.directory, second.directory), byName(limits), byName(races));
