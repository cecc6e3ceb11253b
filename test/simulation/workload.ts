import { must } from "../../common/assert.ts";
import { crc32c } from "../../common/crc32c.ts";
import type { FileSystem, Node } from "../../mount/fuse/filesystem.ts";
import { rootNode } from "../../mount/fuse/filesystem.ts";
import { statusOf } from "../../protocol/status.ts";
import type { SimClient, SimCluster } from "./cluster.ts";
import type { Contents } from "./contents.ts";
import { absent, type Model, type ModelFile, type ModelName, type ModelSnapshot } from "./model.ts";
import type { Random } from "./random.ts";
import { caller, flags, readAll, Session } from "./session.ts";
import type { Life, World } from "./world.ts";

/**
 * Random file operations by several clients, each checked against the model. One client at a time
 * writes to a file or changes a name; others may read meanwhile.
 */

const directories = ["d0", "d1"] as const;
const namesPerDirectory = 5;
/** Pairs of readers and writers per client. */
const workersPerClient = 2;
const pauseMs = 250;
/**
 * After an operation whose client has ended: its requests may still arrive. Longer than connections
 * and the session live on.
 */
const quarantineMs = 75_000;
const snapshotsMax = 3;

/** What a mount logs of it, and the faults that it may be after. */
const lostBeforeSync = "sync.lost";
const powerFaults = ["fault: server lost power", "fault: all lost power"];

/** What a client logs that was silent for longer than its session's lease. */
const sessionLost = "session.lost";
/**
 * With the session go the replies that were kept for it (P7): what was carried out and not answered
 * may be asked for again, in vain. And what was open and is unlinked is gone.
 */
const withoutSession: ReadonlySet<string> = new Set(["not-found", "exists", "stale"]);

/** The client ended while it was asked. */
class Ended extends Error {}

/** One life of a client: what was opened in it is nothing to the next. */
export interface Mount {
  readonly life: Life;
  readonly fileSystem: FileSystem;
  readonly name: string;
}

/** A client's mount, for one operation. */
function mountOf(client: SimClient): Mount {
  const { life, name } = client.node;
  return { life, name, fileSystem: client.ready };
}

export function paths(): string[] {
  return directories.flatMap((directory) =>
    Array.from({ length: namesPerDirectory }, (_, i) => `${directory}/f${i}`),
  );
}

export class Workload {
  readonly model: Model;
  /** Called when a client is about to write. */
  beforeWrite: (where: { ino: number; offset: number }) => void = () => undefined;
  /** Statuses that injected faults of disks may lead to. */
  readonly #tolerated: ReadonlySet<string>;
  readonly #world: World;
  readonly #cluster: SimCluster;
  readonly #random: Random;
  readonly #asked = new Set<string>();
  #stopping = false;
  #running = 0;
  #snapshotsMade = 0;

  constructor(options: { cluster: SimCluster; model: Model; tolerated: ReadonlySet<string> }) {
    this.#cluster = options.cluster;
    this.#world = options.cluster.world;
    this.model = options.model;
    this.#tolerated = options.tolerated;
    this.#random = this.#world.random.fork();
  }

  /** Makes the directories, and sets the clients to work. */
  async start(): Promise<void> {
    const first = mountOf(must(this.#cluster.clients[0], "a client"));
    for (const name of directories) {
      await this.#ask(first, (fs) =>
        fs.mkdir(rootNode, Buffer.from(name), { mode: 0o40755, umask: 0 }, caller),
      );
    }
    await this.#ask(first, (fs) => fs.syncfs(caller));
    for (const client of this.#cluster.clients) {
      for (let i = 0; i < workersPerClient; i += 1) void this.#worker(client);
    }
  }

  stop(): void {
    this.#stopping = true;
  }

  /** What clients have been asked and have not answered. */
  get unanswered(): string {
    return [...this.#asked].join("; ").replaceAll(/\s+/g, " ");
  }

  /** Nobody is in the middle of anything. */
  get idle(): boolean {
    return this.#running === 0;
  }

  async #worker(client: SimClient): Promise<void> {
    while (!this.#stopping) {
      await this.#world.pause(this.#random.about(pauseMs));
      if (!client.fileSystem || client.node.stopped || this.#stopping) continue;
      this.#running += 1;
      const mount = mountOf(client);
      const { life } = mount;
      const before = new Map(life.said);
      const isNew = (event: string): boolean => life.said.get(event) !== before.get(event);
      try {
        await this.#operation(mount);
      } catch (error) {
        const facts = { sessionLost: isNew(sessionLost), syncLost: isNew(lostBeforeSync) };
        this.#unexpected(mount, error, facts);
      } finally {
        this.#running -= 1;
      }
    }
  }

  #unexpected(
    client: Mount,
    error: unknown,
    facts: { sessionLost: boolean; syncLost: boolean },
  ): void {
    if (error instanceof Ended) return;
    const status = statusOf(error);
    if (facts.sessionLost && withoutSession.has(status)) {
      return this.#world.count(`operation failed, its session was lost: ${status}`);
    }
    if (status === "internal") return this.#world.failed(client.name, error);
    const { message } = error as Error;
    if (
      facts.syncLost &&
      status === "io-error" &&
      powerFaults.some((fault) => this.#world.counts.has(fault))
    ) {
      return this.#world.count("operation failed: lost with power before fsync");
    }
    this.#world.note(`${client.name} failed: ${status} ${message}`);
    if (this.#tolerated.has(status)) this.#world.count(`operation failed: ${status}`);
    else this.#world.violate(`${client.name} got ${status}: ${message}`);
  }

  /** The client was told what is not so. */
  wrong(client: Mount, what: string): void {
    this.#world.violate(`${client.name} ${what}`);
  }

  /** Asks the client in its own time; rejects with `Ended` when it ends before it has answered. */
  #ask<T>(client: Mount, work: (fs: FileSystem) => Promise<T>): Promise<T> {
    const { life, fileSystem } = client;
    const asked = `${life.name} at ${this.#world.nowMs.toFixed(0)} ms: ${String(work)}`;
    this.#asked.add(asked);
    return new Promise<T>((resolve, reject) => {
      if (life.ended) return reject(new Ended());
      const settled = life.onEnd(() => reject(new Ended()));
      life.after(0, () => {
        work(fileSystem).then(resolve, reject).finally(settled);
      });
    }).finally(() => this.#asked.delete(asked));
  }

  #operation(client: Mount): Promise<void> {
    const dice = this.#random.below(100);
    if (dice < 40) return this.#writeSession(client);
    if (dice < 68) return this.#readSession(client);
    if (dice < 76) return this.#rename(client);
    if (dice < 82) return this.#unlink(client);
    if (dice < 86) return this.#link(client);
    if (dice < 90) return this.#syncAll(client);
    if (dice < 94) return this.#snapshot(client);
    return this.#readSnapshot(client);
  }

  // Names

  #pickName(free: (name: ModelName) => boolean): ModelName | undefined {
    const names = [...this.model.names.values()].filter((name) => !name.changing && free(name));
    return names.length === 0 ? undefined : this.#random.pick(names);
  }

  /** Node of a directory; clients count nodes alike, but each has its own. */
  async #directory(fs: FileSystem, path: string): Promise<Node> {
    const [name = ""] = path.split("/");
    return (await fs.lookup(rootNode, Buffer.from(name), caller)).node;
  }

  #leaf(name: ModelName): Buffer {
    return Buffer.from(name.path.slice(name.path.indexOf("/") + 1));
  }

  /** What is there, as the client sees it and the model allows it; `node` is 0 if nothing is. */
  async #lookup(
    client: Mount,
    name: ModelName,
  ): Promise<{ file: ModelFile | undefined; node: Node }> {
    const found = await this.#ask(client, async (fs) => {
      const parent = await this.#directory(fs, name.path);
      try {
        return await fs.lookup(parent, this.#leaf(name), caller);
      } catch (error) {
        if (statusOf(error) === "not-found") return undefined;
        throw error;
      }
    });
    this.#world.count("checked: names");
    const file = this.model.identify(name, found?.attr.ino);
    if (typeof file === "string") {
      this.wrong(client, `was told that ${file}`);
      throw new Ended();
    }
    name.observed(file?.id ?? absent);
    return { file, node: found?.node ?? 0 };
  }

  /**
   * Runs a change of names. Until it is known to be done, or not, the names stay taken; if its
   * client ends, until nothing of it can arrive any more.
   */
  async #change(names: readonly ModelName[], work: () => Promise<void>): Promise<void> {
    for (const name of names) name.changing = true;
    await this.held(work, () => {
      for (const name of names) name.changing = false;
    });
  }

  async held(work: () => Promise<void>, release: () => void): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#world.after(quarantineMs, undefined, release);
      throw error;
    }
    release();
  }

  async #rename(client: Mount): Promise<void> {
    const source = this.#pickName(({ users }) => users === 0);
    const target = this.#pickName((name) => name !== source && name.users === 0);
    if (!source || !target) return;
    await this.#change([source, target], async () => {
      const { file: moved } = await this.#lookup(client, source);
      const { file: replaced } = await this.#lookup(client, target);
      if (!moved) return;
      source.mayBe(absent);
      target.mayBe(moved.id);
      this.#world.note(`${client.name} rename ${source.path} ${target.path} (file ${moved.id})`);
      await this.#ask(client, async (fs) => {
        const from = { parent: await this.#directory(fs, source.path), name: this.#leaf(source) };
        const to = { parent: await this.#directory(fs, target.path), name: this.#leaf(target) };
        await fs.rename(from, to, 0, caller);
      });
      this.#world.count("operation: rename");
      // Two names of one file: rename(2) does nothing.
      if (moved === replaced) return void this.#is(source, moved.id);
      this.#is(source, absent);
      this.#is(target, moved.id);
    });
  }

  #is(name: ModelName, id: number): void {
    name.is(id, { durable: this.model.durable });
  }

  async #unlink(client: Mount): Promise<void> {
    const name = this.#pickName(({ users }) => users === 0);
    if (!name) return;
    await this.#change([name], async () => {
      const { file } = await this.#lookup(client, name);
      if (!file) return;
      name.mayBe(absent);
      this.#world.note(`${client.name} unlink ${name.path} (file ${file.id})`);
      await this.#ask(client, async (fs) =>
        fs.unlink(await this.#directory(fs, name.path), this.#leaf(name), caller),
      );
      this.#world.count("operation: unlink");
      this.#is(name, absent);
    });
  }

  async #link(client: Mount): Promise<void> {
    const source = this.#pickName(({ users }) => users === 0);
    const target = this.#pickName((name) => name !== source && name.users === 0);
    if (!source || !target) return;
    await this.#change([source, target], async () => {
      const { file, node } = await this.#lookup(client, source);
      const { file: there } = await this.#lookup(client, target);
      if (!file || there) return;
      target.mayBe(file.id);
      this.#world.note(`${client.name} link ${source.path} ${target.path} (file ${file.id})`);
      await this.#ask(client, async (fs) =>
        fs.link(node, await this.#directory(fs, target.path), this.#leaf(target), caller),
      );
      this.#world.count("operation: link");
      this.#is(target, file.id);
    });
  }

  /** sync(2): names that nobody was changing meanwhile are on the master's disk. */
  async #syncAll(client: Mount): Promise<void> {
    const names = [...this.model.names.values()].filter(({ changing }) => !changing);
    const before = names.map(({ now }) => now);
    await this.#ask(client, (fs) => fs.syncfs(caller));
    this.#world.count("operation: syncfs");
    for (const [i, name] of names.entries()) {
      if (!name.changing && name.now === before[i]) name.floor = new Set(name.now);
    }
  }

  // Contents

  async #writeSession(client: Mount): Promise<void> {
    const name = this.#pickName(() => true);
    if (!name) return;
    name.users += 1;
    let release = (): void => void (name.users -= 1);
    await this.held(
      async () => {
        const known = name.now.size === 1 ? [...name.now][0] : undefined;
        if (known === absent && name.users > 1) return;
        if (known === absent) {
          name.changing = true;
          const before = release;
          release = () => {
            before();
            name.changing = false;
          };
        }
        const { file, node } = await this.#lookup(client, name);
        if (file?.writing || (!file && !name.changing)) return;
        const target = file ?? this.model.newFile();
        const session = new Session(this, client, target, this.#random);
        target.writing = true;
        const before = release;
        release = () => {
          before();
          target.writing = false;
        };
        try {
          if (file) await session.open(file, node);
          else await this.#create(client, name, target, session);
          await session.work();
        } finally {
          session.end();
        }
      },
      () => release(),
    );
  }

  async #create(client: Mount, name: ModelName, file: ModelFile, session: Session): Promise<void> {
    name.mayBe(file.id);
    this.#world.note(`${client.name} create ${name.path} (file ${file.id})`);
    const made = await this.#ask(client, async (fs) => {
      const parent = await this.#directory(fs, name.path);
      const making = { mode: 0o100644, umask: 0, flags: flags.readWrite };
      return fs.create(parent, this.#leaf(name), making, caller);
    });
    file.ino = made.attr.ino;
    this.#world.count("operation: create");
    this.#is(name, file.id);
    name.changing = false;
    session.opened(file, made.node, made.file);
  }

  async #readSession(client: Mount): Promise<void> {
    const name = this.#pickName(({ now }) => !now.has(absent) || now.size > 1);
    if (!name) return;
    name.users += 1;
    try {
      const { file, node } = await this.#lookup(client, name);
      if (file) await this.readWhole(client, file, node);
    } finally {
      name.users -= 1;
    }
  }

  /** Opens a file, reads all of it, and compares: close-to-open (P4), no invented bytes (P3). */
  async readWhole(client: Mount, file: ModelFile, node: Node): Promise<void> {
    const watch = file.watch();
    try {
      const { size, bytes } = await this.#ask(client, (fs) => readAll(fs, node));
      this.compare(client, { file, contents: watch.contents, size, bytes });
    } finally {
      watch.end();
    }
  }

  compare(
    client: Mount,
    found: { file: ModelFile; contents: Contents; size: number; bytes: Buffer; offset?: number },
  ): void {
    const { file, contents, offset = 0, ...read } = found;
    this.#world.count("checked: reads");
    const wrong = this.#differs(contents, { ...read, offset });
    if (wrong === undefined) return;
    this.wrong(client, `read file ${file.id} (inode ${file.ino ?? "?"}): ${wrong}`);
  }

  // Snapshots

  async #snapshot(client: Mount): Promise<void> {
    const { snapshots } = this.model;
    const old = [...snapshots].find(({ busy }) => !busy);
    if (snapshots.size >= snapshotsMax && old) return this.#dropSnapshot(client, old);
    const directory = this.#random.pick(directories);
    this.#snapshotsMade += 1;
    const name = `s${this.#snapshotsMade}`;
    const { snapshot, taken } = this.model.snapshotBegins(directory, name);
    try {
      this.#world.note(`${client.name} snapshot ${directory} ${name}`);
      await this.#ask(client, async (fs) => {
        const making = { mode: 0o40755, umask: 0 };
        const at = await this.#snapshotsOf(fs, directory);
        return fs.mkdir(at, Buffer.from(name), making, caller);
      });
      this.#world.count("operation: snapshot");
      snapshots.add(snapshot);
    } finally {
      taken();
    }
  }

  async #snapshotsOf(fs: FileSystem, directory: string): Promise<Node> {
    const parent = await this.#directory(fs, directory);
    return (await fs.lookup(parent, Buffer.from(".snapshots"), caller)).node;
  }

  async #dropSnapshot(client: Mount, snapshot: ModelSnapshot): Promise<void> {
    this.model.snapshots.delete(snapshot);
    this.#world.note(`${client.name} drop snapshot ${snapshot.directory} ${snapshot.name}`);
    await this.#ask(client, async (fs) => {
      const at = await this.#snapshotsOf(fs, snapshot.directory);
      await fs.rmdir(at, Buffer.from(snapshot.name), caller);
    });
    this.#world.count("operation: snapshot deleted");
  }

  async #readSnapshot(client: Mount): Promise<void> {
    const free = [...this.model.snapshots].filter(({ busy }) => !busy);
    if (free.length === 0) return;
    const snapshot = this.#random.pick(free);
    await this.checkSnapshot(client, snapshot, this.#random.pick([...snapshot.names.keys()]));
  }

  /** A name in a snapshot is what it was when the snapshot was taken, and stays so (P5). */
  async checkSnapshot(client: Mount, snapshot: ModelSnapshot, path: string): Promise<void> {
    snapshot.busy = true;
    try {
      const leaf = Buffer.from(path.slice(path.indexOf("/") + 1));
      const found = await this.#ask(client, async (fs) => {
        const snapshots = await this.#snapshotsOf(fs, snapshot.directory);
        const { node: root } = await fs.lookup(snapshots, Buffer.from(snapshot.name), caller);
        try {
          const { node } = await fs.lookup(root, leaf, caller);
          return await readAll(fs, node);
        } catch (error) {
          if (statusOf(error) === "not-found") return undefined;
          throw error;
        }
      });
      this.#compareSnapshot(client, snapshot, path, found);
    } finally {
      snapshot.busy = false;
    }
  }

  #compareSnapshot(
    client: Mount,
    snapshot: ModelSnapshot,
    path: string,
    found: { size: number; bytes: Buffer } | undefined,
  ): void {
    const where = `snapshot ${snapshot.name} of ${path}`;
    this.#world.count("checked: snapshots");
    const pin = found ? crc32c(found.bytes) : -1;
    const before = snapshot.pins.get(path);
    if (before !== undefined && before !== pin) return this.wrong(client, `${where} has changed`);
    snapshot.pins.set(path, pin);
    const ids = [...(snapshot.names.get(path) ?? [])];
    if (!found) {
      if (!ids.includes(absent)) this.wrong(client, `${where} is not there`);
      return;
    }
    // A snapshot's inodes have numbers of their own: any of the files may be it.
    const wrong = ids
      .filter((id) => id !== absent)
      .map((id) => this.#differs(snapshot.contents.get(id), found));
    if (wrong.includes(undefined)) return;
    this.wrong(client, `read ${where}: ${wrong.join("; ") || "of nobody"}`);
  }

  /** What is wrong with contents, or undefined. */
  #differs(
    contents: Contents | undefined,
    { size, bytes, offset = 0 }: { size: number; bytes: Buffer; offset?: number },
  ): string | undefined {
    if (!contents) return "of nobody";
    const { sizeMin, sizeMax } = contents;
    this.#world.count("checked: bytes", bytes.length);
    if (size < sizeMin || size > sizeMax)
      return `its size is ${size}, not ${sizeMin} to ${sizeMax}`;
    return contents.check(this.model.sources, offset, bytes);
  }

  // For sessions

  get world(): World {
    return this.#world;
  }

  ask<T>(client: Mount, work: (fs: FileSystem) => Promise<T>): Promise<T> {
    return this.#ask(client, work);
  }

  /** A look at everything, when nothing happens any more. */
  async checkAll(): Promise<void> {
    const client = mountOf(must(this.#cluster.clients[0], "a client"));
    for (const name of this.model.names.values()) {
      const { file, node } = await this.#lookup(client, name);
      if (file) await this.readWhole(client, file, node);
    }
    for (const snapshot of this.model.snapshots) {
      for (const path of snapshot.names.keys()) await this.checkSnapshot(client, snapshot, path);
    }
  }

  /** Another file to copy from, that nobody writes to, and what frees it. */
  async copySource(
    client: Mount,
  ): Promise<{ file: ModelFile; node: Node; free: () => void } | undefined> {
    const name = this.#pickName(({ now }) => !now.has(absent));
    if (!name) return undefined;
    name.users += 1;
    const free = (): void => void (name.users -= 1);
    try {
      const { file, node } = await this.#lookup(client, name);
      if (file && !file.writing) {
        file.writing = true;
        const end = (): void => {
          free();
          file.writing = false;
        };
        return { file, node, free: end };
      }
    } catch (error) {
      free();
      throw error;
    }
    free();
    return undefined;
  }
}
