/**
 * Files that only grow, for a journal. Every step has a site name as its first argument, for
 * example `file.append("journal.append", record)`, so that a test can fail or crash exactly one
 * (see disk.ts). Failures throw what the system says (`error.code` is an errno name).
 */

export interface JournalFile {
  /** Bytes in the file: where the next `append` goes. */
  readonly bytes: number;
  /**
   * write(2): the bytes are in the kernel's page cache when it returns, and survive the end of this
   * process. When it throws, the file is as it was.
   */
  append(site: string, bytes: Buffer): void;
  /** fdatasync(2) on another thread: what was appended before the call is on the disk. */
  sync(site: string): Promise<void>;
  /** As `sync`, while everything waits. */
  syncNow(site: string): void;
  /** Idempotent; waits for a `sync` that is under way. */
  close(): Promise<void>;
}

/** The files of one directory, by name. */
export interface JournalDirectory {
  /** Names in the directory, in no order. */
  list(site: string): string[];
  read(site: string, name: string): Buffer;
  /**
   * A new file that starts with `head`. When it resolves, file and name are on the disk; a crash
   * before leaves no file of that name.
   */
  create(site: string, name: string, head: Buffer): Promise<JournalFile>;
  /** Cuts a file and puts what is left of it on the disk. */
  cut(site: string, name: string, bytes: number): void;
  /** The file is gone; its name may come back with the next loss of power. */
  remove(site: string, name: string): Promise<void>;
}
