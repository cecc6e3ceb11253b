/**
 * Files come in through this interface. Every step has a site name as its first argument, for
 * example `disk.rename("clone.publish", staging, target)`, so that a test can fail, delay or crash
 * exactly one step of one operation. Failures reject with what the system says (`error.code` is an
 * errno name).
 */

export interface OpenFile {
  /**
   * Fills `into` from `position` on; resolves with the bytes read, fewer only at the file's end.
   */
  read(site: string, into: Buffer, position: number): Promise<number>;
  /** Writes all of `bytes` at `position`. */
  write(site: string, bytes: Buffer, position: number): Promise<void>;
  truncate(site: string, bytes: number): Promise<void>;
  /** fdatasync(2): data, and what of the metadata is needed to read it, are on the disk. */
  datasync(site: string): Promise<void>;
  size(site: string): Promise<number>;
  /** Idempotent. */
  close(): Promise<void>;
}

/** `create` opens for reading and writing and makes the file if there is none. */
export type OpenMode = "read" | "write" | "create";

export interface DiskSpace {
  totalBytes: number;
  /** What unprivileged programs may still take. */
  freeBytes: number;
}

/** Held until released or until the process ends, however it ends. */
export interface DirectoryLock {
  release(): Promise<void>;
}

export interface Disk {
  open(site: string, path: string, mode: OpenMode): Promise<OpenFile>;
  /** The whole of a small file, or undefined if there is none. */
  readFile(site: string, path: string): Promise<Buffer | undefined>;
  writeFile(site: string, path: string, bytes: Buffer): Promise<void>;
  /** mkdir -p. */
  makeDirectory(site: string, path: string): Promise<void>;
  /** Names in a directory, in no order; undefined if there is no such directory. */
  list(site: string, path: string): Promise<string[] | undefined>;
  rename(site: string, source: string, target: string): Promise<void>;
  /** Resolves with false if there was no such file. */
  remove(site: string, path: string): Promise<boolean>;
  /** Shares the blocks of `source` with a new file, or resolves with false if the disk cannot. */
  reflink(site: string, source: string, target: string): Promise<boolean>;
  /** fsync(2) of a directory: names made, changed or removed in it are on the disk. */
  syncDirectory(site: string, path: string): Promise<void>;
  space(site: string, path: string): Promise<DiskSpace>;
  /** Undefined if another holder, in this or another process, has the lock. */
  lockDirectory(site: string, path: string): Promise<DirectoryLock | undefined>;
}

/** The errno's name of a failed step, or undefined for any other error. */
export function errnoName(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** Replaces a small file as a whole: a crash leaves the old or the new one, never a part. */
export async function replaceFile(
  disk: Disk,
  site: string,
  { directory, name, bytes }: { directory: string; name: string; bytes: Buffer },
): Promise<void> {
  const staging = `${directory}/${name}.new`;
  await disk.writeFile(`${site}.write`, staging, bytes);
  const file = await disk.open(`${site}.open`, staging, "write");
  try {
    await file.datasync(`${site}.sync`);
  } finally {
    await file.close();
  }
  await disk.rename(`${site}.publish`, staging, `${directory}/${name}`);
  await disk.syncDirectory(`${site}.publish-dir`, directory);
}
