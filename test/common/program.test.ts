import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import t from "tap";

/** The exit code of a program whose main does this, and what it prints. */
function run(body: string): { code: number | null; err: string } {
  const program = fileURLToPath(new URL("../../common/program.js", import.meta.url));
  const script = `import { runMain, UserError } from ${JSON.stringify(program)};
    await runMain("test", async () => { ${body} });`;
  const args = ["--input-type=module", "--eval", script];
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: "utf8" });
  return { code: status, err: stderr };
}

t.test("a user's mistake is 1, or what the command says, and one line", (t) => {
  t.same(run('throw new UserError("no such thing");'), { code: 1, err: "test: no such thing\n" });
  t.same(run('throw new UserError("unknown", { exitCode: 3 });').code, 3);
  t.end();
});

t.test("whatever else is thrown is a bug: 70, and where it was", (t) => {
  t.match(run("undefined.length;"), {
    code: 70,
    err: /^test: internal error: TypeError: .*\n +at /,
  });
  t.match(run("void Promise.reject(new Error('later')); await new Promise(setImmediate);"), {
    code: 70,
    err: /internal error: Error: later/,
  });
  t.match(run("setImmediate(() => { throw new RangeError('x'); });"), { code: 70 });
  t.equal(run("").code, 0);
  t.end();
});
