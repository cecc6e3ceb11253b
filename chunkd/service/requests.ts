import type { Handlers, RequestContext, WithPayload } from "../../protocol/connection.ts";
import type { Method } from "../../protocol/method.ts";
import { StatusError } from "../../protocol/status.ts";

/** Counts the requests under way, so that a graceful stop can wait for them and refuse new ones. */
export class Requests {
  #underWay = 0;
  #stopping = false;
  #idle: (() => void) | undefined;

  get underWay(): number {
    return this.#underWay;
  }

  /** As `Handlers.serve`, counted. The handler starts synchronously. */
  serve<Request, Reply>(
    handlers: Handlers,
    method: Method<Request, Reply>,
    handler: (params: Request, context: RequestContext) => Promise<Reply | WithPayload<Reply>>,
  ): void {
    handlers.serve(method, async (params, context) => {
      if (this.#stopping) throw new StatusError("unavailable", "this chunk server is stopping");
      this.#underWay += 1;
      try {
        return await handler(params, context);
      } finally {
        this.#underWay -= 1;
        if (this.#underWay === 0) this.#idle?.();
      }
    });
  }

  /** Refuses new requests; resolves when those under way have been answered. */
  async stop(): Promise<void> {
    this.#stopping = true;
    if (this.#underWay === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
    });
  }
}
