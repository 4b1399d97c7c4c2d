// The component's exports, made of score.js. Nothing here needs a change.
import { configured, judged } from "./judge.js";
import { info } from "./score.js";

let config;

export function describe() {
  return info;
}

export function configure(json) {
  config = configured(json);
}

export function score(item) {
  const { value, parts, reason, unscorable } = judged({ ...item, meta: item.meta ? JSON.parse(item.meta) : {} }, config);
  if (unscorable !== undefined) throw { tag: "unscorable", val: unscorable };
  return { value, parts, reason };
}
