import { statSync } from "node:fs";
import { createServer, type Server } from "node:net";

/**
 * One program per data directory. The lock is a listening socket in Linux's abstract namespace,
 * named after the directory's device and inode: the kernel drops it with the process, however that
 * ends, so nothing is left to clean up. Elsewhere there is no such namespace, and no lock.
 */
export async function lockDirectory(path: string): Promise<Server | "in use" | "unsupported"> {
  if (process.platform !== "linux") return "unsupported";
  const { dev, ino } = statSync(path);
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve("in use");
      else reject(error);
    });
    server.listen(`\0gfs-data-${dev}-${ino}`, () => {
      server.unref();
      resolve(server);
    });
  });
}
