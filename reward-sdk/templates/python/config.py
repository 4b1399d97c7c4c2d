"""The job's `config` table as an object, with errors that name the key. Nothing here needs a
change."""

import json
from dataclasses import fields


class Refused(ValueError):
    pass


def configured(cls, text):
    try:
        table = json.loads(text or "{}")
    except ValueError as error:
        raise Refused(f"the configuration is no JSON: {error}") from None
    known = {field.name: field.type for field in fields(cls)}
    for key, value in table.items():
        if key not in known:
            raise Refused(f"unknown key `{key}`; known: {', '.join(known)}")
        kind = known[key]
        if kind is float and type(value) is int:
            table[key] = float(value)
        elif isinstance(kind, type) and type(value) is not kind:
            raise Refused(f"`{key}` is {value!r}: write a value of type {kind.__name__}")
    return cls(**table)
