/** The tests of the master once more, on the store that it lives on. */
process.env["GFS_TEST_STORE"] = "journal";
await import("./committer.test.ts");
await import("./leases.test.ts");
await import("./namespace-model.test.ts");
await import("./sets.test.ts");
