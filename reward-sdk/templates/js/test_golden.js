// Judges the cases of golden.jsonl without WASM: `node test_golden.js`. `r1ctl plugin test` judges the same cases in the built component.
import { readFileSync } from "node:fs";
import { configured, judged } from "./judge.js";

const lines = readFileSync("golden.jsonl", "utf8").split("\n").filter((line) => line.trim() && !line.startsWith("//"));
if (!lines.length) throw new Error("no cases");
for (const line of lines) {
  const { case: name, config = {}, prompt = "", completion: text, reference = null, tokens = 0, finish = "stop", meta, expect } = JSON.parse(line);
  const found = judged({ id: 0, prompt, text, reference, tokens, finish, meta: meta ?? {} }, configured(JSON.stringify(config)));
  const verdict = found.unscorable === undefined ? "score" : "abstain";
  const right =
    verdict === (expect.verdict ?? "score") &&
    (found.unscorable ?? found.reason ?? "").includes(expect.reason ?? "") &&
    (expect.score === undefined || found.value === expect.score) &&
    (expect.parts === undefined || JSON.stringify(found.parts) === JSON.stringify(expect.parts));
  if (!right) throw new Error(`${name}: ${JSON.stringify(found)}`);
}
console.log(`${lines.length} cases`);
