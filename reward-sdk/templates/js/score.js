// {{name}}: 1 when the answer is brief, else 0. Yours to write: what the reward is called, its configuration, and `score`.

// Every score is between min and max; a fault (a trap, no more fuel) scores min. `parts` names the parts of a score, where it has some.
export const info = { name: "{{name}}", version: "0.1.0", min: 0, max: 1, parts: [] };

// The reward's `config` table in the job file. A job's value must be of the type of the default.
export const defaults = { words_max: 200 };

// Throw it when the row's reference is unusable: the sample is left out of training, never scored 0.
export class Unscorable extends Error {}

// The score, or { value, reason, parts }. A function of these two alone: there is no clock, chance, file or network here.
//
// `completion` has `id`, `prompt`, `text` (all after the prompt), `reference` (null where the row has none), `tokens` (length of the text), `finish`
// ("stop", "length" or "aborted") and `meta` (the row's other columns, an object).
export function score(completion, config) {
  if (completion.reference === null) throw new Unscorable("no reference");
  const words = completion.text.split(/\s+/).filter(Boolean).length;
  if (words > config.words_max) return { value: 0, reason: `${words} words` };
  return completion.text.includes(completion.reference) ? 1 : 0;
}
