import type { Theme } from "./case.ts";
import { acls } from "./cases/acls.ts";
import { attributes } from "./cases/attributes.ts";
import { copying } from "./cases/copying.ts";
import { data } from "./cases/data.ts";
import { directories } from "./cases/directories.ts";
import { links } from "./cases/links.ts";
import { locks } from "./cases/locks.ts";
import { memory } from "./cases/memory.ts";
import { mounts } from "./cases/mounts.ts";
import { names } from "./cases/names.ts";
import { opening } from "./cases/opening.ts";
import { permissions } from "./cases/permissions.ts";
import { renaming } from "./cases/renaming.ts";
import { space } from "./cases/space.ts";
import { special } from "./cases/special.ts";
import { times } from "./cases/times.ts";
import { tmpfile } from "./cases/tmpfile.ts";
import { unlinked } from "./cases/unlinked.ts";
import { whole } from "./cases/whole.ts";
import { xattrs } from "./cases/xattrs.ts";

/** What is promised of every directory of a POSIX filesystem on Linux. */
export const themes: readonly Theme[] = [
  names,
  attributes,
  permissions,
  times,
  opening,
  tmpfile,
  data,
  space,
  copying,
  memory,
  locks,
  xattrs,
  acls,
  directories,
  renaming,
  links,
  unlinked,
  special,
  whole,
  mounts,
];
