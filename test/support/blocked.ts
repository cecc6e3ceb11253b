import { readFileSync } from "node:fs";

/** Numbers of system calls, which differ from machine to machine. */
const numbers = { x64: { fcntl: 72, flock: 73 }, arm64: { fcntl: 25, flock: 32 } };

/** True while a process is in a lock call: it waits there, as nothing else in it takes long. */
export function waitsIn(pid: number, call: "fcntl" | "flock"): boolean {
  const number = numbers[process.arch === "arm64" ? "arm64" : "x64"][call];
  return readFileSync(`/proc/${pid}/syscall`, "utf8").startsWith(`${number} `);
}
