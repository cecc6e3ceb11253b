import { type Static, Type } from "typebox";
import { Check } from "typebox/value";
import { type DirectoryLock, type Disk, errnoName, replaceFile } from "../../common/disk.ts";
import { UserError } from "../../common/program.ts";
import { type ServerId, serverId } from "../../protocol/id.ts";

/**
 * The data directory:
 *
 *   id         which cluster and server it belongs to, JSON; written at the first registration
 *   port       the port the server listened on last
 *   index/     the chunk index and the bytes of small chunks, see chunk-index.ts
 *   chunks/xx/ chunk files, see files.ts
 *   staging/   copies and clones that are being made; emptied at start
 *   lost/      chunk files that the index did not know at a start; only if there were any, and
 *              deleted by nobody but the operator
 */
const program = "gfs-chunkd";
const directoryFormat = 1;

const IdShape = Type.Object({
  program: Type.String(),
  format: Type.Integer(),
  cluster: Type.String({ minLength: 1 }),
  server: Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER }),
});

export interface Identity {
  cluster: string;
  server: ServerId;
}

const ownNames = new Set([
  "id",
  "id.new",
  "port",
  "port.new",
  "index",
  "chunks",
  "staging",
  "lost",
]);
/** What a freshly made ext4 filesystem has at its root. */
const ignoredNames = new Set(["lost+found"]);

export class DataDirectory {
  readonly path: string;
  readonly #disk: Disk;
  readonly #lock: DirectoryLock;
  #identity: Identity | undefined;

  private constructor(options: {
    path: string;
    disk: Disk;
    lock: DirectoryLock;
    identity: Identity | undefined;
  }) {
    this.path = options.path;
    this.#disk = options.disk;
    this.#lock = options.lock;
    this.#identity = options.identity;
  }

  /**
   * Takes the directory, which is made if need be; a `UserError` says in one line why it cannot.
   */
  static async open(disk: Disk, path: string): Promise<DataDirectory> {
    const lock = await takeLock(disk, path);
    try {
      const identity = await readIdentity(disk, path);
      if (!identity) await refuseForeign(disk, path);
      await makeLayout(disk, path);
      return new DataDirectory({ path, disk, lock, identity });
    } catch (error) {
      await lock.release();
      throw asUserError(path, error);
    }
  }

  /** Undefined until the first registration. */
  get identity(): Identity | undefined {
    return this.#identity;
  }

  /** The directory belongs to this cluster, as this server, from now on. */
  async adopt(identity: Identity): Promise<void> {
    const json = JSON.stringify({ program, format: directoryFormat, ...identity });
    const bytes = Buffer.from(`${json}\n`);
    await replaceFile(this.#disk, "identity", { directory: this.path, name: "id", bytes });
    this.#identity = identity;
  }

  /** The port of the last run, or undefined. */
  async lastPort(): Promise<number | undefined> {
    const text = await this.#disk.readFile("port.read", `${this.path}/port`);
    const port = Number(text?.toString("utf8").trim());
    return Number.isInteger(port) && port > 0 && port < 65_536 ? port : undefined;
  }

  async rememberPort(port: number): Promise<void> {
    const bytes = Buffer.from(`${port}\n`);
    await replaceFile(this.#disk, "port", { directory: this.path, name: "port", bytes });
  }

  async release(): Promise<void> {
    await this.#lock.release();
  }
}

async function takeLock(disk: Disk, path: string): Promise<DirectoryLock> {
  try {
    await disk.makeDirectory("directory.make", path);
    const lock = await disk.lockDirectory("directory.lock", path);
    if (lock) return lock;
  } catch (error) {
    throw asUserError(path, error);
  }
  throw new UserError(`${path} is in use by another gfs program`);
}

async function readIdentity(disk: Disk, path: string): Promise<Identity | undefined> {
  const bytes = await disk.readFile("identity.read", `${path}/id`);
  if (!bytes) return undefined;
  const id = parseIdentity(bytes);
  if (!id) throw new UserError(`${path}/id is damaged: it is not the JSON that ${program} writes`);
  if (id.program !== program) {
    throw new UserError(`${path} belongs to ${id.program}, not to a chunk server`);
  }
  if (id.format !== directoryFormat) {
    const both = `has format ${id.format}, this release knows ${directoryFormat}`;
    throw new UserError(`${path} ${both}: use the release that wrote it`);
  }
  return { cluster: id.cluster, server: serverId(id.server) };
}

function parseIdentity(bytes: Buffer): Static<typeof IdShape> | undefined {
  try {
    const value: unknown = JSON.parse(bytes.toString("utf8"));
    return Check(IdShape, value) ? value : undefined;
  } catch {
    return undefined;
  }
}

async function refuseForeign(disk: Disk, path: string): Promise<void> {
  const names = (await disk.list("directory.list", path)) ?? [];
  const foreign = names.find((name) => !ownNames.has(name) && !ignoredNames.has(name));
  if (foreign !== undefined) {
    const found = `it has '${foreign}' and no chunk server's id file`;
    throw new UserError(`${path} is not a chunk server's directory: ${found}`);
  }
}

async function makeLayout(disk: Disk, path: string): Promise<void> {
  const made = new Set(await disk.list("directory.list-chunks", `${path}/chunks`));
  const wanted = Array.from({ length: 256 }, (_, i) => i.toString(16).padStart(2, "0"));
  const missing = wanted.filter((name) => !made.has(name));
  await Promise.all(
    missing.map((name) => disk.makeDirectory("directory.fan-out", `${path}/chunks/${name}`)),
  );
  await disk.makeDirectory("directory.staging", `${path}/staging`);
  await disk.makeDirectory("directory.index", `${path}/index`);
  // Also shows whether the directory can be written to, before anything depends on it.
  await disk.writeFile("directory.probe", `${path}/staging/probe`, Buffer.alloc(0));
  await disk.remove("directory.probed", `${path}/staging/probe`);
  if (missing.length > 0) await disk.syncDirectory("directory.sync-chunks", `${path}/chunks`);
  await disk.syncDirectory("directory.sync", path);
}

function asUserError(path: string, error: unknown): unknown {
  switch (errnoName(error)) {
    case "EACCES":
    case "EPERM":
      return new UserError(`${path} cannot be written to: permission denied`);
    case "EROFS":
      return new UserError(`${path} cannot be written to: the disk is read-only`);
    case "ENOSPC":
    case "EDQUOT":
      return new UserError(`${path} cannot be written to: the disk is full`);
    case "ENOTDIR":
    case "EEXIST":
      return new UserError(`${path} is not a directory`);
    default:
      return error;
  }
}
