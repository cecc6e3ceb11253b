import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { sleep } from "../../common/clock.ts";
import { systemClock } from "../../common/os/clock.ts";
import { waitsIn } from "./blocked.ts";
import { until } from "./until.ts";

/**
 * A process that has one file open, and locks, reads and writes it as a test says, one command a
 * line. In Python, which has fcntl(2) and flock(2) as they are. USR1 interrupts it.
 */
const program = `
import errno, fcntl, os, signal, struct, sys

def interrupt(*_):
    raise InterruptedError(errno.EINTR, "")

signal.signal(signal.SIGUSR1, interrupt)
path = sys.argv[1]
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
types = {"read": fcntl.LOCK_SH, "write": fcntl.LOCK_EX, "unlock": fcntl.LOCK_UN}
names = {fcntl.F_RDLCK: "read", fcntl.F_WRLCK: "write", fcntl.F_UNLCK: "free"}

def ask(type, start, length):
    wanted = fcntl.F_RDLCK if type == "read" else fcntl.F_WRLCK
    lock = struct.pack("hhqqi4x", wanted, 0, int(start), int(length), 0)
    type, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, lock))
    return "free" if type == fcntl.F_UNLCK else f"{names[type]} {start} {length} {pid}"

def ofd(type, start, length):
    wanted = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "unlock": fcntl.F_UNLCK}[type]
    lock = struct.pack("hhqqi4x", wanted, 0, int(start), int(length), 0)
    fcntl.fcntl(file, 37, lock)  # F_OFD_SETLK

def run(what, *args):
    wait = 0 if what.endswith("w") or args[:1] == ("unlock",) else fcntl.LOCK_NB
    if what.startswith("lock"):
        fcntl.lockf(file, types[args[0]] | wait, int(args[2]), int(args[1]))
    elif what.startswith("flock"):
        fcntl.flock(file, types[args[0]] | wait)
    elif what == "ofd":
        ofd(*args)
    elif what == "ask":
        return ask(*args)
    elif what == "read":
        return os.pread(file, int(args[1]), int(args[0])).decode()
    elif what == "put":
        os.pwrite(file, args[1].encode(), int(args[0]))
    elif what == "reopen":
        os.close(os.open(path, os.O_RDONLY))
    elif what == "fork":
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return "ok"

print("ready", flush=True)
for line in sys.stdin:
    try:
        print(run(*line.split()), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
`;

/** A command that has not ended by then never will: that is what the test is to find. */
const answerMsMax = 150_000;

export class Locker {
  readonly #file: string;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  #waiting = 0;

  private constructor(file: string) {
    this.#file = file;
    this.#child = spawn("python3", ["-c", program, file], { stdio: ["pipe", "pipe", "inherit"] });
    const { stdout } = this.#child;
    if (!stdout) throw new Error("there is a pipe");
    this.#answers = createInterface(stdout)[Symbol.asyncIterator]();
  }

  static async open(t: { teardown(work: () => void): unknown }, file: string): Promise<Locker> {
    const locker = new Locker(file);
    t.teardown(() => void locker.#child.kill("SIGKILL"));
    await locker.#answer();
    return locker;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Carries out a command. Resolves with its answer, or the name of the errno. */
  do(command: string): Promise<string> {
    this.#waiting += 1;
    this.#child.stdin?.write(`${command}\n`);
    return this.#answer().finally(() => (this.#waiting -= 1));
  }

  async #answer(): Promise<string> {
    const done = new AbortController();
    const late = sleep(systemClock, answerMsMax, done.signal).then(() => ({ value: "no answer" }));
    const { value } = await Promise.race([this.#answers.next(), late]);
    done.abort();
    return String(value);
  }

  /** Starts a command that waits. Resolves when it does, and the master knows. */
  async begin(command: string): Promise<{ answer: Promise<string> }> {
    const answer = this.do(command);
    const call = command.startsWith("flock") ? "flock" : "fcntl";
    await until(`${command} waits`, () => waitsIn(this.pid, call));
    // What another process of the same mount asks the master comes after it.
    const witness = new Locker(this.#file);
    await witness.#answer();
    await witness.do("ask write 0 1");
    await witness.kill();
    return { answer };
  }

  get isWaiting(): boolean {
    return this.#waiting > 0;
  }

  signal(name: NodeJS.Signals): void {
    this.#child.kill(name);
  }

  async kill(): Promise<void> {
    const gone = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await gone;
  }
}
