"""{{name}}: 1 when the answer is brief, else 0. Yours to write: what the reward is called, its
configuration, and `score`."""

from dataclasses import dataclass

NAME, VERSION = "{{name}}", "0.1.0"
# Every score is between these two; a fault (a trap, no more fuel) scores the first.
MIN, MAX = 0.0, 1.0
# Names of the parts of a score, where it has some.
PARTS = []


class Unscorable(Exception):
    """The row's reference is unusable: the sample is left out of training, never scored 0."""


@dataclass
class Config:
    """The reward's `config` table in the job file. Every key has a default; its type is the type
    that a job must give."""

    words_max: int = 200


def score(completion, config):
    """The score, or (score, reason), or (score, reason, parts). A function of these two alone:
    there is no clock, chance, file or network here.

    `completion` has `id`, `prompt`, `text` (all after the prompt), `reference` (`None` where the
    row has none), `tokens` (length of the text), `finish` (`"stop"`, `"length"` or `"aborted"`) and
    `meta` (the row's other columns, a dict)."""
    if completion.reference is None:
        raise Unscorable("no reference")
    words = len(completion.text.split())
    if words > config.words_max:
        return 0.0, f"{words} words"
    return 1.0 if completion.reference in completion.text else 0.0
