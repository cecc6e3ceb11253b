import { Contents, Sources } from "./contents.ts";

/**
 * What the filesystem may be, judged by what was answered. `now` is what every mount may see, and
 * what kill -9 leaves; `floor` is what a loss of power may leave, of that and of what was there
 * before it (P1, P2). Where an outcome is not known, both allow either.
 */

type FileId = number;
/** In the place of a file: there is none. */
export const absent: FileId = 0;

/** Somebody who has a file open, and sees his own writes in it. */
export interface FileWriter {
  /** `floor`: what is certain to be left. `everywhere`: on all servers at the same moment. */
  lostPower(floor: Contents, everywhere: boolean): void;
}

export class ModelFile {
  readonly id: FileId;
  /** Its inode number, once an answer has told it. */
  ino: number | undefined;
  now = new Contents();
  floor = new Contents();
  /** Somebody writes to it. */
  writing = false;
  /** What readers under way, and snapshots being taken, may see. */
  readonly watchers = new Set<Contents>();
  /**
   * Lives of clients that wrote since a loss of power would take nothing: fsync(2) is for what its
   * own mount wrote.
   */
  readonly unsyncedBy = new Set<string>();
  /** What they see does not follow from `now` while they write. */
  readonly writers = new Set<FileWriter>();

  constructor(id: FileId) {
    this.id = id;
  }

  /** Something has begun that may lead to `contents`. */
  mayBecome(contents: Contents): void {
    this.now.mayBe(contents);
    this.floor.mayBe(contents);
    this.#tell();
  }

  /** Acknowledged by close. */
  became(contents: Contents): void {
    this.now = contents.clone();
    this.#tell();
  }

  /** Acknowledged by fsync. */
  synced(contents: Contents, by: string): void {
    this.became(contents);
    if ([...this.unsyncedBy].some((each) => each !== by)) return;
    this.unsyncedBy.clear();
    this.floor = contents.clone();
  }

  /** More replicas than a minority, or the master, have lost power. */
  losePower(everywhere = false): void {
    this.now = this.floor.clone();
    this.unsyncedBy.clear();
    for (const writer of this.writers) writer.lostPower(this.floor, everywhere);
    this.#tell();
  }

  watch(): { contents: Contents; end: () => void } {
    const contents = this.now.clone();
    this.watchers.add(contents);
    return { contents, end: () => void this.watchers.delete(contents) };
  }

  #tell(): void {
    for (const watcher of this.watchers) watcher.mayBe(this.now);
  }
}

export class ModelName {
  readonly path: string;
  now: Set<FileId> = new Set([absent]);
  floor: Set<FileId> = new Set([absent]);
  /** Readers and writers of what it names. */
  users = 0;
  /** Somebody changes what it names. */
  changing = false;
  readonly watchers = new Set<Set<FileId>>();

  constructor(path: string) {
    this.path = path;
  }

  mayBe(id: FileId): void {
    this.now.add(id);
    this.floor.add(id);
    this.#tell();
  }

  /** Acknowledged; `durable`: the master's disk has it. */
  is(id: FileId, { durable }: { durable: boolean }): void {
    this.now = new Set([id]);
    if (durable) this.floor = new Set([id]);
    else this.floor.add(id);
    this.#tell();
  }

  /** Seen with one's own eyes. */
  observed(id: FileId): void {
    this.now = new Set([id]);
  }

  losePower(): void {
    this.now = new Set(this.floor);
    this.#tell();
  }

  #tell(): void {
    for (const watcher of this.watchers) for (const id of this.now) watcher.add(id);
  }
}

export interface ModelSnapshot {
  readonly directory: string;
  readonly name: string;
  readonly names: Map<string, Set<FileId>>;
  readonly contents: Map<FileId, Contents>;
  /** The same, after a loss of power that goes beyond what closing a file promises. */
  readonly floors: Map<FileId, Contents>;
  /** CRC of what was read first, by path: it never changes. */
  readonly pins: Map<string, number>;
  busy: boolean;
}

export class Model {
  readonly sources = new Sources();
  readonly files = new Map<FileId, ModelFile>();
  readonly names = new Map<string, ModelName>();
  readonly snapshots = new Set<ModelSnapshot>();
  readonly #onNew = new Set<(file: ModelFile) => void>();
  /** Every answer of the master is on its disk (--sync=always). */
  readonly durable: boolean;

  constructor(options: { paths: readonly string[]; durable: boolean }) {
    this.durable = options.durable;
    for (const path of options.paths) this.names.set(path, new ModelName(path));
  }

  newFile(): ModelFile {
    const file = new ModelFile(this.files.size + 1);
    this.files.set(file.id, file);
    for (const listener of this.#onNew) listener(file);
    return file;
  }

  file(id: FileId): ModelFile {
    const file = this.files.get(id);
    if (!file) throw new Error(`no file ${id}`);
    return file;
  }

  byIno(ino: number): ModelFile | undefined {
    return [...this.files.values()].find((file) => file.ino === ino);
  }

  /**
   * What a lookup found: `ino`, or nothing. Returns the file (undefined: there is none), or what is
   * wrong with that.
   */
  identify(name: ModelName, ino: number | undefined): ModelFile | undefined | string {
    const known = ino === undefined ? undefined : (this.byIno(ino) ?? this.#unmet(name, ino));
    const id = ino === undefined ? absent : known?.id;
    if (id === undefined || !name.now.has(id)) {
      const allowed = [...name.now].map((each) => this.#describe(each)).join(" or ");
      const found = ino === undefined ? "nothing" : `inode ${ino} (${known?.id ?? "of nobody"})`;
      return `${name.path} is ${found}, not ${allowed}`;
    }
    return known;
  }

  /** A file that may have been made at this name, by somebody who never got the answer. */
  #unmet(name: ModelName, ino: number): ModelFile | undefined {
    const unmet = [...name.now].find((id) => id !== absent && this.file(id).ino === undefined);
    if (unmet === undefined) return undefined;
    const file = this.file(unmet);
    file.ino = ino;
    return file;
  }

  #describe(id: FileId): string {
    return id === absent ? "nothing" : `file ${id} (inode ${this.file(id).ino ?? "?"})`;
  }

  /** A snapshot is being taken: it has what is there now, or what comes about until it is taken. */
  snapshotBegins(directory: string, name: string): { snapshot: ModelSnapshot; taken: () => void } {
    const snapshot: ModelSnapshot = {
      ...{ directory, name, busy: false },
      ...{ names: new Map(), contents: new Map(), floors: new Map(), pins: new Map() },
    };
    const ends: (() => void)[] = [];
    const watch = (file: ModelFile): void => {
      const { contents, end } = file.watch();
      snapshot.contents.set(file.id, contents);
      snapshot.floors.set(file.id, file.floor.clone());
      ends.push(end);
    };
    for (const entry of this.names.values()) {
      if (!entry.path.startsWith(`${directory}/`)) continue;
      const ids = new Set(entry.now);
      entry.watchers.add(ids);
      ends.push(() => void entry.watchers.delete(ids));
      snapshot.names.set(entry.path, ids);
    }
    for (const file of this.files.values()) watch(file);
    this.#onNew.add(watch);
    const taken = (): void => {
      this.#onNew.delete(watch);
      for (const end of ends) end();
      for (const [id, floor] of snapshot.floors) floor.mayBe(this.file(id).floor);
    };
    return { snapshot, taken };
  }

  /** Of a file, more than a minority of some chunk's replicas have lost power. */
  replicasLostPower(file: ModelFile, everywhere = false): void {
    file.losePower(everywhere);
    for (const snapshot of this.snapshots) {
      const floor = snapshot.floors.get(file.id);
      if (floor) snapshot.contents.set(file.id, floor.clone());
      snapshot.pins.clear();
    }
  }

  /** The master has lost power: nothing but what was synced is certain. */
  masterLostPower(): void {
    if (this.durable) return;
    for (const name of this.names.values()) name.losePower();
    for (const file of this.files.values()) file.losePower();
  }
}
