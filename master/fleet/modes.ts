import type { Clock } from "../../common/clock.ts";
import { parseAddress } from "../../common/address.ts";
import type { Log } from "../../common/log.ts";
import type { ServerId } from "../../protocol/id.ts";
import type { ReplyOf, RequestOf } from "../../protocol/method.ts";
import type {
  drain,
  drainProgress,
  forgetServer,
  maintenance,
  status,
} from "../../protocol/methods/admin.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Census } from "../chunks/census.ts";
import type { Committer } from "../namespace/committer.ts";
import { activeDuty, type ChunkServer, type Duty, type Fleet } from "./fleet.ts";

type DrainState = ReplyOf<typeof drainProgress>;
type Named = RequestOf<typeof drainProgress>;
type Shown = Pick<ReplyOf<typeof status>["servers"][number], "mode" | "left" | "maintenanceMs">;

/** Nobody repairs a server for longer; and a mistyped `--for` would leave chunks unrepaired. */
const maintenanceMsMax = 7 * 24 * 3_600_000;
/** Counting the chunks of every server takes milliseconds: questions in between share one. */
const countedMsMax = 500;

/**
 * A server that nothing depends on has so long to delete what it was told to. Then it is asked what
 * it holds: a write that was under way when it left a set may have made the replica anew.
 */
const askAgainMs = 10_000;

/**
 * What operators want of chunk servers: drain, maintenance, forget. It is on the disk before it is
 * answered, and kept across restarts of the master; repair does what follows from it.
 */
export class ServerModes {
  readonly #fleet: Fleet;
  readonly #committer: Committer;
  readonly #census: Census;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #askAtMs = new Map<ServerId, number>();
  #counted: { atMs: number; chunks: Map<ServerId, number> } | undefined;
  /** Called when something has changed that repair should know of. */
  onChange: () => void = () => undefined;

  constructor(options: {
    fleet: Fleet;
    committer: Committer;
    census: Census;
    clock: Clock;
    log: Log;
  }) {
    this.#fleet = options.fleet;
    this.#committer = options.committer;
    this.#census = options.census;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  async drain({ server: name, force }: RequestOf<typeof drain>): Promise<DrainState> {
    const server = this.#named(name);
    const why = this.#cannotLeave(server);
    if (why !== undefined && (!force || this.#takers(server).length === 0)) {
      const advice = force ? "" : ", or --force to keep as many copies as there are servers";
      throw new StatusError("busy", `${why}: add a server${advice}`);
    }
    await this.#set(server, { mode: "draining", forced: force, untilMs: 0 });
    return this.#stateOf(server);
  }

  async undrain({ server: name }: Named): Promise<DrainState> {
    const server = this.#named(name);
    const { mode } = server.duty;
    if (mode !== "draining" && mode !== "drained") {
      throw new StatusError("busy", `${title(server)} is not being drained`);
    }
    await this.#set(server, activeDuty);
    return this.#stateOf(server);
  }

  progress({ server }: Named): DrainState {
    return this.#stateOf(this.#named(server));
  }

  async maintain({ server: name, forMs }: RequestOf<typeof maintenance>): Promise<DrainState> {
    const server = this.#named(name);
    const { mode } = server.duty;
    if (forMs !== undefined && mode !== "active" && mode !== "maintenance") {
      throw new StatusError("busy", `${title(server)} is ${mode}: gfs drain --undo it first`);
    }
    if (forMs === undefined && mode !== "maintenance") {
      throw new StatusError("busy", `${title(server)} is not in maintenance`);
    }
    if (forMs !== undefined && forMs > maintenanceMsMax) {
      throw new StatusError("invalid", "maintenance is for 7 days at most: drain the server");
    }
    const duty = { mode: "maintenance", forced: false, untilMs: this.#nowMs() } as const;
    const until = duty.untilMs + (forMs ?? 0);
    await this.#set(server, forMs === undefined ? activeDuty : { ...duty, untilMs: until });
    return this.#stateOf(server);
  }

  async forget({ server: name }: Named): Promise<ReplyOf<typeof forgetServer>> {
    const server = this.#named(name);
    const { id, address } = server;
    if (server.connection) {
      throw new StatusError("busy", `${title(server)} runs: stop it first`);
    }
    if (server.duty.mode !== "drained" && this.#fleet.stateOf(server) !== "dead") {
      throw new StatusError("busy", `${title(server)} may come back: wait until it is dead`);
    }
    this.#counted = undefined;
    const left = this.#left(id);
    if (left > 0) {
      throw new StatusError("busy", `${left} chunks depend on ${title(server)}: drain it first`);
    }
    await this.#committer.run((txn) => this.#fleet.forget(txn, id));
    await this.#committer.synced();
    this.#log.event("server.forgotten", { server: id, address });
    this.onChange();
    return { server: id, address };
  }

  /** What the passing of time and of chunks changes: maintenance ends, drains are complete. */
  async advance(): Promise<void> {
    for (const server of this.#fleet.all()) {
      const { duty } = server;
      if (duty.mode === "maintenance" && this.#nowMs() >= duty.untilMs) {
        await this.#set(server, activeDuty);
      } else if (duty.mode === "draining" && this.#isEmpty(server)) {
        await this.#set(server, { ...duty, mode: "drained" });
      } else if (duty.mode === "draining" && this.#left(server.id) === 0) {
        this.#askAgain(server);
      } else if (duty.mode === "drained" && this.#left(server.id) > 0) {
        // A copy on write that was under way when the rest was counted.
        await this.#set(server, { ...duty, mode: "draining" });
      }
    }
  }

  /** Has a server register again, and so tell all that it has; what is not wanted goes. */
  #askAgain({ id, connection }: ChunkServer): void {
    const nowMs = this.#clock.nowMs();
    const atMs = this.#askAtMs.get(id) ?? nowMs + askAgainMs;
    this.#askAtMs.set(id, nowMs < atMs ? atMs : nowMs + askAgainMs);
    if (nowMs >= atMs) connection?.close("tell again what is here");
  }

  /** For `gfs status`. */
  shown(server: ChunkServer): Shown {
    const mode = this.#modeOf(server);
    if (mode === "active" || mode === "drained") return { mode };
    if (mode !== "maintenance") return { mode, left: this.#left(server.id) };
    return { mode, maintenanceMs: Math.max(0, server.duty.untilMs - this.#nowMs()) };
  }

  #modeOf(server: ChunkServer): Shown["mode"] {
    const { mode } = server.duty;
    return mode === "active" && this.#fleet.isLeaving(server) ? "emptying" : mode;
  }

  #nowMs(): number {
    return Number(this.#clock.wallNs() / 1_000_000n);
  }

  #named(name: string): ChunkServer {
    const all = this.#fleet.all();
    const found = all.find(({ id, address }) => String(id) === name || address === name);
    if (found) return found;
    const known = all.map(({ id, address }) => `${id} (${address})`).slice(0, 10);
    const isName = /^\d+$/.test(name) || typeof parseAddress(name) !== "string";
    const what = isName ? `no chunk server ${name}` : `'${name}' is no server's id or HOST:PORT`;
    throw new StatusError("not-found", `${what}; there are ${known.join(", ") || "none"}`);
  }

  async #set(server: ChunkServer, duty: Duty): Promise<void> {
    await this.#committer.run((txn) => this.#fleet.setDuty(txn, server, duty));
    await this.#committer.synced();
    this.#askAtMs.delete(server.id);
    this.#log.event("server.mode", { server: server.id, ...duty });
    this.onChange();
  }

  #stateOf(server: ChunkServer): DrainState {
    const { id, address } = server;
    const mode = this.#modeOf(server);
    const left = this.#left(id);
    const isWaiting = mode === "draining" || mode === "emptying";
    const stuck = isWaiting ? this.#stuck(server, left) : undefined;
    return { server: id, address, mode, left, ...(stuck === undefined ? {} : { stuck }) };
  }

  #stuck(server: ChunkServer, left: number): string | undefined {
    if (left > 0) return server.duty.forced ? undefined : this.#cannotLeave(server);
    const { chunks } = server.usage;
    // It is deleting them, or they are of a time that the master's metadata does not reach to.
    return chunks === 0 ? undefined : `${title(server)} still holds ${chunks} chunks in vain`;
  }

  #left(id: ServerId): number {
    const nowMs = this.#clock.nowMs();
    if (!this.#counted || nowMs > this.#counted.atMs + countedMsMax) {
      this.#counted = { atMs: nowMs, chunks: this.#census.dependents() };
    }
    return this.#counted.chunks.get(id) ?? 0;
  }

  /** Nothing depends on it, and it says that it holds nothing (or cannot be asked). */
  #isEmpty({ id, usage }: ChunkServer): boolean {
    const holds = this.#fleet.isUp(id) && usage.chunks > 0;
    return !holds && this.#left(id) === 0;
  }

  /** Servers that can take what a server gives up. */
  #takers(server: ChunkServer): ChunkServer[] {
    return this.#fleet.up().filter((other) => {
      return other !== server && other.duty.mode === "active" && !this.#fleet.isLeaving(other);
    });
  }

  /** The reason why not all of the server's chunks can have their goals elsewhere. */
  #cannotLeave(server: ChunkServer): string | undefined {
    const takers = this.#takers(server);
    let goal = 0;
    for (const [, facts] of this.#census.classes()) {
      if (facts.servers.includes(server.id)) goal = Math.max(goal, facts.goal);
    }
    if (goal > takers.length) {
      return `${title(server)} has chunks that want ${goal} copies, and ${takers.length} other \
servers can have them`;
    }
    const freeBytes = takers.reduce((sum, { usage }) => sum + usage.freeBytes, 0);
    if (server.usage.usedBytes <= freeBytes) return undefined;
    const [held, free] = [server.usage.usedBytes, freeBytes].map(
      (n) => `${(n / 1e9).toFixed(1)} GB`,
    );
    return `${title(server)} holds ${held}, and ${free} are free on the others`;
  }
}

const title = ({ id, address }: ChunkServer): string => `server ${id} (${address})`;
