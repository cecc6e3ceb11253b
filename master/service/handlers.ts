import { type Connection, Handlers, type RequestContext } from "../../protocol/connection.ts";
import type { Role } from "../../protocol/dial.ts";
import type { ChunkHandle, Epoch, Ino } from "../../protocol/id.ts";
import { sessionLeaseMs } from "../../protocol/limits.ts";
import type { Sequence } from "../../protocol/method.ts";
import * as admin from "../../protocol/methods/admin.ts";
import * as chunk from "../../protocol/methods/chunk.ts";
import * as fleet from "../../protocol/methods/fleet.ts";
import * as lock from "../../protocol/methods/lock.ts";
import * as namespace from "../../protocol/methods/namespace.ts";
import * as session from "../../protocol/methods/session.ts";
import { StatusError } from "../../protocol/status.ts";
import type { Master } from "../master.ts";
import { noteAccess } from "../namespace/ops/attributes.ts";
import { commitWrite } from "../namespace/ops/contents.ts";
import { makeDirectory, makeNode, makeSymlink } from "../namespace/ops/create.ts";
import { makeLink, removeDirectory, unlink } from "../namespace/ops/link.ts";
import { findRun } from "../namespace/ops/ranges.ts";
import { countReplicas, setReplicas } from "../namespace/ops/replicas.ts";
import { rename } from "../namespace/ops/rename.ts";
import { dropSnapshot, renameSnapshot } from "../namespace/ops/snapshot.ts";
import { removeXattr, setXattr } from "../namespace/ops/xattrs.ts";
import type { Txn } from "../namespace/txn.ts";
import type { Mutate } from "./files.ts";
import { lease } from "./leases.ts";
import type { Session, Sessions } from "./sessions.ts";

/** What the master answers, by the role of the one who asks. */
export function handlersFor(master: Master, role: Role): Handlers {
  switch (role) {
    case "mount":
    case "admin": {
      const handlers = new Handlers();
      serveSession(handlers, master);
      serveReads(handlers, master);
      serveNamespace(handlers, master);
      serveAttributes(handlers, master);
      serveReplicas(handlers, master);
      serveFiles(handlers, master);
      serveLocks(handlers, master);
      serveSnapshots(handlers, master);
      if (role === "admin") serveServers(handlers, master);
      return handlers;
    }
    case "chunkd":
      return fleetHandlers(master);
    case "master":
      return new Handlers();
  }
}

/**
 * Runs a request's transaction under its session's key, forgetting what the mount has acknowledged.
 */
function mutateFor(master: Master, connection: Connection, request: Sequence): Mutate {
  const { sessions, committer } = master;
  const asker = sessions.of(connection);
  return <T>(work: (txn: Txn) => T) =>
    committer.run(
      (txn) => {
        const result = work(txn);
        sessions.forgetReplies(txn, asker, request.acked);
        leaseChanged(sessions, asker, txn);
        return result;
      },
      { session: asker.id, seq: request.seq },
    );
}

/** Runs a request that is one transaction; `work` returns what the reply is made of. */
function mutateIn(master: Master) {
  return <T>(
    { connection }: RequestContext,
    request: Sequence,
    work: (txn: Txn) => T,
  ): Promise<T> => mutateFor(master, connection, request)(work);
}

/**
 * The mount knows what it has changed itself. The leases begin with the transaction: the next one
 * in its group may change the same.
 */
function leaseChanged(sessions: Sessions, asker: Session, { touched }: Txn): void {
  for (const ino of touched.inos) sessions.lease(asker, ino, lease.attributes);
  for (const { parent } of touched.entries) sessions.lease(asker, parent, lease.names);
}

/** `at`, if it is the epoch of a live snapshot. */
function liveEpoch(master: Master, at: Epoch | undefined): Epoch | undefined {
  return master.snapshots.requireEpoch(at);
}

function serveSession(handlers: Handlers, master: Master): void {
  const { sessions } = master;
  handlers
    .serve(session.openSession, async (params, { connection }) => {
      const opened = await sessions.open(params, connection);
      return {
        session: opened.session.id,
        resumed: opened.resumed,
        leaseMs: sessionLeaseMs,
        chunkBytes: master.chunkBytes,
      };
    })
    .serve(session.renewSession, (_params, { connection }) => {
      sessions.of(connection);
      return {};
    })
    .serve(session.closeSession, async (_params, { connection }) => {
      await sessions.end(sessions.of(connection));
      return {};
    });
}

function serveReads(handlers: Handlers, master: Master): void {
  const { reader, sessions } = master;
  const at = (epoch: Epoch | undefined): Epoch | undefined => liveEpoch(master, epoch);
  /** Leases for what is read now; the past does not change. */
  const told = (
    { connection }: RequestContext,
    params: { at?: Epoch | undefined },
    leased: readonly (readonly [ino: Ino, bits: number])[],
  ): void => {
    if (params.at !== undefined) return;
    const asker = sessions.find(connection);
    for (const [ino, bits] of leased) sessions.lease(asker, ino, bits);
  };
  handlers
    .serve(namespace.lookup, (params, context) => {
      // Also that there is no such name is something to be told of.
      told(context, params, [[params.parent, lease.names]]);
      const attr = reader.lookup(params.parent, params.name, at(params.at));
      told(context, params, [[attr.ino, lease.attributes]]);
      return { attr };
    })
    .serve(namespace.walk, (params) => ({
      attrs: reader.walk(params.from, params.names, at(params.at)),
    }))
    .serve(namespace.getattr, (params, context) => {
      const attr = reader.getattr(params.ino, at(params.at));
      told(context, params, [[params.ino, lease.attributes]]);
      return { attr };
    })
    .serve(namespace.readlink, (params) => ({ target: reader.readlink(params.ino, at(params.at)) }))
    .serve(namespace.readdir, (params, context) => {
      const { ino, after, limit } = params;
      const isTop = master.committer.snapshots.ofDirectory(ino).some((s) => s.epoch === params.at);
      const page = reader.readdir(ino, at(params.at), { after, limit, isTop });
      told(context, params, [
        [ino, lease.names | lease.contents],
        ...page.entries.map(({ attr }) => [attr.ino, lease.attributes] as const),
      ]);
      return page;
    })
    .serve(namespace.getxattr, (params, context) => {
      told(context, params, [[params.ino, lease.attributes]]);
      return { value: reader.getxattr(params.ino, params.name, at(params.at)) };
    })
    .serve(namespace.listxattr, (params, context) => {
      told(context, params, [[params.ino, lease.attributes]]);
      return { names: reader.listxattr(params.ino, at(params.at)) };
    })
    .serve(namespace.statfs, () => master.status.statfs())
    .serve(chunk.locate, async (params) => ({
      locations: await master.chunks.locate(params.ino, at(params.at), params),
    }))
    .serve(namespace.chunkRun, (params) =>
      findRun(master.committer.store, { ...params, at: at(params.at) }),
    )
    .serve(admin.pathOf, (params) => ({ path: reader.pathOf(params.ino) }))
    .serve(admin.status, () => master.status.report())
    .serve(admin.listServers, () => master.status.servers())
    .serve(admin.fsckChunks, (params) => master.fsck.chunks(params))
    .serve(admin.fsckFiles, (params) => master.fsck.files(params));
}

function serveNamespace(handlers: Handlers, master: Master): void {
  const { sessions, files } = master;
  const isOpen = (ino: Ino): boolean => sessions.isOpen(ino);
  const mutate = mutateIn(master);
  const closed = ({ connection }: RequestContext, params: { closed?: Ino | undefined }): void => {
    if (params.closed !== undefined) sessions.closed(sessions.of(connection), params.closed);
  };
  /** The reply to a request that changes an entry of `parent`. */
  const changed = (txn: Txn, { parent }: { parent: Ino }, ino: Ino) => ({
    attr: files.attr(txn, ino),
    parent: files.attr(txn, parent),
  });

  handlers
    .serve(namespace.mkdir, (params, context) =>
      mutate(context, params, (txn) => changed(txn, params, makeDirectory(txn, params).ino)),
    )
    .serve(namespace.mknod, (params, context) =>
      mutate(context, params, (txn) => changed(txn, params, makeNode(txn, params).ino)),
    )
    .serve(namespace.symlink, (params, context) =>
      mutate(context, params, (txn) => changed(txn, params, makeSymlink(txn, params).ino)),
    )
    .serve(namespace.link, (params, context) =>
      mutate(context, params, (txn) => {
        makeLink(txn, params);
        return changed(txn, params, params.ino);
      }),
    )
    .serve(namespace.unlink, (params, context) => {
      closed(context, params);
      return mutate(context, params, (txn) =>
        changed(txn, params, unlink(txn, { ...params, isOpen })),
      );
    })
    .serve(namespace.rmdir, (params, context) =>
      mutate(context, params, (txn) => changed(txn, params, removeDirectory(txn, params))),
    )
    .serve(namespace.rename, (params, context) => {
      closed(context, params);
      return mutate(context, params, (txn) => {
        const { moved, replaced } = rename(txn, { ...params, isOpen });
        // Where both names are of one inode nothing has changed, and nothing is leased for that.
        for (const ino of [moved, params.parent, params.newParent]) {
          sessions.lease(sessions.of(context.connection), ino, lease.attributes);
        }
        return {
          moved: files.attr(txn, moved),
          ...(replaced === undefined ? {} : { replaced: files.attr(txn, replaced) }),
          parent: files.attr(txn, params.parent),
          newParent: files.attr(txn, params.newParent),
        };
      });
    });
}

/** What changes of an inode besides its contents and names. */
function serveAttributes(handlers: Handlers, master: Master): void {
  const { sessions, files, committer } = master;
  const mutate = mutateIn(master);
  handlers
    .serve(namespace.setattr, (params, { connection }) =>
      files.setattr(params, sessions.of(connection), mutateFor(master, connection, params)),
    )
    .serve(namespace.setxattr, (params, context) =>
      mutate(context, params, (txn) => {
        setXattr(txn, params);
        return { attr: files.attr(txn, params.ino) };
      }),
    )
    .serve(namespace.removexattr, (params, context) =>
      mutate(context, params, (txn) => {
        removeXattr(txn, params);
        sessions.lease(sessions.of(context.connection), params.ino, lease.attributes);
        return { attr: files.attr(txn, params.ino) };
      }),
    )
    .serve(namespace.access, async ({ accesses }, { connection }) => {
      sessions.of(connection);
      await committer.run((txn) => {
        for (const access of accesses) noteAccess(txn, access);
      });
      return {};
    });
}

/** How many replicas are wanted. */
function serveReplicas(handlers: Handlers, master: Master): void {
  const { committer, chunks, fleetService } = master;
  const mutate = mutateIn(master);
  const live = (handle: ChunkHandle): number =>
    chunks.sets.present(handle).filter((id) => master.fleet.isUp(id)).length;
  handlers
    .serve(namespace.setReplicas, (params, context) =>
      mutate(context, params, (txn) => {
        const step = setReplicas(txn, params);
        if (step.chunks > 0) txn.afterCommit(() => fleetService.onChange());
        return step;
      }),
    )
    .serve(namespace.getReplicas, ({ items }) => countReplicas(committer.store, items, live));
}

function serveFiles(handlers: Handlers, master: Master): void {
  const { sessions, files } = master;
  const mutate = mutateIn(master);
  handlers
    .serve(namespace.create, (params, { connection }) =>
      files.create(params, sessions.of(connection), mutateFor(master, connection, params)),
    )
    .serve(namespace.tmpfile, (params, { connection }) =>
      files.createTmpfile(params, sessions.of(connection), mutateFor(master, connection, params)),
    )
    .serve(namespace.open, (params, { connection }) => {
      liveEpoch(master, params.at);
      return files.open(params, sessions.of(connection), mutateFor(master, connection, params));
    })
    .serve(namespace.release, async (params, { connection }) => {
      await sessions.released(sessions.of(connection), params.inos);
      return {};
    })
    .serve(namespace.commit, async (params, context) => {
      const reply = await mutate(context, params, (txn) => {
        commitWrite(txn, params);
        return { attr: files.attr(txn, params.ino) };
      });
      const chunks = params.written.map(({ index }) => index);
      master.freshWrites.note(params.ino, sessions.of(context.connection).id, chunks);
      return reply;
    })
    .serve(namespace.sync, async ({ ino }, { connection }) => {
      const { id } = sessions.of(connection);
      const unsynced = ino === undefined ? [] : master.freshWrites.ofOthers(ino, id);
      await master.committer.synced();
      return { unsynced };
    })
    .serve(namespace.allocate, (params, { connection }) =>
      files.allocate(params, sessions.of(connection), mutateFor(master, connection, params)),
    )
    .serve(namespace.copyRange, (params, { connection }) => {
      liveEpoch(master, params.at);
      const asker = sessions.of(connection);
      return files.copyRange(params, asker, mutateFor(master, connection, params));
    })
    .serve(namespace.takeTail, ({ ino }, { connection }) =>
      files.takeTail(ino, sessions.of(connection)),
    )
    .serve(chunk.grant, (params, { connection }) => {
      const asker = sessions.of(connection);
      // A file that was opened again to be written is not told of: the master has it open.
      asker.writes.add(params.ino);
      return files.grant(params, asker.id);
    })
    .serve(chunk.reportReplica, async (params, { connection }) => {
      sessions.of(connection);
      // Who read where the chunk was a moment ago finds it gone: that is no fault.
      const isMember = master.chunks.sets.find(params.handle)?.servers.includes(params.server);
      return isMember ? master.fleetService.replicaBad(params.server, params) : {};
    });
}

function serveLocks(handlers: Handlers, { sessions, locks }: Master): void {
  handlers
    .serve(lock.setLock, (params, { connection }) => locks.set(params, sessions.of(connection)))
    .serve(lock.getLock, (params, { connection }) => locks.get(params, sessions.of(connection)))
    .serve(lock.cancelLock, (params, { connection }) =>
      locks.cancel(params, sessions.of(connection)),
    )
    .serve(lock.reclaimLocks, (params, { connection }) =>
      locks.reclaim(params, sessions.of(connection)),
    );
}

function serveSnapshots(handlers: Handlers, master: Master): void {
  const { snapshots, committer } = master;
  const mutate = mutateIn(master);
  handlers
    .serve(admin.createSnapshot, (params, { connection }) =>
      snapshots.create(params, mutateFor(master, connection, params)),
    )
    .serve(admin.listSnapshots, (params) => snapshots.list(params))
    .serve(admin.deleteSnapshot, async (params, context) => {
      await mutate(context, params, (txn) => {
        dropSnapshot(txn, params.dir, params.name);
        committer.endGroup();
      });
      await committer.synced();
      master.sweepSoon();
      return {};
    })
    .serve(admin.renameSnapshot, async (params, context) => {
      await mutate(context, params, (txn) => {
        renameSnapshot(txn, params.dir, Buffer.from(params.name), params.newName);
        committer.endGroup();
      });
      await committer.synced();
      return {};
    });
}

/** What an operator does with chunk servers. */
function serveServers(handlers: Handlers, { modes, repair }: Master): void {
  /** Before all chunks have been counted, nobody knows what depends on a server. */
  const counted = <Params, Reply>(work: (params: Params) => Promise<Reply> | Reply) => {
    return async (params: Params): Promise<Reply> => {
      await repair.counts();
      return work(params);
    };
  };
  handlers
    .serve(
      admin.drain,
      counted((params) => modes.drain(params)),
    )
    .serve(
      admin.undrain,
      counted((params) => modes.undrain(params)),
    )
    .serve(
      admin.drainProgress,
      counted((params) => modes.progress(params)),
    )
    .serve(
      admin.maintenance,
      counted((params) => modes.maintain(params)),
    )
    .serve(
      admin.forgetServer,
      counted((params) => modes.forget(params)),
    );
}

function fleetHandlers(master: Master): Handlers {
  const { fleetService, fsck } = master;
  return new Handlers()
    .serve(fleet.register, (params, { connection }) => {
      if (connection.closed) throw new StatusError("disconnected", "gone before it registered");
      return fleetService.register(params, connection);
    })
    .serve(fleet.inventory, (params, { connection }) => fleetService.inventory(params, connection))
    .serve(fleet.heartbeat, (params, { connection }) => fleetService.heartbeat(params, connection))
    .serve(fleet.holdings, (params, { connection }) => fleetService.holdings(params, connection))
    .serve(fleet.writeFailed, (params, { connection }) =>
      fleetService.writeFailed(params, connection),
    )
    .serve(fleet.replicaBad, (params, { connection }) => {
      const server = fleetService.serverIdOf(connection);
      fsck.note(server, params);
      return fleetService.replicaBad(server, params);
    });
}
