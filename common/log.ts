import { pino } from "pino";

/** Events, not prose: a dotted name and its facts. Levels: debug, info, warn, error. */
export interface Log {
  debug(event: string, facts?: Record<string, unknown>): void;
  event(event: string, facts?: Record<string, unknown>): void;
  warn(event: string, facts?: Record<string, unknown>): void;
  error(event: string, facts?: Record<string, unknown>): void;
}

/** JSON lines on standard error, which a daemon's parent points to its log file. */
export function createLog(program: string, level: string): Log {
  const logger = pino(
    {
      base: { program, pid: process.pid },
      level,
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { error: pino.stdSerializers.err },
    },
    pino.destination({ dest: 2, sync: true }),
  );
  return {
    debug: (event, facts) => logger.debug(facts ?? {}, event),
    event: (event, facts) => logger.info(facts ?? {}, event),
    warn: (event, facts) => logger.warn(facts ?? {}, event),
    error: (event, facts) => logger.error(facts ?? {}, event),
  };
}

/** Says nothing; for tests. */
export const silentLog: Log = {
  debug: () => undefined,
  event: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
