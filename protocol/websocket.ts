import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocket, WebSocketServer } from "ws";
import type { Address } from "../common/address.ts";
import { formatAddress } from "../common/address.ts";
import type { Clock, Timer } from "../common/clock.ts";
import type { Transport } from "./connection.ts";
import { keepAliveMs, messageBytesMax } from "./limits.ts";
import { StatusError } from "./status.ts";

/** The one place that knows `ws`: transports out of WebSockets, listening and dialling. */

/** Payloads up to this size are copied behind their envelope: cheaper than a frame of their own. */
const joinBytesMax = 16 * 1024;

/** Peers of one program at a time: each may have 64 MiB queued to it, and takes a descriptor. */
const connectionsMax = 4_096;

/** RFC 6455 wants clients to mask; a mask of zeros is one, and leaves the bytes as they are. */
const generateMask = (mask: Buffer): void => {
  mask.fill(0);
};

class WebSocketTransport implements Transport {
  readonly #socket: WebSocket;
  readonly #clock: Clock;
  #ping: Timer | undefined;
  #heard = true;
  #silentTicks = 0;
  #reason = "connection closed";

  constructor(socket: WebSocket, clock: Clock) {
    this.#socket = socket;
    this.#clock = clock;
    socket.binaryType = "fragments";
    socket.on("error", (error) => {
      this.#reason = error.message;
    });
    socket.on("pong", () => {
      this.#heard = true;
    });
    socket.on("ping", () => {
      this.#heard = true;
    });
    this.#keepAlive();
  }

  send(parts: readonly Buffer[], onSent: () => void = ignored): void {
    const [envelope, payload] = parts;
    if (this.#socket.readyState !== WebSocket.OPEN || !envelope) return onSent();
    if (!payload) return this.#socket.send(envelope, onSent);
    if (payload.length <= joinBytesMax) {
      return this.#socket.send(Buffer.concat([envelope, payload]), onSent);
    }
    this.#socket.send(envelope, { fin: false }, ignored);
    this.#socket.send(payload, { fin: true }, onSent);
  }

  queuedBytes(): number {
    return this.#socket.bufferedAmount;
  }

  close(reason: string): void {
    this.#reason = reason;
    this.#ping?.cancel();
    // 123 bytes are what a close frame has room for (RFC 6455 §5.5).
    this.#socket.close(1000, Buffer.from(reason).subarray(0, 123).toString("latin1").slice(0, 60));
    const impatience = this.#clock.timer(keepAliveMs, () => this.#socket.terminate());
    this.#socket.once("close", () => impatience.cancel());
  }

  onMessage(listener: (parts: readonly Buffer[]) => void): void {
    this.#socket.on("message", (data, isBinary) => {
      this.#heard = true;
      if (!isBinary || !Array.isArray(data)) {
        this.close("text is not spoken here");
        return;
      }
      listener(data);
    });
  }

  onClose(listener: (reason: string) => void): void {
    this.#socket.on("close", (_code, reason) => {
      this.#ping?.cancel();
      listener(reason.length > 0 ? reason.toString() : this.#reason);
    });
  }

  /** Pings the peer; one that is silent for three pings in a row, 15 to 20 s, is gone. */
  #keepAlive(): void {
    this.#ping = this.#clock.timer(keepAliveMs, () => {
      if (this.#heard) this.#silentTicks = 0;
      else this.#silentTicks += 1;
      this.#heard = false;
      if (this.#silentTicks >= 3) {
        this.#reason = "no sign of life";
        this.#socket.terminate();
        return;
      }
      if (this.#socket.readyState === WebSocket.OPEN)
        this.#socket.ping(undefined, undefined, ignored);
      this.#keepAlive();
    });
  }
}

/** A failed send shows as the connection's end, which everybody who waits is told of. */
function ignored(): void {
  // Nothing to do here.
}

export interface Listener {
  readonly address: Address;
  close(): Promise<void>;
}

/**
 * Listens for WebSockets; `onTransport` gets each. Other HTTP requests are answered by `onHttp`.
 * Rejects with `unavailable` and the reason if the address cannot be had.
 */
export async function listen(options: {
  address: Address;
  clock: Clock;
  onTransport: (transport: Transport, peer: string) => void;
  onHttp?: (request: IncomingMessage, response: ServerResponse) => void;
}): Promise<Listener> {
  const { host, port } = options.address;
  const server = createServer((request, response) => {
    if (options.onHttp) return options.onHttp(request, response);
    response.writeHead(426, { "content-type": "text/plain" }).end("gfs speaks WebSocket here\n");
  });
  server.on("clientError", (_error, socket) => socket.destroy());
  const sockets = new WebSocketServer({
    server,
    maxPayload: messageBytesMax,
    perMessageDeflate: false,
    skipUTF8Validation: true,
  });
  sockets.on("connection", (socket, request) => {
    if (sockets.clients.size > connectionsMax) {
      socket.on("error", ignored);
      socket.close(1013, "too many connections"); // RFC 6455 §7.4, "try again later".
      return;
    }
    const peer = `${request.socket.remoteAddress ?? "?"}:${request.socket.remotePort ?? 0}`;
    options.onTransport(new WebSocketTransport(socket, options.clock), peer);
  });
  sockets.on("error", ignored); // The server's own error event says it too.
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause: NodeJS.ErrnoException) =>
      reject(new StatusError("unavailable", listenFailure(options.address, cause), { cause })),
    );
    server.listen({ host, port }, resolve);
  });
  const bound = server.address() as AddressInfo;
  return {
    address: { host, port: bound.port },
    close: () => closeServer(server, sockets),
  };
}

function listenFailure(address: Address, error: NodeJS.ErrnoException): string {
  const where = formatAddress(address);
  if (error.code === "EADDRINUSE") return `cannot listen on ${where}: something else does already`;
  return `cannot listen on ${where}: ${error.message}`;
}

function closeServer(server: Server, sockets: WebSocketServer): Promise<void> {
  for (const socket of sockets.clients) socket.terminate();
  sockets.close();
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}

/** Connects to a listener, or rejects with `unavailable` and the reason. */
export function connect(options: {
  address: Address;
  clock: Clock;
  timeoutMs: number;
}): Promise<Transport> {
  const where = formatAddress(options.address);
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${where}/`, {
      perMessageDeflate: false,
      maxPayload: messageBytesMax,
      handshakeTimeout: options.timeoutMs,
      skipUTF8Validation: true,
      generateMask,
    });
    const fail = (cause: Error): void => {
      reject(
        new StatusError("unavailable", `cannot reach ${where}: ${connectReason(cause)}`, { cause }),
      );
    };
    socket.once("error", fail);
    socket.once("open", () => {
      socket.off("error", fail);
      resolve(new WebSocketTransport(socket, options.clock));
    });
  });
}

function connectReason(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "ECONNREFUSED":
      return "nothing listens there";
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return "no such host";
    default:
      return error.message || String(error.code);
  }
}
