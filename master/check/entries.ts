import { rootIno } from "../../protocol/id.ts";
import { nameBytesMax } from "../../protocol/limits.ts";
import { snapshotsName } from "../namespace/ops/common.ts";
import { numberFromKey } from "../store/bytes.ts";
import { decodeEntry } from "../store/tables.ts";
import { addHardLinks } from "./inodes.ts";
import { kind, type Scan } from "./scan.ts";
import { SparseNumbers } from "./sparse.ts";

/** Entries against the inodes that they name and are in; then inodes against their entries. */

export function checkEntries(scan: Scan): void {
  for (const { key, value } of scan.table("entry", 9)) {
    const parent = numberFromKey(key, 0);
    const name = key.subarray(8);
    const what = `entry ${JSON.stringify(name.toString())} of directory ${parent}`;
    const entry = scan.decoded(what, () => decodeEntry(value));
    if (!entry) continue;
    scan.since(what, entry);
    checkName(scan, what, name);
    const own = scan.kinds.get(parent) % 8;
    if (own !== kind.directory && own !== kind.damaged) {
      scan.fault(`${what}: there is no such directory`);
    }
    checkChild(scan, what, parent, entry);
  }
}

function checkName(scan: Scan, what: string, name: Buffer): void {
  const text = name.toString("latin1");
  const wrong = name.length > nameBytesMax || name.includes(0) || name.includes(0x2f);
  if (wrong || text === "." || text === ".." || name.equals(snapshotsName)) {
    scan.fault(`${what}: no entry may be called so`);
  }
}

function checkChild(
  scan: Scan,
  what: string,
  parent: number,
  { ino, type }: { ino: number; type: number },
): void {
  const found = scan.kinds.get(ino);
  if (found === 0) return scan.fault(`${what}: inode ${ino} does not exist`);
  if (found % 8 === kind.damaged) return;
  scan.entries.add(ino, 1);
  const known = Math.floor(found / 8);
  if (known !== 0 && known !== type >>> 12) {
    scan.fault(`${what}: says type ${type.toString(8)}, inode ${ino} is another`);
  }
  const isDirectory = found % 8 === kind.directory;
  if (isDirectory) scan.subdirectories.add(parent, 1);
  if (!isDirectory && scan.nlinks.get(ino) > 1) return addHardLinks(scan, ino, parent, -1);
  if (scan.parents.get(ino) !== parent) {
    scan.fault(`${what}: inode ${ino} says its parent is ${scan.parents.get(ino)}`);
  }
}

/** After entries, orphans and trash are known. */
export function checkReachable(scan: Scan): void {
  for (const [ino, found] of scan.kinds.entries()) {
    if (found % 8 === kind.damaged) continue;
    const what = `inode ${ino}`;
    const entries = scan.entries.get(ino);
    const nlink = scan.nlinks.get(ino);
    if (found % 8 === kind.directory) checkDirectory(scan, ino, { entries, nlink });
    else if (entries !== nlink)
      scan.fault(`${what}: counts ${nlink} links, has ${entries} entries`);
    if (entries === 0 && ino !== rootIno && scan.unlinked.get(ino) === 0) {
      scan.fault(`${what}: no entry leads to it, and it is neither an orphan nor in the trash`);
    }
  }
  for (const [key, left] of scan.hardLinks) {
    const [ino, parent] = key.split(":");
    const more = left > 0 ? `${left} fewer` : `${-left} more`;
    scan.fault(`inode ${ino}: directory ${parent} has ${more} entries of it than it counts`);
  }
  checkNoCycles(scan);
}

function checkDirectory(
  scan: Scan,
  ino: number,
  { entries, nlink }: { entries: number; nlink: number },
): void {
  const what = `inode ${ino}`;
  const expected = ino === rootIno || nlink === 0 ? 0 : 1;
  if (entries !== expected) {
    scan.fault(`${what}: a directory with ${entries} entries, it should have ${expected}`);
  }
  const links = nlink === 0 ? 0 : 2 + scan.subdirectories.get(ino);
  if (nlink !== links) scan.fault(`${what}: counts ${nlink} links, its directories make ${links}`);
}

const walk = { unknown: 0, under: 1, done: 2 } as const;

/** Every directory leads up to the root. Each is walked over once. */
function checkNoCycles(scan: Scan): void {
  const state = new SparseNumbers("u32");
  state.set(rootIno, walk.done);
  for (const [start, found] of scan.kinds.entries()) {
    if (found % 8 !== kind.directory) continue;
    const line: number[] = [];
    let ino = start;
    while (ino !== 0 && state.get(ino) === walk.unknown) {
      state.set(ino, walk.under);
      line.push(ino);
      ino = scan.parents.get(ino);
    }
    if (state.get(ino) === walk.under) scan.fault(`inode ${ino}: a directory inside of itself`);
    for (const passed of line) state.set(passed, walk.done);
  }
}
