import { UserError } from "../common/program.ts";
import { decodeCbor, encodeCbor } from "../protocol/codec.ts";
import { epoch, noIno, rootIno } from "../protocol/id.ts";
import { numberKey } from "./store/bytes.ts";
import type { Store } from "./store/store.ts";
import { encodeInode } from "./store/tables.ts";

/** Of the tables and records in the store; another number is not understood. */
const formatVersion = 2;
const formatKey = Buffer.from("format");

interface Format {
  /** Random, made once: every program and disk of the cluster has it. */
  cluster: string;
  chunkBytes: number;
}

/** What a new filesystem is made with. */
interface NewFilesystem {
  cluster: string;
  chunkBytes: number;
  replicas: number;
  nowNs: bigint;
  /** The root directory's owner. */
  uid: number;
  gid: number;
}

/**
 * The filesystem's constants, from the store; a new store is given `chunkBytes`, an identity and a
 * root directory.
 */
export function openFormat(store: Store, wanted: NewFilesystem): Format {
  const stored = store.get("meta", formatKey);
  if (!stored) return createFormat(store, wanted);
  const format = decodeCbor(stored).value as Format & { version: number };
  if (format.version !== formatVersion) {
    throw new UserError(
      `the master's data has format ${format.version}, this release knows ${formatVersion}: ` +
        "use the release that wrote it",
    );
  }
  return format;
}

function createFormat(store: Store, wanted: NewFilesystem): Format {
  const format = { cluster: wanted.cluster, chunkBytes: wanted.chunkBytes };
  const { nowNs, uid, gid, replicas } = wanted;
  const root = encodeInode({
    since: epoch(1),
    mode: 0o40755,
    uid,
    gid,
    nlink: 2,
    rdev: 0,
    size: 4096,
    chunks: 0,
    atime: nowNs,
    mtime: nowNs,
    ctime: nowNs,
    parent: noIno,
    replicas,
    xattrs: 0,
    target: Buffer.alloc(0),
  });
  store.write((writer) => {
    writer.put("meta", formatKey, encodeCbor({ version: formatVersion, ...format }));
    writer.put("inode", numberKey(rootIno), root);
  });
  return format;
}
