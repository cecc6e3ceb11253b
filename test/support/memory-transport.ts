import type { Transport } from "../../protocol/connection.ts";

/** Two transports joined in memory: what one sends, the other gets in a later turn, in order. */
export function transportPair(): [MemoryTransport, MemoryTransport] {
  const one = new MemoryTransport();
  const two = new MemoryTransport();
  one.peer = two;
  two.peer = one;
  return [one, two];
}

export class MemoryTransport implements Transport {
  peer: MemoryTransport | undefined;
  /** What `queuedBytes` answers, to play a peer that does not read. */
  queued = 0;
  /** Holds messages back until released, to play a slow network. */
  held: (readonly Buffer[])[] | undefined;
  closedFor: string | undefined;
  #message: (parts: readonly Buffer[]) => void = () => undefined;
  #close: (reason: string) => void = () => undefined;

  send(parts: readonly Buffer[], onSent: () => void = () => undefined): void {
    onSent();
    const copies = parts.map((part) => Buffer.from(part));
    if (this.held) this.held.push(copies);
    else this.#pass(copies);
  }

  release(): void {
    const messages = this.held ?? [];
    this.held = undefined;
    for (const parts of messages) this.#pass(parts);
  }

  #pass(parts: readonly Buffer[]): void {
    setImmediate(() => {
      if (this.peer && this.peer.closedFor === undefined) this.peer.#message(parts);
    });
  }

  /** Plays a message from the network that no connection has made. */
  inject(...parts: Buffer[]): void {
    this.#message(parts);
  }

  queuedBytes(): number {
    return this.queued;
  }

  close(reason: string): void {
    this.#end(reason);
    setImmediate(() => {
      if (this.peer) this.peer.#end(reason);
    });
  }

  #end(reason: string): void {
    if (this.closedFor !== undefined) return;
    this.closedFor = reason;
    this.#close(reason);
  }

  onMessage(listener: (parts: readonly Buffer[]) => void): void {
    this.#message = listener;
  }

  onClose(listener: (reason: string) => void): void {
    this.#close = listener;
  }
}
