import { type Address, formatAddress, parseAddress } from "../common/address.ts";
import { Backoff } from "../common/backoff.ts";
import type { Clock } from "../common/clock.ts";
import type { Log } from "../common/log.ts";
import { type CallOptions, Connection, Handlers, type Transport } from "./connection.ts";
import type { Method, RequestOf } from "./method.ts";
import { hello } from "./methods/session.ts";
import { serverInFlightMax } from "./limits.ts";
import { protocolVersion } from "./methods.ts";
import { StatusError } from "./status.ts";
import { connect } from "./websocket.ts";

export type Role = RequestOf<typeof hello>["role"];

/** Makes transports: WebSockets in life, something else in a test. */
export type Connect = (address: Address) => Promise<Transport>;

/** A peer that has connected and does not say who it is takes up a place for this long. */
const helloMs = 10_000;
/** How long a connection may take to come up before its server counts as unreachable. */
const connectMs = 5_000;

export function websocketConnect(clock: Clock): Connect {
  return (address) => connect({ address, clock, timeoutMs: connectMs });
}

interface DialOptions {
  address: Address;
  connect: Connect;
  role: Role;
  /** What this program is called in the other's logs. */
  name: string;
  /** The cluster this program belongs to, if it knows; "" accepts any. */
  cluster: string;
  handlers: Handlers;
  clock: Clock;
  log: Log;
}

/** Connects and says hello. Rejects with `unavailable`, `wrong-cluster` or `protocol`. */
export async function dial(
  options: DialOptions,
): Promise<{ connection: Connection; cluster: string }> {
  const transport = await options.connect(options.address);
  const connection = new Connection(transport, {
    handlers: options.handlers,
    clock: options.clock,
    log: options.log,
    peerName: formatAddress(options.address),
  });
  try {
    const reply = await connection.call(
      hello,
      {
        protocol: protocolVersion,
        role: options.role,
        name: options.name,
        ...(options.cluster ? { cluster: options.cluster } : {}),
      },
      { deadlineMs: connectMs },
    );
    return { connection, cluster: reply.cluster };
  } catch (error) {
    connection.close("hello failed");
    throw error;
  }
}

/**
 * The listening side's part of the handshake: answers `hello` and nothing else until it has come,
 * then what the peer's role allows.
 */
export function accept(
  transport: Transport,
  options: {
    peer: string;
    /** "" while this program belongs to none. */
    cluster: () => string;
    handlersFor: (role: Role) => Handlers;
    onReady: (connection: Connection, peer: { role: Role; name: string }) => void;
    clock: Clock;
    log: Log;
  },
): Connection {
  const late = options.clock.timer(helloMs, () => connection.close("you have not said hello"));
  const greeting = new Handlers().serve(hello, (params) => {
    if (params.protocol !== protocolVersion) {
      throw new StatusError(
        "protocol",
        `protocol ${params.protocol} is not ${protocolVersion}: use the same release of gfs`,
      );
    }
    const own = options.cluster();
    if (params.cluster !== undefined && params.cluster !== own) {
      throw new StatusError(
        "wrong-cluster",
        `this is cluster ${own || "(none yet)"}, you belong to cluster ${params.cluster}`,
      );
    }
    late.cancel();
    connection.peerName = `${params.role} ${params.name} (${options.peer})`;
    connection.setHandlers(options.handlersFor(params.role));
    if (params.role === "chunkd") connection.inFlightMax = serverInFlightMax;
    options.onReady(connection, { role: params.role, name: params.name });
    return { protocol: protocolVersion, cluster: own };
  });
  const connection = new Connection(transport, {
    handlers: greeting,
    clock: options.clock,
    log: options.log,
    peerName: options.peer,
  });
  connection.onClose(() => late.cancel());
  return connection;
}

/** As for `dial`; the cluster may become known later than the pool is made. */
type PoolOptions = Omit<DialOptions, "address" | "cluster"> & {
  cluster: string | (() => string);
};

/**
 * Connections to many servers by address: dialled when first needed, shared, and after a failure
 * refused at once for a while (with back-off), so that a caller can turn to another replica.
 */
export class Pool {
  readonly #options: PoolOptions;
  readonly #random: () => number;
  readonly #peers = new Map<string, Peer>();

  constructor(options: PoolOptions, random: () => number) {
    this.#options = options;
    this.#random = random;
  }

  /** As `Connection.callForPayload`, to the server at `address` (HOST:PORT). */
  async call<Request, Reply>(
    address: string,
    method: Method<Request, Reply>,
    params: Request,
    options: CallOptions = {},
  ): Promise<{ reply: Reply; payload: Buffer }> {
    const connection = await this.#connection(address);
    return connection.callForPayload(method, params, options);
  }

  close(): void {
    for (const peer of this.#peers.values()) {
      peer.connection?.close("closing");
    }
    this.#peers.clear();
  }

  #connection(address: string): Promise<Connection> {
    const peer = this.#peer(address);
    if (peer.connection && !peer.connection.closed) return Promise.resolve(peer.connection);
    if (peer.dialling) return peer.dialling;
    if (this.#options.clock.nowMs() < peer.notBeforeMs) {
      const message = `${address} could not be reached a moment ago`;
      return Promise.reject(new StatusError("unavailable", message));
    }
    const dialling = this.#dial(address, peer).finally(() => {
      peer.dialling = undefined;
    });
    peer.dialling = dialling;
    return dialling;
  }

  #peer(address: string): Peer {
    let peer = this.#peers.get(address);
    if (!peer) {
      const backoff = new Backoff({ firstMs: 50, mostMs: 2_000, random: this.#random });
      peer = { backoff, notBeforeMs: 0, connection: undefined, dialling: undefined };
      this.#peers.set(address, peer);
    }
    return peer;
  }

  async #dial(address: string, peer: Peer): Promise<Connection> {
    const { clock, cluster } = this.#options;
    const target = parseAddress(address);
    if (typeof target === "string") throw new StatusError("protocol", target);
    try {
      const known = typeof cluster === "string" ? cluster : cluster();
      const { connection } = await dial({ ...this.#options, cluster: known, address: target });
      peer.connection = connection;
      peer.backoff.reset();
      return connection;
    } catch (error) {
      peer.notBeforeMs = clock.nowMs() + peer.backoff.next();
      throw error;
    }
  }
}

interface Peer {
  backoff: Backoff;
  notBeforeMs: number;
  connection: Connection | undefined;
  dialling: Promise<Connection> | undefined;
}
