"""The component's exports, made of `score.py`. Nothing here needs a change."""

import json
from types import SimpleNamespace

import score as reward
from componentize_py_types import Err
from wit_world import WitWorld as World
from wit_world.imports import types as wit

from config import Refused, configured

_config = None


class WitWorld(World):
    def describe(self):
        return wit.Info(
            reward.NAME, reward.VERSION, float(reward.MIN), float(reward.MAX), list(reward.PARTS)
        )

    def configure(self, json):
        global _config
        try:
            _config = configured(reward.Config, json)
        except Refused as error:
            raise Err(str(error)) from None

    def score(self, item):
        completion = SimpleNamespace(
            id=item.id, prompt=item.prompt, text=item.text, reference=item.reference, tokens=item.tokens, finish=item.finish.name.lower(),
            meta=json.loads(item.meta) if item.meta else {},
        )  # fmt: skip
        try:
            result = reward.score(completion, _config)
        except reward.Unscorable as error:
            raise Err(wit.Error_Unscorable(str(error))) from None
        value, reason, parts = (
            (*result, None, [])[:3] if isinstance(result, tuple) else (result, None, [])
        )
        return wit.Score(float(value), [float(part) for part in parts or []], reason)
