// Configuration and result in one form, with errors that name the key. Nothing here needs a change.
import { defaults, score, Unscorable } from "./score.js";

// Throws a string: what the job's `config` table is refused for.
export function configured(json) {
  let table;
  try {
    table = JSON.parse(json || "{}");
  } catch (error) {
    throw `the configuration is no JSON: ${error.message}`;
  }
  for (const [key, value] of Object.entries(table)) {
    if (!Object.hasOwn(defaults, key)) throw `unknown key \`${key}\`; known: ${Object.keys(defaults).join(", ")}`;
    if (typeof value !== typeof defaults[key]) throw `\`${key}\` is ${JSON.stringify(value)}: write a value of type ${typeof defaults[key]}`;
  }
  return { ...defaults, ...table };
}

export function judged(completion, config) {
  try {
    const result = score(completion, config);
    return { parts: [], reason: null, ...(typeof result === "number" ? { value: result } : result) };
  } catch (error) {
    if (error instanceof Unscorable) return { unscorable: error.message };
    throw error;
  }
}
