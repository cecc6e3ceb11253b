import { type Address, formatAddress } from "../../common/address.ts";
import type { Transport } from "../../protocol/connection.ts";
import type { Connect } from "../../protocol/dial.ts";
import type { Listen } from "../../chunkd/server.ts";
import { decodeCbor } from "../../protocol/codec.ts";
import { keepAliveMs } from "../../protocol/limits.ts";
import { methodsByCode } from "../../protocol/methods.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Life, SimNode, World } from "./world.ts";

/**
 * A network of packets, and above it connections like TCP's: each message is one packet with a
 * number; a packet may be lost (and sent again after a while), late, overtaken or doubled, and the
 * receiving end restores the order. What an application can see of all that is delay, or the end of
 * the connection, which each side notices in its own time.
 */

/** How bad the network is. Probabilities are per packet. */
interface Weather {
  drop: number;
  /** Late by up to a few seconds: also after a new connection has taken the old one's place. */
  delay: number;
  duplicate: number;
  /** The connection breaks, and this packet with all after it is lost. */
  break: number;
}

export const fairWeather: Weather = { drop: 0, delay: 0, duplicate: 0, break: 0 };

/** How long a dial is tried (protocol/dial.ts has the same). */
const connectMs = 5_000;
/** A packet that gets no answer is sent again after this, then doubled each time. */
const retransmitMs = 200;
const retransmitMsMax = 6_000;
const latencyMs = 0.3;

export class Network {
  weather: Weather = fairWeather;
  /** Notes every message that arrives: for reading, not for comparing logs. */
  traced = false;
  readonly #world: World;
  readonly #listeners = new Map<string, { life: Life; onTransport: OnTransport }>();
  /** Directions in which nothing gets through, as "from>to". */
  readonly #blocked = new Set<string>();
  readonly #links = new Set<Link>();
  #linksMade = 0;

  constructor(world: World) {
    this.#world = world;
  }

  get world(): World {
    return this.#world;
  }

  block(from: SimNode, to: SimNode): void {
    this.#blocked.add(`${from.name}>${to.name}`);
  }

  unblock(from: SimNode, to: SimNode): void {
    this.#blocked.delete(`${from.name}>${to.name}`);
  }

  isBlocked(from: SimNode, to: SimNode): boolean {
    return this.#blocked.has(`${from.name}>${to.name}`);
  }

  /** Connections that are up at either end. */
  get connections(): number {
    return this.#links.size;
  }

  forget(link: Link): void {
    this.#links.delete(link);
  }

  listenFor(life: Life): Listen {
    return ({ address, onTransport }) => {
      const where = formatAddress(address);
      const mine = { life, onTransport };
      this.#listeners.set(where, mine);
      const close = (): void => {
        if (this.#listeners.get(where) === mine) this.#listeners.delete(where);
      };
      life.onEnd(close);
      return Promise.resolve({ address, close: () => Promise.resolve(close()) });
    };
  }

  connectFor(life: Life): Connect {
    return (address) => this.#connect(life, address);
  }

  #connect(life: Life, address: Address): Promise<Transport> {
    const where = formatAddress(address);
    const failed = (why: string): StatusError => {
      return new StatusError("unavailable", `cannot reach ${where}: ${why}`);
    };
    return new Promise((resolve, reject) => {
      const arrive = (): void => {
        const target = this.#listeners.get(where);
        const unreachable =
          target &&
          (target.life.node.stopped ||
            this.isBlocked(life.node, target.life.node) ||
            this.isBlocked(target.life.node, life.node));
        if (unreachable) {
          life.after(connectMs, () => reject(failed("timed out")));
        } else if (!target) {
          life.after(latencyMs, () => reject(failed("nothing listens there")));
        } else {
          const [here, there] = this.#link(life, target.life);
          target.life.after(0, () => target.onTransport(there, life.name));
          life.after(latencyMs, () => {
            if (here.closed) reject(failed("connection reset"));
            else resolve(here);
          });
        }
      };
      life.after(this.#world.random.about(latencyMs), arrive);
    });
  }

  #link(from: Life, to: Life): [End, End] {
    this.#linksMade += 1;
    const link = new Link(this, this.#linksMade, from, to);
    this.#links.add(link);
    return link.ends;
  }
}

type OnTransport = (transport: Transport, peer: string) => void;

/** One connection: two ends, and what is on its way between them. */
class Link {
  readonly network: Network;
  readonly name: string;
  readonly ends: [End, End];
  /** Nothing more gets through, and the ends will notice. */
  broken = false;

  constructor(network: Network, number: number, from: Life, to: Life) {
    this.network = network;
    this.name = `link ${number} ${from.name}-${to.name}`;
    this.ends = [new End(this, from), new End(this, to)];
    this.ends[0].peer = this.ends[1];
    this.ends[1].peer = this.ends[0];
  }

  /** The path is gone. Each end hears of it soon, or only by its keep-alive. */
  break(): void {
    if (this.broken) return;
    this.broken = true;
    const { world } = this.network;
    world.note(`${this.name} breaks`);
    for (const end of this.ends) {
      if (world.random.chance(0.3)) continue;
      end.life.after(world.random.about(300), () => end.end("connection reset"));
    }
  }

  ended(): void {
    if (this.ends.every((end) => end.closed || end.life.ended)) this.network.forget(this);
  }
}

interface Fin {
  readonly fin: string;
}

type Packet = readonly Buffer[] | Fin;

class End implements Transport {
  readonly life: Life;
  readonly #link: Link;
  peer!: End;
  closed = false;
  #closing = false;
  #sent = 0;
  #queued = 0;
  #expected = 1;
  readonly #early = new Map<number, Packet>();
  #message: (parts: readonly Buffer[]) => void = () => undefined;
  #onClose: (reason: string) => void = () => undefined;
  #silentTicks = 0;

  constructor(link: Link, life: Life) {
    this.#link = link;
    this.life = life;
    life.onEnd(() => this.#processEnded());
    this.#keepAlive();
  }

  onMessage(listener: (parts: readonly Buffer[]) => void): void {
    this.#message = listener;
  }

  onClose(listener: (reason: string) => void): void {
    this.#onClose = listener;
  }

  queuedBytes(): number {
    return this.#queued;
  }

  send(parts: readonly Buffer[]): void {
    if (this.closed || this.#closing || this.life.ended) return;
    const { network } = this.#link;
    const { world, weather } = network;
    if (weather.break > 0 && world.random.chance(weather.break)) {
      world.count("connection broken");
      this.#link.break();
    }
    this.#put(parts);
  }

  /** The application closes: what it sent before gets there, then the peer hears of it. */
  close(reason: string): void {
    if (this.closed || this.#closing) return;
    this.#closing = true;
    this.#put({ fin: reason });
    this.life.after(keepAliveMs, () => this.end(reason));
  }

  /** This end is down for good. */
  end(reason: string): void {
    if (this.closed) return;
    this.closed = true;
    this.#early.clear();
    this.#link.ended();
    if (!this.life.ended) this.#onClose(reason);
  }

  /** The kernel closes what a process that ended had open; after power loss there is no kernel. */
  #processEnded(): void {
    if (!this.#closing && !this.closed && !this.#link.broken) this.#put({ fin: "peer ended" });
    this.#closing = true;
    this.#link.ended();
  }

  #put(packet: Packet): void {
    this.#sent += 1;
    const bytes = isFin(packet) ? 0 : packet.reduce((sum, part) => sum + part.length, 0);
    this.#queued += bytes;
    const number = this.#sent;
    const arrived = (): void => {
      this.#queued -= bytes;
      this.peer.#arrive(number, packet);
    };
    this.#transmit(arrived, retransmitMs);
    const { world, weather } = this.#link.network;
    if (weather.duplicate > 0 && world.random.chance(weather.duplicate)) {
      world.count("packet duplicated");
      world.after(world.random.about(50), undefined, () => this.peer.#arrive(number, packet));
    }
  }

  /** Packets are the network's: they travel on when their sender has ended. */
  #transmit(arrived: () => void, againMs: number): void {
    const { world, weather, isBlocked } = this.#path();
    if (this.#link.broken) return;
    const lost = isBlocked || (weather.drop > 0 && world.random.chance(weather.drop));
    if (lost) {
      if (!isBlocked) world.count("packet dropped");
      const later = Math.min(againMs * 2, retransmitMsMax);
      if (!this.closed) world.after(againMs, undefined, () => this.#transmit(arrived, later));
      return;
    }
    let ms = 0.05 + world.random.about(latencyMs);
    if (weather.delay > 0 && world.random.chance(weather.delay)) {
      world.count("packet delayed");
      ms += world.random.about(1_500);
    }
    world.after(ms, undefined, () => {
      if (!this.#link.broken) arrived();
    });
  }

  #path(): { world: World; weather: Weather; isBlocked: boolean } {
    const { network } = this.#link;
    const isBlocked = network.isBlocked(this.life.node, this.peer.life.node);
    return { world: network.world, weather: network.weather, isBlocked };
  }

  #arrive(number: number, packet: Packet): void {
    if (this.closed) return this.#reset();
    if (this.life.ended || number < this.#expected) return;
    if (number > this.#expected) this.#link.network.world.count("packet overtaken");
    this.#early.set(number, packet);
    for (;;) {
      const next = this.#early.get(this.#expected);
      if (!next) return;
      this.#early.delete(this.#expected);
      this.#expected += 1;
      // In the receiver's own time: it may be stopped. It then finds all of it in its socket.
      this.life.after(0, () => this.#deliver(next));
    }
  }

  /** Somebody sends to what is not there any more (RST). */
  #reset(): void {
    const { peer } = this;
    if (peer.closed || this.#path().isBlocked) return;
    peer.life.after(latencyMs, () => peer.end("connection reset"));
  }

  #deliver(packet: Packet): void {
    if (this.closed) return;
    const { network } = this.#link;
    if (network.traced) {
      const path = `${this.peer.life.name} > ${this.life.name}`;
      network.world.note(`  ${path} ${isFin(packet) ? `close: ${packet.fin}` : describe(packet)}`);
    }
    if (!isFin(packet)) return this.#message(packet.map((part) => Buffer.from(part)));
    if (!this.#closing) this.#put({ fin: packet.fin });
    this.#closing = true;
    this.end(packet.fin);
  }

  /** As protocol/websocket.ts: pings, and the end after three in a row without an answer. */
  #keepAlive(): void {
    this.life.after(keepAliveMs, () => {
      if (this.closed) return;
      const { life: there } = this.peer;
      const { network, broken } = this.#link;
      const silent =
        broken ||
        this.peer.closed ||
        there.ended ||
        there.node.stopped ||
        network.isBlocked(this.life.node, there.node) ||
        network.isBlocked(there.node, this.life.node);
      this.#silentTicks = silent ? this.#silentTicks + 1 : 0;
      if (this.#silentTicks < 4) return this.#keepAlive();
      this.end("no sign of life");
    });
  }
}

const kinds = ["request", "reply", "failure", "cancel"];

/** One message, in words. */
function describe([envelope, payload]: readonly Buffer[]): string {
  const [kind, id, what, ...rest] = decodeCbor(envelope ?? Buffer.alloc(0)).value as unknown[];
  const method = kind === 0 ? methodsByCode.get(what as number)?.name : undefined;
  const facts = kind === 0 ? [rest[1]] : [what, ...rest];
  const shown = (_key: string, value: unknown): unknown =>
    typeof value === "bigint" ? String(value) : value;
  const bytes = payload ? ` +${payload.length} bytes` : "";
  const text = JSON.stringify(facts, shown).slice(0, 300);
  return `${kinds[kind as number]} ${String(id)} ${method ?? ""} ${text}${bytes}`;
}

function isFin(packet: Packet): packet is Fin {
  return "fin" in packet;
}
