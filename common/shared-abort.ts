import { setMaxListeners } from "node:events";

/**
 * An AbortController whose signal any number may wait for at a time. Of others Node says from the
 * 11th listener on that there may be a leak, as a line between those of the log.
 */
export function sharedAbort(): AbortController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return controller;
}
