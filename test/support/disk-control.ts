import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

/**
 * Runs sequences of system calls on a directory of the local disk, and tells what each did: the
 * control for the same operations on the master's namespace.
 */

/** One system call; paths are names in a directory, separated by slashes. */
export type DiskOp =
  | { op: "create" | "mkdir" | "mkfifo" | "mknod"; path: string; mode: number; umask: number }
  | { op: "symlink"; path: string; target: string }
  | { op: "link"; path: string; to: string }
  | { op: "rename"; path: string; to: string; flags: number }
  | { op: "unlink" | "rmdir"; path: string }
  | { op: "chmod"; path: string; mode: number }
  | { op: "chown"; path: string; uid: number; gid: number }
  | { op: "truncate"; path: string; size: number }
  | { op: "utimens"; path: string; atime: string | null; mtime: string | null }
  | { op: "setxattr"; path: string; name: string; value: string; flags: number }
  | { op: "removexattr"; path: string; name: string };

/** What lstat and listxattr show; `moved`: which times this step has moved, of "amc". */
export interface DiskNode {
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  /** Of files and symlinks. */
  size: number;
  rdev: number;
  target: string | null;
  xattrs: Record<string, string>;
  moved: string;
}

export interface DiskStep {
  /** The errno's name, or "ok". */
  outcome: string;
  tree: Record<string, DiskNode>;
}

const script = String.raw`
import ctypes, errno, json, os, stat, sys
libc = ctypes.CDLL(None, use_errno=True)

def rename(old, new, flags):
    if libc.renameat2(-100, old, -100, new, flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")

def run(o):
    op, path = o["op"], os.fsencode(o["path"])
    os.umask(o.get("umask", 0))
    if op == "create": os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, o["mode"]))
    elif op == "mkdir": os.mkdir(path, o["mode"])
    elif op == "mkfifo": os.mknod(path, o["mode"] | stat.S_IFIFO)
    elif op == "mknod": os.mknod(path, o["mode"] | stat.S_IFCHR, os.makedev(1, 3))
    elif op == "symlink": os.symlink(o["target"], path)
    elif op == "link": os.link(path, os.fsencode(o["to"]), follow_symlinks=False)
    elif op == "rename": rename(path, os.fsencode(o["to"]), o["flags"])
    elif op == "unlink": os.unlink(path)
    elif op == "rmdir": os.rmdir(path)
    elif op == "chmod": os.chmod(path, o["mode"])
    elif op == "chown": os.chown(path, o["uid"], o["gid"], follow_symlinks=False)
    elif op == "truncate": os.truncate(path, o["size"])
    elif op == "utimens":
        was = os.lstat(path)
        ns = lambda t, old: old if t is None else int(t)
        os.utime(path, ns=(ns(o["atime"], was.st_atime_ns), ns(o["mtime"], was.st_mtime_ns)),
                 follow_symlinks=False)
    elif op == "setxattr":
        os.setxattr(path, o["name"], bytes.fromhex(o["value"]), o["flags"], follow_symlinks=False)
    elif op == "removexattr": os.removexattr(path, o["name"], follow_symlinks=False)

def attributes(path):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    names = os.listxattr(path, follow_symlinks=False)
    return s, {
        "mode": s.st_mode, "nlink": s.st_nlink, "uid": s.st_uid, "gid": s.st_gid,
        "size": s.st_size if kind in (stat.S_IFREG, stat.S_IFLNK) else 0,
        "rdev": os.major(s.st_rdev) << 8 | os.minor(s.st_rdev),
        "target": os.readlink(path) if kind == stat.S_IFLNK else None,
        "xattrs": {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in sorted(names)},
    }

def tree(times):
    nodes = {}
    def visit(path, name):
        s, node = attributes(path)
        now = (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)
        old = times.get(s.st_ino)
        node["moved"] = "" if old is None else "".join(
            letter for letter, a, b in zip("amc", old, now) if a != b)
        nodes[name] = node
        if stat.S_ISLNK(s.st_mode):
            # A path that leads through it moves its atime.
            node["moved"] = node["moved"].replace("a", "")
        if stat.S_ISDIR(s.st_mode):
            for child in sorted(os.listdir(path)):
                visit(path + "/" + child, name + "/" + child if name != "." else child)
        # Looking has moved atime: that is no step's doing.
        s = os.lstat(path)
        seen[s.st_ino] = (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns)
    seen = {}
    visit(".", ".")
    return seen, nodes

def fine_times():
    os.close(os.open("probe", os.O_CREAT, 0o600))
    a = os.stat("probe").st_ctime_ns
    os.chmod("probe", 0o644)
    b = os.stat("probe").st_ctime_ns
    os.unlink("probe")
    return a != b

base = sys.argv[1]
os.chdir(base)
fine = fine_times()
out = []
for n, ops in enumerate(json.load(sys.stdin)):
    os.umask(0)
    os.mkdir(base + "/" + str(n), 0o755)
    os.chdir(base + "/" + str(n))
    times, _ = tree({})
    steps = []
    for o in ops:
        try:
            run(o)
            outcome = "ok"
        except OSError as e:
            outcome = "EOPNOTSUPP" if e.errno == errno.EOPNOTSUPP else errno.errorcode[e.errno]
        times, nodes = tree(times)
        steps.append({"outcome": outcome, "tree": nodes})
    out.append(steps)
json.dump({"fine": fine, "sequences": out}, sys.stdout)
`;

/**
 * `fine`: times have the resolution to tell one step from the next. A string: why it cannot be done
 * here.
 */
export function runOnDisk(
  sequences: readonly (readonly DiskOp[])[],
): { fine: boolean; sequences: DiskStep[][] } | string {
  if (process.getuid?.() !== 0) return "needs root";
  const base = mkdtempSync(path.join(tmpdir(), "gfs-disk-"));
  try {
    const lacking = missing(base);
    if (lacking) return lacking;
    const input = JSON.stringify(sequences);
    const options = { input, encoding: "utf8", maxBuffer: 2 ** 30, timeout: 300_000 } as const;
    const done = spawnSync("python3", ["-c", script, base], options);
    if (done.status !== 0) throw new Error(`python3: ${done.stderr || String(done.error)}`);
    return JSON.parse(done.stdout) as { fine: boolean; sequences: DiskStep[][] };
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
}

/** Which of what is to be compared the disk cannot do. */
function missing(base: string): string | undefined {
  const probe = `import os, sys
os.setxattr(sys.argv[1], "trusted.gfs", b"1")
os.removexattr(sys.argv[1], "trusted.gfs")
acl = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")
os.setxattr(sys.argv[1], "system.posix_acl_default", acl)
os.removexattr(sys.argv[1], "system.posix_acl_default")
`;
  const { status, stderr, error } = spawnSync("python3", ["-c", probe, base], { encoding: "utf8" });
  if (error) return "needs python3";
  return status === 0 ? undefined : `${base} has no ACLs or attributes: ${stderr.slice(-200)}`;
}
