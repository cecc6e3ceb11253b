import { type Status, StatusError } from "../../protocol/status.ts";

/** What an operation came to: "ok", or the status it failed with. Bugs are thrown on. */
export async function outcome(work: Promise<unknown> | (() => unknown)): Promise<Status | "ok"> {
  try {
    await (typeof work === "function" ? work() : work);
    return "ok";
  } catch (error) {
    if (error instanceof StatusError) return error.status;
    throw error;
  }
}
