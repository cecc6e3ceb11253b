import cliProgress from "cli-progress";

/** Tells how far a command is: a bar that is redrawn on a terminal, lines elsewhere. */
export interface Progress {
  /** What is being done now. */
  step(text: string): void;
  /** One of `total` is done; `text` says what, in a line that stays. */
  done(text: string): void;
  /** Idempotent: takes the bar away. */
  end(): void;
}

export function createProgress(total: number, stream = process.stdout): Progress {
  return stream.isTTY ? barProgress(total, stream) : lineProgress(stream);
}

function lineProgress(stream: NodeJS.WriteStream): Progress {
  const line = (text: string): void => void stream.write(`${text}\n`);
  return { step: () => undefined, done: line, end: () => undefined };
}

function newBar(
  stream: NodeJS.WriteStream,
  format = "{bar} {value}/{total}  {step}",
): cliProgress.SingleBar {
  return new cliProgress.SingleBar({
    format,
    barsize: 20,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    clearOnComplete: true,
    // Its own handler of ^C would keep the program running.
    gracefulExit: false,
    linewrap: false,
    stream,
  });
}

function barProgress(total: number, stream: NodeJS.WriteStream): Progress {
  const bar = newBar(stream);
  // The bar puts the cursor back to where it began: lines come when it is gone.
  const lines: string[] = [];
  let ended = false;
  let value = 0;
  bar.start(total, 0, { step: "" });
  return {
    step: (text) => bar.update({ step: text }),
    done: (text) => {
      value = Math.min(value + 1, total);
      bar.update(value);
      lines.push(text);
    },
    end: () => {
      if (ended) return;
      ended = true;
      bar.stop();
      stream.write(lines.map((line) => `${line}\n`).join(""));
    },
  };
}

/** How much of something is left while it gets less: a bar on a terminal, else nothing. */
interface Countdown {
  show(left: number, step: string): void;
  /** Idempotent: takes the bar away. */
  end(): void;
}

export function createCountdown(total: number, stream = process.stdout): Countdown {
  if (!stream.isTTY || total === 0) return { show: () => undefined, end: () => undefined };
  const bar = newBar(stream);
  bar.start(total, 0, { step: "" });
  return {
    show: (left, step) => {
      // What was not known at the start is no step backwards.
      bar.setTotal(Math.max(total, left));
      bar.update(Math.max(0, total - left), { step });
    },
    end: () => bar.stop(),
  };
}

/** What has been done so far of nobody knows how much: one line on a terminal, else nothing. */
interface Tally {
  show(text: string): void;
  /** Idempotent: takes the line away. */
  end(): void;
}

export function createTally(stream = process.stdout): Tally {
  if (!stream.isTTY) return { show: () => undefined, end: () => undefined };
  const bar = newBar(stream, "{step}");
  bar.start(0, 0, { step: "" });
  return { show: (step) => bar.update({ step }), end: () => bar.stop() };
}
