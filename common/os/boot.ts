import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";

const bootIdPath = "/proc/sys/kernel/random/boot_id";
/** Of an id: 48 bits, so that it is a safe integer. */
const digits = 12;

/**
 * Another number each time this machine's memory has been lost: the end of a process alone leaves
 * the page cache, and the number. Where the kernel does not tell, it is another for each process.
 */
export function systemBoot(): number {
  return Number.parseInt(kernelBootId() ?? randomBytes(digits / 2).toString("hex"), 16);
}

function kernelBootId(): string | undefined {
  try {
    const id = readFileSync(bootIdPath, "latin1").replaceAll("-", "").slice(0, digits);
    return /^[0-9a-f]{12}$/.test(id) ? id : undefined;
  } catch {
    return undefined;
  }
}
