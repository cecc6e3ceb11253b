import { readFileSync } from "node:fs";

/** This release's version, from the package.json above the built sources. */
export function releaseVersion(): string {
  const path = new URL("../../../package.json", import.meta.url);
  const parsed: unknown = JSON.parse(readFileSync(path, "utf8"));
  return typeof parsed === "object" && parsed && "version" in parsed ? String(parsed.version) : "?";
}
