import { pino } from "pino";
import { LineWriter } from "./os/line-writer.ts";
import { UserError } from "./program.ts";

/** Events, not prose: a dotted name and its facts. Levels: debug, info, warn, error. */
export interface Log {
  debug(event: string, facts?: Record<string, unknown>): void;
  event(event: string, facts?: Record<string, unknown>): void;
  warn(event: string, facts?: Record<string, unknown>): void;
  error(event: string, facts?: Record<string, unknown>): void;
}

const standardError = 2;
const levels = ["debug", "info", "warn", "error", "silent"];

/**
 * JSON lines on a descriptor: standard error, which a daemon's parent points to its log file,
 * unless told otherwise. Lines that cannot be written are dropped; how many is said by
 * `log.dropped`, after the first line that can be written again. `level` is what GFS_LOG says; a
 * `UserError` if it is none.
 */
export function createLog(program: string, level: string, descriptor = standardError): Log {
  expectLogLevel(level);
  const writer = new LineWriter(descriptor);
  let dropped = 0;
  const write = (line: string): void => {
    if (!writer.write(line)) {
      dropped += 1;
      return;
    }
    if (dropped === 0) return;
    const lines = dropped;
    dropped = 0; // Before the line that says so, which may be dropped as well.
    logger.error({ lines }, "log.dropped");
    if (dropped > 0) dropped = lines;
  };
  const logger = pino(
    {
      base: { program, pid: process.pid },
      level,
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { error: pino.stdSerializers.err },
    },
    { write },
  );
  return {
    debug: (event, facts) => logger.debug(facts ?? {}, event),
    event: (event, facts) => logger.info(facts ?? {}, event),
    warn: (event, facts) => logger.warn(facts ?? {}, event),
    error: (event, facts) => logger.error(facts ?? {}, event),
  };
}

/** Throws a `UserError` if GFS_LOG, which says `level`, is no level. */
export function expectLogLevel(level: string): void {
  if (levels.includes(level)) return;
  throw new UserError(`GFS_LOG is '${level}': it can be ${levels.join(", ")}`);
}

/** Says nothing; for tests. */
export const silentLog: Log = {
  debug: () => undefined,
  event: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
