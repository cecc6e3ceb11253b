import t from "tap";
import { Cluster } from "../support/cluster.ts";
import { report, runCases } from "./suite.ts";

/** The POSIX cases through the device binding, on two mounts of one cluster: no case may fail. */

t.setTimeout(900_000);
const cluster = await Cluster.start(t, { servers: 2, mounts: 0 });
const first = await cluster.mount(["--binding", "device"]);
const second = await cluster.mount(["--binding", "device"]);
report(t, await runCases(first.directory, second.directory));
