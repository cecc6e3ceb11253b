import fs from "node:fs";
import path from "node:path";
import { withMaster } from "../cli/admin.ts";
import { NamespaceSession } from "../cli/session.ts";
import { sleep } from "../common/clock.ts";
import { systemClock } from "../common/os/clock.ts";
import { locate } from "../protocol/methods/chunk.ts";
import type { Program, SoakCluster } from "./soak-cluster.ts";

/**
 * What `npm run soak` does to the programs. Disks are never lost, and bits are flipped on one
 * server only, in chunks that are not written to any more: everything that was acknowledged has to
 * be there in the end.
 */

/** Longer than any lease between programs (serverLeaseMs, sessionLeaseMs). */
const stopMs = { least: 26_000, most: 38_000 };
const downMs = { least: 0, most: 15_000 };
const fullMs = { least: 10_000, most: 25_000 };
/** Between the end of one fault and the next. */
const pauseMs = { least: 3_000, most: 12_000 };
/** The server whose replicas are damaged: always the same. */
const flippedServer = 0;
/** Chunks damaged at a time, and files that are looked at for them. */
const flipsMax = 5;
const lookedMax = 40;
/** How long a flip waits for a master that is down. */
const masterMsMax = 30_000;

type Fault = () => Promise<void>;

export class Faults {
  readonly counts: Record<string, number> = {};
  /** What could not be done, or not be undone. */
  readonly failures: string[] = [];
  readonly #cluster: SoakCluster;
  readonly #random: () => number;
  readonly #tell: (text: string) => void;
  readonly #signal: AbortSignal;
  /** By file: where its byte was changed. */
  readonly #flipped = new Map<string, number>();

  constructor(options: {
    cluster: SoakCluster;
    random: () => number;
    tell: (text: string) => void;
    signal: AbortSignal;
  }) {
    this.#cluster = options.cluster;
    this.#random = options.random;
    this.#tell = options.tell;
    this.#signal = options.signal;
  }

  /** Two at a time, until the signal: what one has broken is not mended when the next comes. */
  async run(): Promise<void> {
    const driver = async (): Promise<void> => {
      while (!this.#signal.aborted) {
        await this.#wait(pauseMs);
        if (this.#signal.aborted) return;
        await this.#next()().catch((error: unknown) => {
          this.failures.push(error instanceof Error ? error.message : String(error));
          this.#tell(`not done: ${this.failures.at(-1)}`);
        });
      }
    };
    await Promise.all([driver(), driver()]);
  }

  #next(): Fault {
    const { servers, mounts, master } = this.#cluster;
    const server = (): Program => this.#one(servers);
    const weighted: [weight: number, fault: Fault][] = [
      [3, () => this.#killed("kill master", [master])],
      [5, () => this.#killed("kill chunkd", [server()])],
      [servers.length > 1 ? 2 : 0, () => this.#killed("kill two chunkd", this.#two(servers))],
      [1, () => this.#killed("kill master and all chunkd", [master, ...servers])],
      [1, () => this.#stopped("stop master", master)],
      [3, () => this.#stopped("stop chunkd", server())],
      [2, () => this.#killMount()],
      [1, () => this.#stopped("stop mount", this.#one(mounts.map(({ program }) => program)))],
      [2, () => this.#fill()],
      [4, () => this.#flip()],
    ];
    let roll = this.#random() * weighted.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, fault] of weighted) {
      roll -= weight;
      if (roll < 0) return fault;
    }
    return () => this.#flip();
  }

  #one<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.#random() * items.length)];
    if (item === undefined) throw new Error("there is nothing to choose from");
    return item;
  }

  #two<T>(items: readonly T[]): T[] {
    const first = this.#one(items);
    return [first, this.#one(items.filter((item) => item !== first))];
  }

  async #wait({ least, most }: { least: number; most: number }): Promise<void> {
    await sleep(systemClock, least + this.#random() * (most - least), this.#signal);
  }

  #count(what: string, detail = ""): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
    this.#tell(detail ? `${what}: ${detail}` : what);
  }

  /** Runs `work` on programs to which nothing else is being done. */
  async #alone(programs: readonly Program[], work: Fault): Promise<void> {
    const chosen = new Set(programs);
    if ([...chosen].some(({ busy }) => busy)) return;
    for (const program of chosen) program.busy = true;
    try {
      await work();
    } finally {
      for (const program of chosen) program.busy = false;
    }
  }

  #killed(what: string, programs: readonly Program[]): Promise<void> {
    return this.#alone(programs, async () => {
      this.#count(what, programs.map(({ title }) => title).join(" "));
      await Promise.all(programs.map((program) => program.kill()));
      await this.#wait(downMs);
      for (const program of programs) program.start();
    });
  }

  #stopped(what: string, program: Program): Promise<void> {
    return this.#alone([program], async () => {
      this.#count(what, program.title);
      program.signal("SIGSTOP");
      await this.#wait(stopMs);
      program.signal("SIGCONT");
    });
  }

  async #killMount(): Promise<void> {
    const mount = this.#cluster.mounts.find(({ cuts }) => cuts !== undefined);
    if (!mount) return;
    await this.#alone([mount.program], async () => {
      this.#count("kill mount", mount.program.title);
      const count = this.counts["kill mount"] ?? 1;
      await this.#cluster.killMount(mount, count, () => this.#wait(downMs));
    });
  }

  /** Fills the small disk with a file beside the chunks' own. */
  async #fill(): Promise<void> {
    const { small } = this.#cluster;
    if (small === undefined) return;
    // Where the chunk server looks after nothing by itself.
    const ballast = path.join(small, "lost", "ballast");
    if (fs.existsSync(ballast)) return;
    this.#count("fill a disk", path.basename(small));
    fs.mkdirSync(path.dirname(ballast), { recursive: true });
    try {
      fill(ballast, small);
      await this.#wait(fullMs);
    } finally {
      fs.rmSync(ballast, { force: true });
    }
  }

  /** Flips a byte of one replica of some files that are only read. */
  async #flip(): Promise<void> {
    await this.#cluster.until("the master answers", () => true, masterMsMax).catch(() => 0);
    let flips = 0;
    for (const file of this.#kept().slice(0, lookedMax)) {
      if (flips === flipsMax || this.#signal.aborted) break;
      const chunk = await this.#chunkFile(file).catch(() => undefined);
      if (chunk === undefined || this.#flipped.has(chunk)) continue;
      const at = flipByte(chunk, this.#random);
      if (at === undefined) continue;
      this.#flipped.set(chunk, at);
      this.#tell(`flip byte ${at} of ${path.basename(chunk)}, ${file}`);
      flips += 1;
    }
    if (flips > 0) this.counts["flip a byte"] = (this.counts["flip a byte"] ?? 0) + flips;
    else this.#tell("no chunk to flip a byte of");
  }

  /** The files that are only read, by their paths from the root, in random order. */
  #kept(): string[] {
    const shadow = path.join(this.#cluster.directory, "shadow");
    const files = fs.readdirSync(shadow, { recursive: true, encoding: "utf8" });
    return files
      .filter((file) => path.basename(file).startsWith("kept-"))
      .map((file) => ({ file: `/${file}`, order: this.#random() }))
      .toSorted((a, b) => a.order - b.order)
      .map(({ file }) => file);
  }

  /**
   * Chunks whose flipped byte is still there: it is not what the other servers have. A server that
   * starts verifies all it has, so it is started again first.
   */
  async restartFlipped(): Promise<void> {
    const server = this.#cluster.servers[flippedServer];
    if (this.#flipped.size === 0 || !server) return;
    await server.kill();
    server.start();
  }

  stillFlipped(): string[] {
    const others = [...this.#cluster.servers.keys()].filter((index) => index !== flippedServer);
    const directories = others.map((index) => this.#cluster.serverData(index));
    const own = this.#cluster.serverData(flippedServer);
    return [...this.#flipped].flatMap(([file, at]) => {
      const is = byteAt(file, at);
      if (is === undefined) return [];
      const wanted = directories
        .map((data) => byteAt(path.join(data, path.relative(own, file)), at))
        .find((byte) => byte !== undefined);
      return wanted === undefined || wanted === is ? [] : [path.basename(file)];
    });
  }

  /** Where the damaged server has a file's first chunk, if it has it in a file. */
  #chunkFile(inner: string): Promise<string | undefined> {
    return withMaster(this.#cluster.address, (connection) =>
      NamespaceSession.with(connection, async (session) => {
        const { ino } = await session.resolve({ given: inner, inner, mountpoint: undefined });
        const { locations } = await session.read(locate, { ino, first: 0, count: 1 });
        const handle = locations[0]?.handle;
        if (handle === undefined) return undefined;
        const name = handle.toString(16).padStart(14, "0");
        const data = this.#cluster.serverData(flippedServer);
        const file = path.join(data, "chunks", name.slice(-2), name);
        return fs.existsSync(file) ? file : undefined;
      }),
    );
  }

  /** Everything runs again, and every disk has room. */
  mend(): void {
    for (const program of this.#cluster.programs) program.signal("SIGCONT");
    for (const program of [this.#cluster.master, ...this.#cluster.servers]) program.start();
  }
}

/** Takes all the space there is on a disk. */
function fill(file: string, disk: string): void {
  const fd = fs.openSync(file, "w");
  const piece = Buffer.alloc(1024 * 1024, 1);
  try {
    for (;;) {
      const { bavail, bsize } = fs.statfsSync(disk);
      if (bavail === 0) return;
      fs.writeSync(fd, piece, 0, Math.min(piece.length, bavail * bsize));
    }
  } catch {
    // It is full.
  } finally {
    fs.closeSync(fd);
  }
}

/** Changes a byte; returns where, or undefined if there is none. */
function flipByte(file: string, random: () => number): number | undefined {
  const { size } = fs.statSync(file);
  if (size === 0) return undefined;
  const at = Math.floor(random() * size);
  const byte = Buffer.alloc(1);
  const fd = fs.openSync(file, "r+");
  try {
    fs.readSync(fd, byte, 0, 1, at);
    fs.writeSync(fd, Buffer.from([byte.readUInt8() ^ 0x20]), 0, 1, at);
  } finally {
    fs.closeSync(fd);
  }
  return at;
}

/** A byte of a file, or undefined if either is not there. */
function byteAt(file: string, at: number): number | undefined {
  if (!fs.existsSync(file)) return undefined;
  const byte = Buffer.alloc(1);
  const fd = fs.openSync(file, "r");
  try {
    return fs.readSync(fd, byte, 0, 1, at) === 1 ? byte.readUInt8() : undefined;
  } finally {
    fs.closeSync(fd);
  }
}
