import { Type } from "typebox";
import { method } from "../method.ts";
import { Count, InoShape, List, Opt, SessionShape, Text } from "../shapes.ts";

/** Both directions: the first request on every connection, sent by the side that dialled. */
export const hello = method({
  code: 1,
  name: "hello",
  request: {
    protocol: Count,
    role: Type.Union([
      Type.Literal("mount"),
      Type.Literal("chunkd"),
      Type.Literal("admin"),
      Type.Literal("master"),
    ]),
    /** Absent from one that does not belong to a cluster yet. */
    cluster: Opt(Text),
    /** For logs and `gfs status`: host, pid. */
    name: Text,
  },
  reply: { protocol: Count, cluster: Text },
});

/**
 * mount → master. Opens a session, or goes on with one after a lost connection or a restart of
 * either side. `secret` is made by the mount, so that only it can resume. `opens`: the inodes it
 * has open.
 */
export const openSession = method({
  code: 10,
  name: "session.open",
  request: {
    /**
     * Absent: not a mount, but a command that changes something. It caches and holds back nothing.
     */
    mountpoint: Opt(Text),
    secret: Text,
    resume: Opt(SessionShape),
    opens: List(InoShape, 1_000_000),
  },
  /** `resumed` false after asking to resume: the old session is gone, caches must be dropped. */
  reply: { session: SessionShape, resumed: Type.Boolean(), leaseMs: Count, chunkBytes: Count },
});

/** mount → master, when there was nothing else to say. */
export const renewSession = method({ code: 11, name: "session.renew", request: {}, reply: {} });

/** mount → master, on a clean unmount: releases everything at once. */
export const closeSession = method({ code: 12, name: "session.close", request: {}, reply: {} });

/** master → mount, before a snapshot: send what is unwritten; the answer means it is committed. */
export const flushSession = method({ code: 13, name: "session.flush", request: {}, reply: {} });
