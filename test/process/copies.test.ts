import t from "tap";
import { Cluster } from "../support/cluster.ts";

/** Copies of a tree with everything that files have, by the programs that people copy with. */

const cluster = await Cluster.start(t, { chunkMiB: 1 });
const slow = { timeoutMs: 480_000 };

// Hard and symbolic links, holes, special files, odd names, owners, modes, times in ns, attributes
// and ACLs; and a part of the system's own files.
await cluster.ok(
  `mkdir -p $W/tree/sub/deep $W/tree/empty; cd $W/tree
  cp -a /etc/skel /etc/init.d /usr/share/perl5/Debconf . 2>/dev/null || true
  for i in $(seq 60); do head -c $((i * 977)) /dev/urandom >sub/f$i; done
  head -c 3500000 /dev/urandom >sub/deep/large; truncate -s 9M sparse
  printf data | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
  ln sub/f1 hard; ln sub/f1 sub/deep/harder; ln -s sub/f2 soft; ln -s /nowhere dangling
  mkfifo fifo; mknod null c 1 3; mknod disk b 8 1
  python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
  printf 1 >"$(printf 'bad\\377name')"; printf 2 >'new
line'; printf 3 >"$(head -c 255 /dev/zero | tr '\\0' n)"
  chown 1000:1001 sub/f3; chown -h 12:34 soft; chmod 4755 sub/f4; chmod 2775 sub; chmod 1777 empty
  chmod 0000 sub/f5; touch -d '1969-07-20 20:17:40.123456789 UTC' sub/f6
  touch -h -d '2001-02-03 04:05:06.987654321 UTC' dangling
  setfattr -n user.colour -v blue sub/f7; setfattr -n user.empty sub/f7
  setfattr -n trusted.mark -v 0x00ff00 sub; setfattr -n user.dir -v yes sub/deep
  setfacl -m u:1000:rw,g:1001:r,m::rw sub/f8; setfacl -d -m u:1000:rwx,o::- sub/deep
  touch -d '2010-10-10 10:10:10.101010101 UTC' sub sub/deep empty`,
  slow,
);

const differences = (copy: string) =>
  cluster.ok(`rsync -naHAXc --delete --itemize-changes $W/tree/ ${copy}/ && echo done`, slow);

t.test("cp -a copies everything", async (t) => {
  await cluster.ok("cp -a $W/tree $M/cp", slow);
  t.equal(await differences("$M/cp"), "done");
});

t.test("rsync -aHAX copies everything, and a second time nothing", async (t) => {
  await cluster.ok("rsync -aHAX $W/tree/ $M/rsync/", slow);
  t.equal(await differences("$M/rsync"), "done");
  const again = await cluster.ok(
    "rsync -aHAX --itemize-changes $W/tree/ $M/rsync/ && echo done",
    slow,
  );
  t.equal(again, "done");
});

t.test("tar packs and unpacks everything, into the mount and out of it", async (t) => {
  const options = "--xattrs --xattrs-include='*' --acls --numeric-owner";
  // tar does not pack sockets.
  await cluster.ok("rm $W/tree/socket $M/cp/socket");
  await cluster.ok(
    `mkdir $M/tar $W/tar; tar -C $W/tree ${options} -cf - . | tar -C $M/tar ${options} -xpf -
    tar -C $M/tar ${options} -cf - . | tar -C $W/tar ${options} -xpf -`,
    slow,
  );
  t.equal(await differences("$M/tar"), "done");
  t.equal(await differences("$W/tar"), "done");
});

t.test("a restored snapshot is the same, and so is the tree it was taken of", async (t) => {
  await cluster.ok("mkdir $M/cp/.snapshots/first; cp -a $M/cp/.snapshots/first $M/restored", slow);
  t.equal(await differences("$M/restored"), "done");
  t.equal(await differences("$M/cp"), "done");
});
